//! The benchmark: how many deliveries a second, at which cost, beside a bare loop of the same parts on the same broker,
//! receiver and machine, in the same run. `make bench` runs all of it; what its figures mean is in docs/performance.md.
//!
//! `ROUNDS=5` rounds are interleaved; `CASES="bare loop;latency"` picks some; `SETTLED`, `WAITING` and `ENVIRONMENTS` set how
//! large the large ledgers are.

mod backlog;
mod bare;
mod case;
mod child;
mod event;
mod latency;
mod receiver;
mod report;
mod round;
mod scene;

use std::path::Path;
use std::str::FromStr;

use anyhow::Context as _;

use crate::case::{BARE, Case, ONE_SUBSCRIPTION};
use crate::report::Results;
use crate::scene::{Scene, Sizes};

/// Messages in the queue while a worker's memory is measured.
const QUEUED: [u64; 2] = [10_000, 1_000_000];
const LATENCY: &str = "latency";
const MEMORY: &str = "memory";

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["receiver"] => receiver::run(),
        ["bare", amqp_url, queue, target] => bare::run(amqp_url, queue, target),
        // As a test of nothing, so that `cargo test --all-targets` passes over it.
        _ if !args.contains(&"--bench") => Ok(()),
        _ => tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()?
            .block_on(measure()),
    }
}

async fn measure() -> anyhow::Result<()> {
    let rounds: usize = setting("ROUNDS", 5)?;
    let wanted: String = setting("CASES", String::new())?;
    let is_wanted = |name: &str| wanted.is_empty() || wanted.split(';').any(|one| one == name);
    let sizes = Sizes {
        settled: setting("SETTLED", 50_000_000)?,
        waiting: setting("WAITING", 1_000_000)?,
        environments: setting("ENVIRONMENTS", 10_000)?,
    };
    let mut scene = Scene::set_up(sizes).await?;
    let cases = case::all();
    let find = |name: &str| cases.iter().find(|case| case.name == name);
    let (bare, one) = find(BARE).zip(find(ONE_SUBSCRIPTION)).context("cases")?;
    let mut results = Results {
        throughput: cases
            .iter()
            .filter(|case| is_wanted(case.name))
            .map(|case| (*case, Vec::new()))
            .collect(),
        ..Results::default()
    };

    for (case, _) in &results.throughput {
        scene.ledger(case.ledger).await?;
    }
    for round in 1..=rounds {
        for (case, figures) in &mut results.throughput {
            let of_round = round::run(&mut scene, case).await?;
            eprintln!(
                "bench: round {round} of {rounds}, {}: {:.0} deliveries/s, {:.1} µs each",
                case.name, of_round.deliveries_per_second, of_round.sender_us
            );
            figures.push(of_round);
        }
    }
    if is_wanted(LATENCY)
        && let Some(top) = results.rate(ONE_SUBSCRIPTION)
    {
        results.latency_rate = top / 2.0;
        measure_latency(&mut scene, [bare, one], rounds, &mut results).await?;
    }
    if is_wanted(MEMORY) {
        for queued in QUEUED {
            eprintln!("bench: memory, {queued} messages in the queue");
            let peaks = backlog::run(&mut scene, one, queued, rounds).await?;
            results.memory.push((queued, peaks));
        }
    }
    write(&results)
}

async fn measure_latency(
    scene: &mut Scene,
    cases: [&Case; 2],
    rounds: usize,
    results: &mut Results,
) -> anyhow::Result<()> {
    let mut latencies = cases.map(|case| (case.name, Vec::new()));
    for round in 1..=rounds {
        for (case, (name, of_case)) in cases.iter().zip(&mut latencies) {
            let latency = latency::run(scene, case, results.latency_rate).await?;
            eprintln!("bench: round {round} of {rounds}, latency, {name}: {latency:?}");
            of_case.push(latency);
        }
    }
    results.latency = latencies.into();
    Ok(())
}

/// A setting from the environment.
fn setting<T: FromStr>(name: &str, default: T) -> anyhow::Result<T>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    match std::env::var(name) {
        Ok(text) if !text.is_empty() => text
            .parse()
            .with_context(|| format!("{name}={text} can't be read")),
        _ => Ok(default),
    }
}

#[allow(clippy::print_stdout, reason = "the table is the result")]
fn write(results: &Results) -> anyhow::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bench");
    std::fs::create_dir_all(&folder)?;
    let tables = results.tables();
    std::fs::write(folder.join("tables.md"), &tables)?;
    let json = serde_json::to_string_pretty(&results.json())?;
    std::fs::write(folder.join("rounds.json"), json)?;
    println!("{tables}");
    eprintln!("bench: all rounds are in target/bench/rounds.json");
    Ok(())
}

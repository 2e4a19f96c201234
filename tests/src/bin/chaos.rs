//! `chaos`: two workers under steady load, and one fault after another for as long as one likes; then everything comes
//! to rest, and what the product promises is counted. Exit code 1 if a promise was broken.
//!
//! From the environment: `SEED` (settles all that happens), `FAULTS` (how many, 200 by default), `MODE`: `faults`,
//! `servers` (none of the workers'), `brief` (none that takes long to mend) or `restarts` (orderly ones of the workers
//! alone: nothing may come twice). It ends its own
//! processes only, also at Ctrl-C. How long it takes is bounded: each fault, its mending and the rest have limits.

#[path = "chaos/crew.rs"]
mod crew;
#[path = "chaos/load.rs"]
mod load;
#[path = "chaos/plan.rs"]
mod plan;
#[path = "chaos/report.rs"]
mod report;
#[path = "chaos/scene.rs"]
mod scene;
#[path = "chaos/witness.rs"]
mod witness;

use std::env;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail, ensure};
use tests::process::interrupted;
use tests::publish::Broker;
use tests::servers::{Postgres, RabbitMq, connect};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use load::Load;
use plan::{Mode, Step, plan};
use report::{Effect, Ending, Report};
use scene::Scene;
use witness::Witness;

const FAULTS_DEFAULT: usize = 200;
/// From a fault's mending to two workers that are ready; starting and a pause of 10 s between two tries are in it.
const RECOVERY_LIMIT: Duration = Duration::from_secs(60);
/// From the last event to the last delivery: leases end, circuits close, backlogs are worked off.
const REST_LIMIT: Duration = Duration::from_secs(240);
const REST_LOOK_EVERY: Duration = Duration::from_millis(500);
/// The processor time at rest is taken over this.
const REST_MEASURED: Duration = Duration::from_secs(3);
/// What can't be told from a hang.
const PER_FAULT_LIMIT: Duration = Duration::from_secs(150);

/// What was asked for.
#[derive(Clone, Copy)]
struct Orders {
    seed: u64,
    faults: usize,
    mode: Mode,
}

#[tokio::main]
async fn main() -> ExitCode {
    let orders = match Orders::read() {
        Ok(orders) => orders,
        Err(error) => {
            eprintln!("chaos: {error:#}");
            return ExitCode::from(2);
        }
    };
    if RabbitMq::installed().is_none() || Postgres::installed().is_none() {
        eprintln!(
            "chaos: RabbitMQ and PostgreSQL must be installed here (scripts/install-servers): they are to be killed"
        );
        return ExitCode::from(2);
    }
    eprintln!(
        "chaos: SEED={} FAULTS={} MODE={:?}",
        orders.seed, orders.faults, orders.mode
    );
    // A task, so that a kit that can't do its part (it panics then) still ends with the seed.
    // On this thread: the kit's futures stay where they are.
    let local = LocalSet::new();
    let mut running = JoinSet::new();
    running.spawn_local_on(run(orders), &local);
    let ended = local.run_until(async {
        tokio::select! {
            ended = running.join_next() => Ok(ended),
            code = interrupted() => {
                eprintln!("chaos: interrupted; ending what was started");
                running.shutdown().await;
                Err(code)
            }
        }
    });
    let ended = match ended.await {
        Ok(ended) => ended,
        Err(code) => return code,
    };
    match ended {
        Some(Ok(Ok(broken))) if broken.is_empty() => {
            eprintln!("chaos: every promise was kept (SEED={})", orders.seed);
            ExitCode::SUCCESS
        }
        Some(Ok(Ok(broken))) => {
            for what in broken {
                eprintln!("chaos: BROKEN: {what}");
            }
            eprintln!("chaos: SEED={} FAULTS={}", orders.seed, orders.faults);
            ExitCode::FAILURE
        }
        Some(Ok(Err(error))) => {
            eprintln!(
                "chaos: BROKEN: {error:#} (SEED={} FAULTS={})",
                orders.seed, orders.faults
            );
            ExitCode::FAILURE
        }
        _ => {
            eprintln!(
                "chaos: it could not go on (SEED={} FAULTS={})",
                orders.seed, orders.faults
            );
            ExitCode::FAILURE
        }
    }
}

impl Orders {
    fn read() -> anyhow::Result<Self> {
        let number = |name: &str| {
            let text = env::var(name).unwrap_or_default();
            let wrong = || format!("{name} must be a number, not {text:?}");
            let given = (!text.is_empty()).then(|| text.parse::<u64>());
            given.transpose().with_context(wrong)
        };
        let seconds = || {
            let since = SystemTime::now().duration_since(UNIX_EPOCH);
            since.map_or(0, |since| since.as_secs())
        };
        let faults = number("FAULTS")?.map(usize::try_from).transpose()?;
        Ok(Self {
            seed: number("SEED")?.unwrap_or_else(seconds),
            faults: faults.unwrap_or(FAULTS_DEFAULT),
            mode: match env::var("MODE").unwrap_or_default().as_str() {
                "" | "faults" => Mode::Faults,
                "servers" => Mode::Servers,
                "brief" => Mode::Brief,
                "restarts" => Mode::Restarts,
                other => bail!("MODE is faults, servers, brief or restarts, not {other:?}"),
            },
        })
    }
}

/// Returns what was promised and isn't so.
async fn run(orders: Orders) -> anyhow::Result<Vec<String>> {
    let begun = Instant::now();
    let (witness, receiver) = Witness::start();
    let logs = folder_of_logs(orders.seed)?;
    let mut scene = Scene::set_up(&receiver, logs).await?;
    let load = Load::default();
    let stop = CancellationToken::new();
    let mut producing = JoinSet::new();
    producing.spawn(load.clone().run(scene.rabbitmq.amqp_url(), stop.clone()));

    let mut report = Report::new();
    let steps = plan(orders.seed, orders.faults, orders.mode);
    let mut outcome = Ok(());
    for (n, step) in steps.iter().enumerate() {
        let limited = tokio::time::timeout(
            PER_FAULT_LIMIT,
            one_fault(
                n + 1,
                steps.len(),
                step,
                &mut scene,
                &witness,
                &load,
                &mut report,
            ),
        );
        outcome = limited.await.context("it hangs").and_then(|done| done);
        if let Err(error) = outcome {
            let name = step.fault.name();
            outcome = Err(error.context(format!("fault {}, {name}", n + 1)));
            break;
        }
    }
    if outcome.is_ok() {
        witness.set_mood(plan::Mood::Well);
        stop.cancel();
        producing.join_next().await;
        outcome = finish(&mut scene, &load, &witness, &mut report, orders.mode).await;
    }
    let logs = scene.crew.keep_logs().display().to_string();
    print(&report.faults());
    let took = begun.elapsed().as_secs();
    print(&format!(
        "{} min {} s; the workers' logs: {logs}\n",
        took / 60,
        took % 60
    ));
    outcome?;
    Ok(report.broken)
}

async fn one_fault(
    number: usize,
    of: usize,
    step: &Step,
    scene: &mut Scene,
    witness: &Witness,
    load: &Load,
    report: &mut Report,
) -> anyhow::Result<()> {
    sleep(step.pause).await;
    witness.set_mood(step.mood);
    let lines = scene.crew.lines();
    let before = witness.tally();
    scene.crew.forget_told();
    let begun = Instant::now();
    scene.suffer(step.fault).await?;
    let recovery = if step.settles {
        Some(scene.crew.wait_ready(RECOVERY_LIMIT).await?)
    } else {
        scene.crew.all_live()?;
        None
    };
    let after = witness.tally();
    let effect = Effect {
        recovery,
        lines: scene.crew.lines() - lines,
        repeats: after.repeated.iter().sum::<u64>() - before.repeated.iter().sum::<u64>(),
        told_unready: scene.crew.told_unready(),
    };
    report.note(number, step, &effect);
    let name = step.fault.name();
    let took = begun.elapsed().as_secs_f64();
    let accepted: u64 = after.accepted.iter().sum();
    let (events, repeats, lines) = (load.confirmed_count(), effect.repeats, effect.lines);
    let ready = recovery.map_or(String::new(), |after| {
        format!(", ready {:.1} s after", after.as_secs_f64())
    });
    eprintln!(
        "fault {number} of {of}: {name} ({took:.1} s{ready}); {events} events, {accepted} accepted, {repeats} repeats, {lines} lines"
    );
    Ok(())
}

/// Lets everything come to rest, stops the workers and judges.
async fn finish(
    scene: &mut Scene,
    load: &Load,
    witness: &Witness,
    report: &mut Report,
    mode: Mode,
) -> anyhow::Result<()> {
    let begun = Instant::now();
    let rested = come_to_rest(scene, load, witness).await;
    if let Err(error) = rested {
        // Judged all the same: the figures say what is missing.
        report.broken.push(format!("{error:#}"));
    }
    eprintln!("at rest after {:.1} s", begun.elapsed().as_secs_f64());
    let cpu = scene.crew.cpu_time();
    let measured = Instant::now();
    sleep(REST_MEASURED).await;
    let used = scene.crew.cpu_time().saturating_sub(cpu);
    let rest_cpu = used.as_secs_f64() / measured.elapsed().as_secs_f64();
    scene.crew.stop_all().await?;
    let broker = Broker::connect(&scene.rabbitmq.amqp_url()).await;
    for queue in ["postrider.events", "postrider.events.dead"] {
        let depth = broker.depth(queue).await;
        if depth > 0 {
            report
                .broken
                .push(format!("{depth} messages are left in {queue}"));
        }
    }
    let dead_copies = broker.depth("postrider.deliveries.dead").await;
    let ending = Ending {
        rest_cpu,
        dead_copies,
        mode,
    };
    let figures = report.judge(scene, load, witness, &ending).await?;
    print(&figures);
    Ok(())
}

async fn come_to_rest(scene: &mut Scene, load: &Load, witness: &Witness) -> anyhow::Result<()> {
    let begun = Instant::now();
    scene.crew.wait_ready(RECOVERY_LIMIT).await?;
    let wanted = report::wanted(&load.confirmed());
    let session = connect(&scene.database()).await;
    let broker = Broker::connect(&scene.rabbitmq.amqp_url()).await;
    loop {
        let missing = witness.lacking(&wanted).len();
        let waiting: i64 = session
            .query_one("SELECT count(*) FROM deliveries_waiting", &[])
            .await?
            .get(0);
        let queued = broker.depth("postrider.events").await;
        if missing == 0 && waiting == 0 && queued == 0 {
            return Ok(());
        }
        ensure!(
            begun.elapsed() < REST_LIMIT,
            "no rest within {REST_LIMIT:?}: {missing} not accepted, {waiting} wait in the ledger, {queued} in the queue"
        );
        sleep(REST_LOOK_EVERY).await;
    }
}

fn folder_of_logs(seed: u64) -> anyhow::Result<PathBuf> {
    let program = env::current_exe()?;
    let target = program.ancestors().nth(2).context("no target folder")?;
    let folder = target.join("chaos").join(seed.to_string());
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}

#[expect(clippy::print_stdout, reason = "the result is this program's output")]
fn print(text: &str) {
    println!("{text}");
}

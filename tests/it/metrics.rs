//! What `/metrics` exposes: every series of the catalogue from the start, none besides, and in a form that Prometheus's own
//! tool finds nothing to say about.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::process::{Command, Stdio};

use tests::receiver::Reply;
use tests::wait::wait_until;
use webhook::DeliveryStatus;
use worker::metrics::{CATALOGUE, Kind, PROCESS, Values};

use crate::world::{DEAD_DELIVERIES, DEAD_EVENTS, EVENTS, SOON, World, request_id};

/// Name and labels of each series, and its value.
fn series(text: &str) -> BTreeMap<&str, f64> {
    text.lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| {
            let (series, value) = line.rsplit_once(' ').unwrap();
            (series, value.parse().unwrap())
        })
        .collect()
}

/// Every series that the catalogue promises, histograms by their `_count`.
fn promised() -> BTreeSet<String> {
    let mut promised = BTreeSet::new();
    for metric in CATALOGUE {
        let mut all = vec![String::new()];
        for label in metric.labels {
            let values = match &label.values {
                Values::Words(words) => words(),
                Values::Named(_) if label.name == "version" => vec![env!("CARGO_PKG_VERSION")],
                Values::Named(_) => vec![EVENTS, DEAD_EVENTS, DEAD_DELIVERIES],
            };
            all = all
                .iter()
                .flat_map(|before| {
                    values.iter().map(move |value| {
                        let comma = if before.is_empty() { "" } else { "," };
                        format!("{before}{comma}{}=\"{value}\"", label.name)
                    })
                })
                .collect();
        }
        let suffix = match metric.kind {
            Kind::Histogram => "_count",
            Kind::Counter | Kind::Gauge => "",
        };
        promised.extend(all.iter().map(|labels| match labels.as_str() {
            "" => format!("{}{suffix}", metric.name),
            labels => format!("{}{suffix}{{{labels}}}", metric.name),
        }));
    }
    promised.extend(PROCESS.iter().map(|(name, ..)| (*name).to_owned()));
    promised
}

/// The same of what is exposed: without the buckets and sums of histograms.
fn exposed(text: &str) -> BTreeSet<String> {
    let part = |name: &&str| name.contains("_bucket{") || name.ends_with("_sum");
    let names = series(text).into_keys().filter(|name| !part(name));
    names.map(str::to_owned).collect()
}

#[tokio::test]
async fn every_series_is_there_from_the_start_and_none_comes_up_later() {
    let world = World::new("metrics").await;
    let webhook_id = world.subscribe("/hook").await;
    world
        .receiver
        .script("/hook", [Reply::status(503), Reply::status(200)]);
    let worker = world.worker().await;

    let text = worker.metrics().await;
    assert_eq!(exposed(&text), promised());
    for (series, value) in series(&text) {
        let counts = series.contains("_total") || series.contains("_count");
        assert!(
            !counts || value == 0.0 || series.starts_with("process_"),
            "{series} {value}"
        );
    }

    world.publish("card-published", "ev-1").await;
    world.publish("nobody-wants-it", "ev-2").await;
    world.publish_raw(b"no event").await;
    world.take(DEAD_EVENTS).await;
    world
        .wait_status(request_id(&webhook_id, "ev-1"), DeliveryStatus::Delivered)
        .await;

    for (counted, value) in [
        (r#"postrider_attempts_total{outcome="http_status"}"#, 1.0),
        (r#"postrider_dead_letters_total{reason="not_json"}"#, 1.0),
        (
            r#"postrider_publications_total{what="no_event",result="confirmed"}"#,
            1.0,
        ),
        ("postrider_publication_duration_seconds_count", 1.0),
        (r#"postrider_serves{part="worker"}"#, 1.0),
        (r#"postrider_serves{part="api"}"#, 0.0),
        ("postrider_ready", 1.0),
        ("postrider_ledger_partitions_ahead", 7.0),
    ] {
        wait_until(SOON, &format!("{counted} {value}"), async || {
            let text = worker.metrics().await;
            (series(&text).get(counted) == Some(&value)).then_some(())
        })
        .await;
    }
    assert_eq!(exposed(&worker.metrics().await), promised());
}

#[tokio::test]
async fn each_help_text_is_the_catalogue_s_and_promtool_has_nothing_to_say() {
    let world = World::new("metrics_help").await;
    let worker = world.worker().await;

    let text = worker.metrics().await;

    let ours = CATALOGUE.iter().map(|metric| (metric.name, metric.help));
    let process = PROCESS.iter().map(|(name, _, help, _)| (*name, *help));
    let helps: BTreeMap<&str, &str> = ours.chain(process).collect();
    let exposed: BTreeMap<&str, &str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# HELP ")?.split_once(' '))
        .collect();
    assert_eq!(exposed, helps);
    let types: BTreeMap<&str, &str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .collect();
    for metric in CATALOGUE {
        assert_eq!(types[metric.name], metric.kind.as_str(), "{}", metric.name);
    }

    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is here: scripts/install-prometheus");
    promtool
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let said = promtool.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&said.stderr);
    assert!(said.status.success() && errors.is_empty(), "{errors}");
}

#[tokio::test]
async fn a_day_that_has_no_partition_is_told() {
    let world = World::new("metrics_partitions").await;
    let worker = world.worker().await;
    let day: String = world
        .sql
        .query_one(
            "SELECT to_char((now() AT TIME ZONE 'UTC')::date + 3, 'YYYYMMDD')",
            &[],
        )
        .await
        .unwrap()
        .get(0);

    world
        .sql
        .batch_execute(&format!("DROP TABLE attempts_{day}"))
        .await
        .unwrap();

    wait_until(SOON, "two days ahead", async || {
        (worker
            .metric("postrider_ledger_partitions_ahead", &[])
            .await
            == 2.0)
            .then_some(())
    })
    .await;
}

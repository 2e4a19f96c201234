//! What befell other senders of webhooks and is held by no other file here, and the table of all of it in
//! `docs/reliability.md`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lapin::options::QueueDeleteOptions;
use tests::postrider::Postrider;
use tests::proxy::Proxy;
use tests::receiver::Reply;
use tests::servers::Servers;
use tests::wait::wait_until;
use webhook::DeliveryStatus;

use crate::world::{DEAD_EVENTS, EVENTS, SOON, World, request_id, test_settings};

/// A silent connection is noticed by its heartbeat, of 10 s, within two of them; then come a pause and a new one.
const SILENCE_NOTICED: Duration = Duration::from_secs(60);

/// Requests that hang hold neither a transaction nor a lock, whether they come from a message or from the ledger.
#[tokio::test]
async fn no_transaction_is_open_while_requests_hang() {
    const DELIVERIES: usize = 6;
    let world = World::new("hanging").await;
    world.subscribe("/hook").await;
    let failures = std::iter::repeat_with(|| Reply::status(503)).take(DELIVERIES);
    let hangs = std::iter::repeat_with(Reply::hang).take(2 * DELIVERIES);
    world.receiver.script("/hook", failures.chain(hangs));
    // Beyond what the test waits for anything.
    let mut worker = world
        .worker_with(&[("POSTRIDER__DELIVERY__TIMEOUT", "60s")])
        .await;

    for n in 0..DELIVERIES {
        world
            .publish("card-published", &format!("retried-{n}"))
            .await;
    }
    world.receiver.wait_for(2 * DELIVERIES, "/hook", SOON).await;
    for n in 0..DELIVERIES {
        world.publish("card-published", &format!("fresh-{n}")).await;
    }
    world.receiver.wait_for(3 * DELIVERIES, "/hook", SOON).await;

    let in_flight = worker.metric("postrider_attempts_in_flight", &[]).await;
    assert_eq!(in_flight, (2 * DELIVERIES) as f64);
    let waiting = "SELECT count(*) FROM deliveries_waiting WHERE lease_id IS NOT NULL";
    wait_until(SOON, "all to be handed off", async || {
        (world.number(waiting).await == 2 * DELIVERIES as i64).then_some(())
    })
    .await;
    wait_until(SOON, "no transaction to be open", async || {
        let open = world
            .number(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                 AND pid <> pg_backend_pid() AND xact_start IS NOT NULL",
            )
            .await;
        (open == 0).then_some(())
    })
    .await;
    worker.kill();
}

/// A network that swallows everything closes no connection; nobody restarts the worker.
#[tokio::test]
async fn a_broker_that_falls_silent_without_closing_is_left_and_consumed_anew() {
    let world = World::new("silent").await;
    world.subscribe("/hook").await;
    let servers = Servers::shared().await;
    let proxy = Proxy::start(servers.amqp_address()).await;
    let through = proxy.instead_in(&world.stage.amqp_url);
    let settings = test_settings(&through, &world.stage.postgres_url);
    let mut worker = Postrider::start(&["worker"], &settings);
    worker.wait_ready(SOON).await;
    let connected = async |wanted: f64| {
        (worker.metric("postrider_amqp_connected", &[]).await == wanted).then_some(())
    };
    wait_until(SOON, "the gauge to say so", async || connected(1.0).await).await;

    proxy.freeze(true);
    world.publish("card-published", "ev-1").await;
    wait_until(SILENCE_NOTICED, "the silence to be noticed", async || {
        connected(0.0).await
    })
    .await;
    assert_eq!(world.receiver.count("/hook"), 0);
    proxy.freeze(false);

    world.receiver.wait_for(1, "/hook", SILENCE_NOTICED).await;
    assert!(worker.exit_status().is_none());
}

/// As after a broker that lost its data: what a worker declared at its start isn't there for ever.
#[tokio::test]
async fn queues_that_are_gone_are_declared_again_and_consumed() {
    let world = World::new("gone").await;
    let webhook_id = world.subscribe("/hook").await;
    let mut worker = world.worker().await;

    let channel = world.broker.channel().await;
    for queue in [DEAD_EVENTS, EVENTS] {
        channel
            .queue_delete(queue.into(), QueueDeleteOptions::default())
            .await
            .unwrap();
    }
    for queue in [DEAD_EVENTS, EVENTS] {
        wait_until(SOON, &format!("{queue} to be there again"), async || {
            world.broker.find_depth(queue).await
        })
        .await;
    }
    // Bound and consumed, too.
    worker.wait_ready(SOON).await;
    world.publish("card-published", "ev-1").await;

    world
        .wait_status(request_id(&webhook_id, "ev-1"), DeliveryStatus::Delivered)
        .await;
    world.stop_with_all_acked(&mut worker).await;
}

#[test]
fn every_test_that_the_table_of_what_befell_others_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let document = fs::read_to_string(root.join("docs/reliability.md")).unwrap();
    let section = document
        .split("\n## ")
        .find(|section| section.starts_with("What befell others"))
        .expect("the section");
    let rows: Vec<Vec<&str>> = section
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| what befell them"))
        .map(|line| line.trim_matches('|').split(" | ").collect())
        .collect();
    assert!(rows.len() > 30, "the table has {} rows", rows.len());

    let tests = tests_in(&[root.join("crates"), root.join("tests")]);
    for row in rows {
        let [failure, _, held_by] = row[..] else {
            panic!("not three columns: {row:?}");
        };
        let names: Vec<&str> = held_by.split('`').skip(1).step_by(2).collect();
        let says_why = held_by.trim().starts_with("no test: ");
        assert!(says_why || !names.is_empty(), "held by nothing: {failure}");
        for name in names {
            assert!(tests.contains(name), "no such test: {name}");
        }
    }
}

/// The names of all functions under a `#[test]` of any kind, those of proptest included.
fn tests_in(folders: &[PathBuf]) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut folders = folders.to_vec();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(path).unwrap();
                let attributes = text.match_indices("test").map(|(at, word)| at + word.len());
                names.extend(attributes.filter_map(|at| test_after(&text[at..])));
            }
        }
    }
    names
}

/// The function that an attribute ending in `test]` or `test(…)]` stands before.
fn test_after(text: &str) -> Option<String> {
    let attribute = text.split('\n').next()?;
    let is_attribute = attribute.starts_with(']') || attribute.starts_with('(');
    if !is_attribute || !attribute.ends_with(']') {
        return None;
    }
    let mut lines = text.lines().skip(1).map(str::trim);
    let line = lines.find(|line| !line.starts_with("#[") && !line.starts_with("//"))?;
    let (_, name) = line.split_once("fn ")?;
    Some(name.split('(').next()?.to_owned())
}

//! Ten thousand events through one worker: all of them, each once, and again with the worker killed on the way.

use std::time::Duration;

use tests::postrider::Postrider;
use tests::wait::wait_until;

use crate::world::{DEAD_EVENTS, EVENTS, EXCHANGE, World, message};

const EVENTS_COUNT: usize = 10_000;
/// For all of them, with an unoptimised worker on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);

/// What the killed worker had claimed comes again when its lease ends, 20 s after the limit on an attempt.
const LEASE_OF_22_S: [(&str, &str); 1] = [("POSTRIDER__DELIVERY__TIMEOUT", "2s")];

async fn publish_all(world: &World) {
    let messages = (0..EVENTS_COUNT).map(|n| {
        (
            "card-published",
            message("card-published", &format!("ev-{n}")),
        )
    });
    world.broker.publish_all(EXCHANGE, messages).await;
}

/// The queue is empty, and every delivery stands as delivered.
async fn assert_all_delivered(world: &World, worker: &mut Postrider) {
    wait_until(LIMIT, "all in the ledger", async || {
        let delivered = world
            .number("SELECT count(DISTINCT request_id) FROM deliveries WHERE status = 'delivered'")
            .await;
        (delivered == EVENTS_COUNT as i64).then_some(())
    })
    .await;
    world.stop_with_all_acked(worker).await;
    for table in [
        "deliveries_waiting",
        "payloads_waiting",
        "attempts_waiting",
        "outbox",
    ] {
        assert_eq!(
            world.number(&format!("SELECT count(*) FROM {table}")).await,
            0,
            "{table}"
        );
    }
    assert_eq!(world.broker.depth(DEAD_EVENTS).await, 0);
}

#[tokio::test]
async fn ten_thousand_events_are_each_delivered_once() {
    let world = World::counting("ten_thousand").await;
    world.subscribe("/hook").await;
    publish_all(&world).await;
    let mut worker = world.worker().await;

    world
        .receiver
        .wait_for_distinct(EVENTS_COUNT, "/hook", LIMIT)
        .await;

    let memory = worker.peak_memory_bytes();
    assert_all_delivered(&world, &mut worker).await;
    assert_eq!(world.receiver.count("/hook"), EVENTS_COUNT as u64);
    assert_eq!(
        world.number("SELECT count(*) FROM attempts").await,
        EVENTS_COUNT as i64
    );
    eprintln!(
        "peak memory of the worker: {:.1} MiB",
        memory as f64 / f64::from(1 << 20)
    );
}

#[tokio::test]
async fn a_worker_killed_in_the_midst_of_ten_thousand_events_loses_none() {
    let world = World::counting("killed_in_the_midst").await;
    world.subscribe("/hook").await;
    publish_all(&world).await;
    let mut first = world.worker_with(&LEASE_OF_22_S).await;

    world
        .receiver
        .wait_for_count(EVENTS_COUNT as u64 / 3, "/hook", LIMIT)
        .await;
    first.kill();
    let before = world.receiver.count("/hook");
    assert!(before < EVENTS_COUNT as u64, "killed too late");
    let mut second = world.worker_with(&LEASE_OF_22_S).await;

    world
        .receiver
        .wait_for_distinct(EVENTS_COUNT, "/hook", LIMIT)
        .await;
    assert_all_delivered(&world, &mut second).await;
    let counts = world.receiver.counts_by_id("/hook");
    assert_eq!(counts.len(), EVENTS_COUNT);
    let duplicates = world.receiver.count("/hook") - EVENTS_COUNT as u64;
    eprintln!("killed after {before} requests: {duplicates} requests came twice");
    // No more than what the killed worker had in its hands: amqp.prefetch and delivery.in_flight_max.
    assert!(duplicates <= 2000, "{duplicates} duplicates");
    assert_eq!(world.broker.depth(EVENTS).await, 0);
}

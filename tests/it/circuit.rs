//! A subscription that fails again and again gets probes only, and comes back gently.

use std::time::Duration;

use tests::postrider::Postrider;
use tests::receiver::Reply;
use tests::wait::wait_until;
use webhook::{DeliveryStatus, Status};

use crate::world::{ENV, SOON, World, request_id};

const LONG: &str = "10m";

/// Opens after five failures; a delivery has attempts enough.
async fn worker(world: &World, probe_interval: &str) -> Postrider {
    world
        .worker_with(&[
            ("POSTRIDER__CIRCUIT__FAILURES", "5"),
            ("POSTRIDER__CIRCUIT__PROBE_INTERVAL", probe_interval),
            ("POSTRIDER__RETRY__ATTEMPTS_MAX", "100"),
        ])
        .await
}

async fn wait_open(worker: &Postrider, open: f64) {
    let what = format!("{open} open circuits");
    wait_until(SOON, &what, async || {
        let found = worker.metric("postrider_circuits_open", &[]).await;
        ((found - open).abs() < 0.1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_open_circuit_lets_one_probe_through_at_a_time_and_a_success_closes_it() {
    let world = World::new("circuit").await;
    let webhook_id = world.subscribe("/hook").await;
    world.receiver.script("/hook", [Reply::status(503)]);
    let mut worker = worker(&world, "1s").await;
    for n in 0..30 {
        world.publish("card-published", &format!("ev-{n}")).await;
    }
    wait_open(&worker, 1.0).await;

    // What was in flight when it opened may still come; then one an interval at most.
    let opened = world.receiver.requests("/hook").len();
    let requests = world.receiver.wait_for(opened + 6, "/hook", SOON).await;
    let probes = &requests[requests.len() - 4..];
    for pair in probes.windows(2) {
        let gap = pair[1].at - pair[0].at;
        assert!(gap > Duration::from_millis(900), "{gap:?}");
    }

    world.receiver.script("/hook", [Reply::status(200)]);
    for n in 0..30 {
        let id = request_id(&webhook_id, &format!("ev-{n}"));
        world.wait_status(id, DeliveryStatus::Delivered).await;
    }
    wait_open(&worker, 0.0).await;
    world.stop_with_all_acked(&mut worker).await;
}

#[tokio::test]
async fn a_changed_url_closes_it_at_once() {
    let world = World::new("circuit_url").await;
    let webhook_id = world.subscribe("/dead").await;
    world.receiver.script("/dead", [Reply::status(503)]);
    let worker = worker(&world, LONG).await;
    for n in 0..20 {
        world.publish("card-published", &format!("ev-{n}")).await;
    }
    wait_open(&worker, 1.0).await;

    let stored = world.store.get(ENV, &webhook_id).await.unwrap().unwrap();
    let mut moved = stored.subscription;
    moved.url = world.receiver.url("/alive");
    world
        .store
        .change(&moved, stored.updated, u32::MAX)
        .await
        .unwrap();

    world.receiver.wait_for(20, "/alive", SOON).await;
    wait_open(&worker, 0.0).await;
}

#[tokio::test]
async fn a_resume_closes_it_and_what_else_changes_does_not() {
    let world = World::new("circuit_resume").await;
    let webhook_id = world.subscribe("/hook").await;
    world.receiver.script("/hook", [Reply::status(503)]);
    let worker = worker(&world, LONG).await;
    for n in 0..20 {
        world.publish("card-published", &format!("ev-{n}")).await;
    }
    wait_open(&worker, 1.0).await;
    world.receiver.script("/hook", [Reply::status(200)]);
    let before = world.receiver.count("/hook");

    // A neighbour of the same environment, which has its events within a second.
    world.subscribe("/other").await;
    let mut sent = 20;
    wait_until(SOON, "a request to the neighbour", async || {
        world.publish("card-published", &format!("ev-{sent}")).await;
        sent += 1;
        (world.receiver.count("/other") > 0).then_some(())
    })
    .await;
    assert_eq!(world.receiver.count("/hook"), before);

    for status in [Status::Paused, Status::Active] {
        let store = &world.store;
        store
            .set_status(ENV, &webhook_id, status, None)
            .await
            .unwrap();
    }
    for n in 0..sent {
        let id = request_id(&webhook_id, &format!("ev-{n}"));
        world.wait_status(id, DeliveryStatus::Delivered).await;
    }
    wait_open(&worker, 0.0).await;
}

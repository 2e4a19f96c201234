//! What hostile receivers, and a lack of files, do to the whole worker: nothing that others could tell.

use std::time::Duration;

use tests::hostile::Hostile;
use tests::wait::wait_until;
use webhook::{DeliveryStatus, Outcome};

use crate::world::{SOON, World, request_id, subscription};

const EVENTS: usize = 200;
/// What 200 endless bodies and, with their retries, some hundred heads of a megabyte may cost at the same time.
const MEMORY_BYTES_MAX: u64 = 48 << 20;
/// Nobody listens there; who follows it reaches nothing.
const PROXY: &str = "http://127.0.0.1:1";

#[tokio::test]
async fn endless_bodies_and_megabytes_of_heads_cost_little_memory_and_nobody_else_time() {
    let world = World::new("hostile").await;
    let endless = Hostile::start(|mut peer, _| async move {
        peer.request().await;
        peer.say("HTTP/1.1 200 OK\r\n\r\n").await;
        peer.say_for_ever(vec![b'x'; 64 * 1024]).await;
    });
    let heads = Hostile::start(|mut peer, _| async move {
        peer.request().await;
        peer.say(format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(1 << 20)))
            .await;
        peer.wait_gone().await;
    });
    let mut hostile = Vec::new();
    for receiver in [&endless, &heads] {
        let made = world.store.create(subscription(&receiver.url())).await;
        hostile.push(made.unwrap().subscription.id);
    }
    world.subscribe("/healthy").await;
    // No proxy of the environment is used, in whatever case it is written.
    let mut worker = world
        .worker_with(&[
            ("HTTP_PROXY", PROXY),
            ("http_proxy", PROXY),
            ("HTTPS_PROXY", PROXY),
            ("ALL_PROXY", PROXY),
            ("POSTRIDER__RETRY__ATTEMPTS_MAX", "2"),
            ("POSTRIDER__CIRCUIT__FAILURES", "1000000"),
        ])
        .await;
    let before = worker.peak_memory_bytes();

    for n in 0..EVENTS {
        world.publish("card-published", &format!("ev-{n}")).await;
    }

    world.receiver.wait_for(EVENTS, "/healthy", SOON).await;
    for (webhook_id, status, outcome) in [
        (&hostile[0], DeliveryStatus::Delivered, Outcome::Delivered),
        (&hostile[1], DeliveryStatus::Dead, Outcome::Protocol),
    ] {
        let view = world
            .wait_status(request_id(webhook_id, "ev-0"), status)
            .await;
        assert!(
            view.attempts
                .iter()
                .all(|attempt| attempt.outcome == outcome)
        );
    }
    wait_until(SOON, "nothing in flight", async || {
        let waiting =
            world.number("SELECT count(*) FROM deliveries_waiting WHERE lease_id IS NOT NULL");
        (waiting.await == 0).then_some(())
    })
    .await;
    let cost = worker.peak_memory_bytes() - before;
    assert!(cost < MEMORY_BYTES_MAX, "{cost} bytes");
    let once = world.receiver.counts_by_id("/healthy");
    assert!(once.len() == EVENTS && once.values().all(|count| *count == 1));
    endless.wait_all_ended(SOON).await;
    heads.wait_all_ended(SOON).await;
    world.stop_with_all_acked(&mut worker).await;
}

#[tokio::test]
async fn a_worker_that_may_open_no_more_files_goes_on_when_it_may_again_and_loses_nothing() {
    let world = World::new("open_files").await;
    let webhook_id = world.subscribe("/hook").await;
    let mut worker = world
        .worker_with(&[
            ("POSTRIDER__RETRY__ATTEMPTS_MAX", "50"),
            ("POSTRIDER__CIRCUIT__FAILURES", "1000000"),
        ])
        .await;

    // Below what it has: also a file that is closed now makes no room.
    worker.limit_open_files(3);
    for n in 0..EVENTS {
        world.publish("card-published", &format!("ev-{n}")).await;
    }
    worker
        .wait_logged("no connection can be opened", SOON)
        .await;
    worker.limit_open_files(1024);

    world
        .receiver
        .wait_for_distinct(EVENTS, "/hook", Duration::from_secs(60))
        .await;
    for n in 0..EVENTS {
        let request_id = request_id(&webhook_id, &format!("ev-{n}"));
        world
            .wait_status(request_id, DeliveryStatus::Delivered)
            .await;
    }
    world.stop_with_all_acked(&mut worker).await;
}

//! What kills the process or presses on its memory: the guilty one ends, everything else is delivered.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use hyper::Method;
use rustix::process::{Pid, Signal, kill_process};
use tests::http_call::call;
use tests::postrider::Postrider;
use tests::receiver::{Received, Receiver, Reply};
use tests::wait::wait_until;
use webhook::{DeadReason, DeliveryStatus};

use crate::world::{
    DEAD_EVENTS, ENV, EVENTS, EXCHANGE, SOON, World, message, message_of, request_id,
};

/// For what has to go through many rounds of crashes.
const LONG: Duration = Duration::from_secs(150);

const HEALTHY_COUNT: usize = 500;
const GUILTY: &str = "ev-guilty";

/// A worker that is started again whenever it has died.
fn started_again(world: &World, settings: &[(&str, &str)], worker: &mut Postrider) -> bool {
    if worker.exit_status().is_none() {
        return false;
    }
    *worker = Postrider::start(&["worker"], &world.environment(settings));
    true
}

#[tokio::test]
async fn a_message_that_kills_the_process_ends_alone_among_the_dead() {
    let world = World::counting("poison_message").await;
    world.subscribe("/hook").await;
    let events = (0..=HEALTHY_COUNT).map(|n| match n {
        40 => ("card-published", message("card-published", GUILTY)),
        _ => (
            "card-published",
            message("card-published", &format!("ev-{n}")),
        ),
    });
    world.broker.publish_all(EXCHANGE, events).await;
    let settings = [
        ("POSTRIDER_TEST_POISON", GUILTY),
        // What is redelivered waits a second more than this.
        ("POSTRIDER__DELIVERY__HANDOFF_AFTER", "100ms"),
    ];
    let mut worker = Postrider::start(&["worker"], &world.environment(&settings));

    let mut deaths = 0;
    let letter = wait_until(LONG, "the guilty one's end", async || {
        deaths += u32::from(started_again(&world, &settings, &mut worker));
        world.broker.take(DEAD_EVENTS).await
    })
    .await;
    // The letter may be seen before the death that led to it.
    wait_until(SOON, "a worker that is ready", async || {
        deaths += u32::from(started_again(&world, &settings, &mut worker));
        let url = format!("http://{}/readyz", worker.admin());
        let answer = call(Method::GET, &url).await.ok()?;
        (answer.status == 200).then_some(())
    })
    .await;
    world
        .receiver
        .wait_for_distinct(HEALTHY_COUNT, "/hook", LONG)
        .await;

    eprintln!("the worker died {deaths} times");
    assert!(deaths <= 51, "50 redeliveries are its limit");
    assert_eq!(letter.body, message("card-published", GUILTY));
    assert!(letter.raw_header("x-death").is_some());
    assert_eq!(
        letter.header("x-first-death-reason").as_deref(),
        Some("delivery_limit")
    );
    let delivered = "SELECT count(DISTINCT request_id) FROM deliveries WHERE status = 'delivered'";
    // What a worker that died had handed off waits for the end of its lease.
    end_leases(&world).await;
    wait_until(SOON, "all in history", async || {
        (world.number(delivered).await == HEALTHY_COUNT as i64).then_some(())
    })
    .await;
    world.stop_with_all_acked(&mut worker).await;
    assert_eq!(world.number(delivered).await, HEALTHY_COUNT as i64);
    assert_eq!(world.broker.depth(DEAD_EVENTS).await, 0);
}

/// Fails the first attempt of each event, so that the rest goes by the ledger; then kills the worker with each request
/// of the guilty one, and answers the others half a second later, so that they are in flight with it.
#[derive(Default)]
struct Killer {
    worker: AtomicU32,
    attempts: Mutex<HashMap<String, u32>>,
}

impl Killer {
    fn judge(&self, request: &Received) -> Reply {
        let event = request.json()["data"]["id"].as_str().unwrap().to_owned();
        let mut attempts = self.attempts.lock().unwrap();
        let attempt = attempts.entry(event.clone()).or_default();
        *attempt += 1;
        match (*attempt, event.as_str()) {
            (1, _) => Reply::status(503),
            (_, GUILTY) => {
                let id = self.worker.load(Ordering::Relaxed) as i32;
                kill_process(Pid::from_raw(id).unwrap(), Signal::KILL).ok();
                Reply::close()
            }
            _ => Reply::status(200).delay(Duration::from_millis(500)),
        }
    }
}

#[tokio::test]
async fn a_response_that_kills_the_process_makes_its_delivery_dead_and_no_other() {
    let killer = Arc::new(Killer::default());
    let judge = Arc::clone(&killer);
    let receiver = Receiver::start_judging(move |request| judge.judge(request));
    let world = World::with("poison_response", receiver).await;
    let webhook_id = world.subscribe("/hook").await;
    let settings = [("POSTRIDER__RETRY__DELAY_BASE", "1s")];
    let mut worker = world.worker_with(&settings).await;
    killer.worker.store(worker.id(), Ordering::Relaxed);
    let innocent: Vec<String> = (0..4).map(|n| format!("ev-{n}")).collect();
    let events = innocent.iter().map(String::as_str).chain([GUILTY]);
    world
        .broker
        .publish_all(
            EXCHANGE,
            events.map(|id| ("card-published", message("card-published", id))),
        )
        .await;

    let guilty = request_id(&webhook_id, GUILTY);
    let mut deaths = 0;
    let view = wait_until(LONG, "the guilty one's end", async || {
        if started_again(&world, &settings, &mut worker) {
            killer.worker.store(worker.id(), Ordering::Relaxed);
            deaths += 1;
            end_leases(&world).await;
        }
        let view = world.store.delivery(ENV, guilty).await.unwrap()?;
        (view.status == DeliveryStatus::Dead).then_some(view)
    })
    .await;

    assert_eq!((view.reason, deaths), (Some(DeadReason::WorkerLost), 3));
    for event in &innocent {
        world
            .wait_status(request_id(&webhook_id, event), DeliveryStatus::Delivered)
            .await;
    }
    world.stop_with_all_acked(&mut worker).await;
}

/// As if the leases of the dead worker had ended: those are 20 s longer than an attempt may be.
async fn end_leases(world: &World) {
    world
        .sql
        .batch_execute(
            "BEGIN; UPDATE deliveries_waiting SET due = now() WHERE lease_id IS NOT NULL; \
             UPDATE subscription_due SET next_due = now(); COMMIT",
        )
        .await
        .unwrap();
}

/// A body of the largest size that is taken.
fn largest(n: usize) -> Vec<u8> {
    let data = |filling: usize| {
        let filling = "x".repeat(filling);
        let event = format!(
            r#"{{"id":"ev-{n}","analyticsEvent":"card-published","timestamp":"2026-03-01T12:00:00.000Z","filling":"{filling}"}}"#
        );
        message_of(&event)
    };
    let body = data((1 << 20) - data(0).len());
    assert_eq!(body.len(), 1 << 20);
    body
}

#[tokio::test]
async fn a_stream_of_the_largest_events_stays_within_half_a_gibibyte() {
    /// Enough for several times what may be in hand; more with `POSTRIDER_TEST_LARGE_EVENTS`.
    const LARGE_COUNT: usize = 300;
    const MEMORY_BYTES_MAX: u64 = 512 << 20;
    /// In the queue at a time: the broker is others' too.
    const QUEUED_MAX: usize = 100;
    let count = std::env::var("POSTRIDER_TEST_LARGE_EVENTS")
        .map_or(LARGE_COUNT, |count| count.parse().unwrap());
    let world = World::counting("largest_events").await;
    world.subscribe("/hook").await;
    let mut worker = world
        .worker_with(&[
            ("POSTRIDER__AMQP__PREFETCH", "64"),
            ("POSTRIDER__DELIVERY__IN_FLIGHT_MAX", "64"),
        ])
        .await;

    let begun = Instant::now();
    for n in 0..count {
        world
            .broker
            .publish(EXCHANGE, "card-published", &largest(n))
            .await;
        world
            .receiver
            .wait_for_count((n + 1).saturating_sub(QUEUED_MAX) as u64, "/hook", LONG)
            .await;
    }
    world.receiver.wait_for_distinct(count, "/hook", LONG).await;

    let peak = worker.peak_memory_bytes();
    let mebibytes = peak as f64 / f64::from(1 << 20);
    let took = begun.elapsed().as_secs_f64();
    eprintln!(
        "{count} events of 1 MiB in {took:.1} s; peak memory of the worker: {mebibytes:.1} MiB"
    );
    assert!(peak <= MEMORY_BYTES_MAX, "{mebibytes:.1} MiB");
    world.stop_with_all_acked(&mut worker).await;
    assert_eq!(world.receiver.count("/hook"), count as u64);
    assert_eq!(world.broker.depth(EVENTS).await, 0);
}

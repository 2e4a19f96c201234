//! What kills the process: the guilty one ends, everything else is delivered.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tests::postrider::Postrider;
use tests::receiver::{Received, Receiver, Reply};
use tests::wait::wait_until;
use webhook::{DeadReason, DeliveryStatus};

use crate::world::{DEAD_EVENTS, ENV, EXCHANGE, SOON, World, message, request_id};

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
    worker.wait_ready(SOON).await;
    world.stop_with_all_acked(&mut worker).await;
    assert_eq!(
        world
            .number("SELECT count(DISTINCT request_id) FROM deliveries WHERE status = 'delivered'")
            .await,
        HEALTHY_COUNT as i64
    );
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

//! A subscription to which nothing is delivered any more is paused, and what is held too long ends.

use std::time::Duration;

use store::{Claimed, Step};
use webhook::{DeadReason, DeliveryStatus, Outcome, Status};

use super::fixture::*;

/// A delivery of `hook-a` that failed once, claimed.
async fn claimed(f: &Fixture, event_id: &str) -> Claimed {
    f.store
        .commit(&[failed("hook-a", event_id, Duration::ZERO)])
        .await
        .unwrap();
    let claim = f.store.claim_due(limits(&[])).await.unwrap();
    claim.claimed.into_iter().next().unwrap()
}

async fn die(f: &Fixture, claimed: &Claimed, reason: DeadReason) {
    let dead = result_of(claimed, Step::Dead(reason), Outcome::HttpStatus);
    f.store.commit(&[dead]).await.unwrap();
}

async fn state(f: &Fixture) -> (Status, Option<String>) {
    let stored = f.store.get(ENV, "hook-a").await.unwrap().unwrap();
    (stored.subscription.status, stored.status_reason)
}

async fn notices(f: &Fixture, key: &str) -> i64 {
    let query = format!("SELECT count(*) FROM outbox WHERE routing_key = '{key}'");
    number(&f.sql, &query).await
}

#[tokio::test]
async fn a_death_with_no_success_since_its_first_attempt_pauses() {
    let f = store().await;
    f.store.create(subscription("hook-a")).await.unwrap();
    // Delivered, but before.
    f.store
        .commit(&[delivered("hook-a", "ev-0")])
        .await
        .unwrap();
    f.sql
        .batch_execute("UPDATE deliveries SET settled = now() - interval '1 min'; UPDATE subscriptions SET status_changed = now() - interval '1 h'")
        .await
        .unwrap();
    let first = claimed(&f, "ev-1").await;
    f.store
        .commit(&[failed("hook-a", "ev-2", MINUTE)])
        .await
        .unwrap();

    die(&f, &first, DeadReason::AttemptsExhausted).await;

    let reason = Some("attempts_exhausted".to_owned());
    assert_eq!(state(&f).await, (Status::Paused, reason));
    assert_eq!(notices(&f, "subscription.paused").await, 1);
    assert_eq!(sweep_all(&f.store).await, 1);
    let written = f
        .store
        .commit(&[failed("hook-a", "ev-3", Duration::ZERO)])
        .await
        .unwrap();
    assert_eq!(written[0].status, DeliveryStatus::Held);
    assert_sound(&f.sql).await;

    // Resumed, and dead again although something was delivered before the resume.
    let status = Status::Active;
    f.store
        .set_status(ENV, "hook-a", status, None)
        .await
        .unwrap();
    assert_eq!(state(&f).await, (Status::Active, None));
    sweep_all(&f.store).await;
    let again = f.store.claim_due(limits(&[])).await.unwrap().claimed;
    f.sql
        .batch_execute("UPDATE deliveries SET settled = now() - interval '1 s' WHERE status = 'delivered'; UPDATE attempts_waiting SET started = now() - interval '1 h'")
        .await
        .unwrap();
    die(&f, &again[0], DeadReason::TooOld).await;
    assert_eq!(
        state(&f).await,
        (Status::Paused, Some("too_old".to_owned()))
    );
}

#[tokio::test]
async fn a_success_meanwhile_or_a_death_of_another_kind_pauses_nothing() {
    let f = store().await;
    f.store.create(subscription("hook-a")).await.unwrap();
    f.sql
        .batch_execute("UPDATE subscriptions SET status_changed = now() - interval '1 h'")
        .await
        .unwrap();
    let first = claimed(&f, "ev-1").await;
    f.store
        .commit(&[delivered("hook-a", "ev-2")])
        .await
        .unwrap();
    die(&f, &first, DeadReason::AttemptsExhausted).await;
    assert_eq!(state(&f).await.0, Status::Active);

    // In the same commit.
    let other = claimed(&f, "ev-3").await;
    f.sql
        .batch_execute("UPDATE deliveries SET settled = now() - interval '1 h'")
        .await
        .unwrap();
    let dead = Step::Dead(DeadReason::AttemptsExhausted);
    let dead = result_of(&other, dead, Outcome::HttpStatus);
    let both = [dead, delivered("hook-a", "ev-4")];
    f.store.commit(&both).await.unwrap();
    assert_eq!(state(&f).await.0, Status::Active);
    assert_eq!(notices(&f, "subscription.paused").await, 0);

    let gone = claimed(&f, "ev-5").await;
    die(&f, &gone, DeadReason::Gone).await;
    assert_eq!(state(&f).await.0, Status::Disabled);
    assert_eq!(notices(&f, "subscription.paused").await, 0);
}

#[tokio::test]
async fn what_is_held_too_long_is_dead_and_the_rest_stays() {
    let f = store().await;
    f.store.create(subscription("hook-a")).await.unwrap();
    let status = Status::Paused;
    f.store
        .set_status(ENV, "hook-a", status, None)
        .await
        .unwrap();
    let events = ["ev-1", "ev-2", "ev-3"];
    let records: Vec<_> = events
        .map(|event| failed("hook-a", event, Duration::ZERO))
        .into();
    f.store.commit(&records).await.unwrap();
    f.sql
        .batch_execute("UPDATE deliveries_waiting SET held_since = now() - interval '2 h' WHERE event_id <> 'ev-3'; UPDATE subscription_due SET next_sweep = now()")
        .await
        .unwrap();

    let swept = f.store.sweep(500, HELD_MAX).await.unwrap();

    assert_eq!(swept.held_too_long, 2);
    assert_eq!(f.store.gauges().await.unwrap().held, 1);
    let view = f
        .store
        .delivery(ENV, records[0].delivery.request_id)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (view.status, view.reason, view.attempts.len()),
        (DeliveryStatus::Dead, Some(DeadReason::HeldTooLong), 1)
    );
    assert_eq!(notices(&f, "delivery.held_too_long").await, 1);
    let copies = "SELECT count(*) FROM outbox WHERE kind = 'delivery_dead'";
    assert_eq!(number(&f.sql, copies).await, 2);
    assert_sound(&f.sql).await;
}

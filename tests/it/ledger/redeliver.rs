//! A person sends again what stands in the ledger, whatever its state.

use std::time::Duration;

use store::{ByHand, Claimed, DeliveryView, Redelivered, Step, StoreError};
use webhook::{DeadReason, DeliveryStatus, Outcome, RequestId, Status};

use super::fixture::*;

const HOUR: Duration = Duration::from_secs(3600);

fn id(event_id: &str) -> RequestId {
    RequestId::of_event("hook-a", "card-published", event_id)
}

async fn fixture() -> Fixture {
    let f = store().await;
    f.store.create(subscription("hook-a")).await.unwrap();
    f
}

async fn view(f: &Fixture, event_id: &str) -> DeliveryView {
    f.store.delivery(ENV, id(event_id)).await.unwrap().unwrap()
}

async fn redeliver(f: &Fixture, event_id: &str) -> Redelivered {
    f.store.redeliver(ENV, id(event_id)).await.unwrap()
}

/// `ev-1` is delivered, and is to be sent once more.
async fn delivered_and_wished_for() -> Fixture {
    let f = fixture().await;
    f.store
        .commit(&[delivered("hook-a", "ev-1")])
        .await
        .unwrap();
    redeliver(&f, "ev-1").await;
    f
}

async fn assert_nothing_waits(f: &Fixture) {
    let waiting = "SELECT count(*) FROM deliveries_waiting";
    assert_eq!(number(&f.sql, waiting).await, 0);
}

async fn claim(f: &Fixture) -> Vec<Claimed> {
    f.store.claim_due(limits(&[])).await.unwrap().claimed
}

/// It died after its second attempt, an hour ago.
async fn dead(f: &Fixture, event_id: &str) {
    let step = Step::Dead(DeadReason::AttemptsExhausted);
    let given_up = record("hook-a", event_id, step);
    let mut given_up = attempted(given_up, 2, Outcome::HttpStatus);
    // Another one's success since then keeps the subscription from being paused, also where it dates from an earlier call.
    given_up.attempt.as_mut().unwrap().ago = MINUTE;
    let other = delivered("hook-a", "ev-other");
    f.store.commit(&[given_up, other]).await.unwrap();
    f.sql
        .batch_execute(
            "UPDATE deliveries SET created = created - interval '1 h'; DELETE FROM outbox",
        )
        .await
        .unwrap();
}

fn numbers(view: &DeliveryView) -> Vec<u32> {
    view.attempts.iter().map(|made| made.attempt).collect()
}

#[tokio::test]
async fn what_is_dead_gets_a_new_schedule_and_its_numbers_go_on() {
    let f = fixture().await;
    dead(&f, "ev-1").await;
    let before = view(&f, "ev-1").await;

    assert_eq!(redeliver(&f, "ev-1").await, Redelivered::Accepted);

    let waiting = view(&f, "ev-1").await;
    assert_eq!(waiting.status, DeliveryStatus::Scheduled);
    assert_eq!((waiting.reason, waiting.created), (None, before.created));
    assert_eq!(waiting.attempts, before.attempts);
    assert_sound(&f.sql).await;
    let claimed = claim(&f).await;
    assert_eq!(claimed.len(), 1);
    let claimed = &claimed[0];
    assert_eq!((claimed.attempts, claimed.attempts_before), (2, 2));
    assert_eq!((claimed.by_hand, claimed.lost), (None, false));
    assert_eq!(&claimed.payload.data[..], br#"{"id":"ev-1"}"#);
    assert!(claimed.age < MINUTE, "its age is counted anew");
    // It dies again, on the same day: one row, one dead copy of this death.
    let step = Step::Dead(DeadReason::TooOld);
    let died = result_of(claimed, step, Outcome::Timeout);
    f.store.commit(&[died]).await.unwrap();
    let again = view(&f, "ev-1").await;
    assert_eq!(again.reason, Some(DeadReason::TooOld));
    assert_eq!(numbers(&again), [2, 3]);
    let copies = "SELECT count(*) FROM outbox WHERE kind = 'delivery_dead' AND attempts = 3";
    assert_eq!(number(&f.sql, copies).await, 1);
    assert_sound(&f.sql).await;
}

#[tokio::test]
async fn what_was_cancelled_is_sent_once_its_subscription_is_active_again() {
    let f = fixture().await;
    f.store
        .commit(&[failed("hook-a", "ev-1", HOUR)])
        .await
        .unwrap();
    f.store
        .set_status(ENV, "hook-a", Status::Disabled, None)
        .await
        .unwrap();
    assert_eq!(redeliver(&f, "ev-1").await, Redelivered::SubscriptionEnded);
    sweep_all(&f.store).await;
    assert_eq!(view(&f, "ev-1").await.status, DeliveryStatus::Cancelled);
    assert_eq!(redeliver(&f, "ev-1").await, Redelivered::SubscriptionEnded);
    f.store
        .set_status(ENV, "hook-a", Status::Active, None)
        .await
        .unwrap();

    assert_eq!(redeliver(&f, "ev-1").await, Redelivered::Accepted);

    sweep_all(&f.store).await;
    let claimed = claim(&f).await;
    assert_eq!((claimed.len(), claimed[0].attempts_before), (1, 1));
}

#[tokio::test]
async fn an_attempt_by_hand_leaves_the_schedule_of_what_waits_as_it_is() {
    let f = fixture().await;
    f.store
        .commit(&[failed("hook-a", "ev-1", HOUR)])
        .await
        .unwrap();
    let planned = view(&f, "ev-1").await.next_attempt;

    // Twice is as if once.
    assert_eq!(redeliver(&f, "ev-1").await, Redelivered::Accepted);
    assert_eq!(redeliver(&f, "ev-1").await, Redelivered::Accepted);
    let claimed = claim(&f).await;
    assert_eq!(claimed.len(), 1);
    assert_eq!(claimed[0].by_hand, Some(ByHand::Extra));
    assert_eq!(redeliver(&f, "ev-1").await, Redelivered::Running);
    let tried = result_of(&claimed[0], Step::Tried, Outcome::HttpStatus);
    f.store.commit(&[tried]).await.unwrap();

    let after = view(&f, "ev-1").await;
    assert_eq!(after.status, DeliveryStatus::Scheduled);
    assert_eq!(after.next_attempt, planned);
    assert_eq!(numbers(&after), [1, 2]);
    assert!(claim(&f).await.is_empty());
    assert_sound(&f.sql).await;
    // Its turn comes, and one attempt counts for the schedule so far.
    f.sql
        .batch_execute("UPDATE deliveries_waiting SET due = now(); UPDATE subscription_due SET next_due = now()")
        .await
        .unwrap();
    let claimed = claim(&f).await;
    assert_eq!((claimed[0].attempts, claimed[0].attempts_before), (2, 1));
    assert_eq!(claimed[0].by_hand, None);
}

#[tokio::test]
async fn what_is_delivered_gets_one_attempt_and_stays_delivered() {
    let f = fixture().await;
    for (event_id, step, outcome) in [
        ("ev-1", Step::Tried, Outcome::HttpStatus),
        ("ev-2", Step::Delivered, Outcome::Delivered),
    ] {
        f.store
            .commit(&[delivered("hook-a", event_id)])
            .await
            .unwrap();

        assert_eq!(redeliver(&f, event_id).await, Redelivered::Accepted);
        assert_eq!(redeliver(&f, event_id).await, Redelivered::Accepted);

        let standing = view(&f, event_id).await;
        assert_eq!(standing.status, DeliveryStatus::Delivered);
        let scheduled = Some(DeliveryStatus::Scheduled);
        let log = f.store.deliveries(ENV, "hook-a", scheduled, None, 10);
        assert!(log.await.unwrap().deliveries.is_empty());
        let claimed = claim(&f).await;
        assert_eq!(claimed.len(), 1, "wanted, although it is delivered");
        assert_eq!(claimed[0].attempts, 1);
        assert_eq!(redeliver(&f, event_id).await, Redelivered::Running);
        let ended = result_of(&claimed[0], step, outcome);
        f.store.commit(&[ended]).await.unwrap();
        let standing = view(&f, event_id).await;
        assert_eq!(standing.status, DeliveryStatus::Delivered);
        assert_eq!(numbers(&standing), [1, 2]);
        // And once more: the numbers go on after the last.
        assert_eq!(redeliver(&f, event_id).await, Redelivered::Accepted);
        let claimed = claim(&f).await;
        assert_eq!(claimed[0].attempts, 2);
        f.store
            .commit(&[result_of(&claimed[0], step, outcome)])
            .await
            .unwrap();
    }
    let history = "SELECT count(*) FROM deliveries";
    assert_eq!(number(&f.sql, history).await, 2);
    assert_nothing_waits(&f).await;
    let outbox = "SELECT count(*) FROM outbox";
    assert_eq!(number(&f.sql, outbox).await, 0);
    assert_sound(&f.sql).await;
}

#[tokio::test]
async fn a_wish_survives_workers_that_die_but_not_for_ever() {
    let f = delivered_and_wished_for().await;
    let lease_over =
        "UPDATE deliveries_waiting SET due = now(); UPDATE subscription_due SET next_due = now()";

    // Handed back at a stop: not counted.
    let claimed = claim(&f).await;
    let after = Duration::ZERO;
    let mut back = result_of(&claimed[0], Step::HandBack { after }, Outcome::Timeout);
    back.attempt = None;
    f.store.commit(&[back]).await.unwrap();
    for _ in 0..3 {
        let claimed = claim(&f).await;
        assert_eq!((claimed.len(), claimed[0].lost), (1, false));
        f.sql.batch_execute(lease_over).await.unwrap();
    }
    let claimed = claim(&f).await;
    assert!(claimed[0].lost);
    let step = Step::Dead(DeadReason::WorkerLost);
    let mut lost = result_of(&claimed[0], step, Outcome::Timeout);
    lost.attempt = None;
    f.store.commit(&[lost]).await.unwrap();

    assert_eq!(view(&f, "ev-1").await.status, DeliveryStatus::Delivered);
    assert_nothing_waits(&f).await;
    assert_eq!(number(&f.sql, "SELECT count(*) FROM outbox").await, 0);
    assert_sound(&f.sql).await;
}

#[tokio::test]
async fn a_wish_for_what_is_delivered_ends_with_its_subscription() {
    let f = delivered_and_wished_for().await;

    f.store
        .set_status(ENV, "hook-a", Status::Disabled, None)
        .await
        .unwrap();
    sweep_all(&f.store).await;

    assert_eq!(view(&f, "ev-1").await.status, DeliveryStatus::Delivered);
    assert_nothing_waits(&f).await;
    assert_sound(&f.sql).await;
}

#[tokio::test]
async fn a_410_to_a_wish_disables_and_the_delivery_stays_delivered() {
    let f = delivered_and_wished_for().await;
    let claimed = claim(&f).await;

    let gone = result_of(&claimed[0], Step::Dead(DeadReason::Gone), Outcome::Gone);
    f.store.commit(&[gone]).await.unwrap();

    let stored = f.store.get(ENV, "hook-a").await.unwrap().unwrap();
    assert_eq!(stored.subscription.status, Status::Disabled);
    assert_eq!(view(&f, "ev-1").await.status, DeliveryStatus::Delivered);
    let copies = "SELECT count(*) FROM outbox WHERE kind = 'delivery_dead'";
    assert_eq!(number(&f.sql, copies).await, 0);
}

#[tokio::test]
async fn while_it_is_paused_a_wish_is_held_and_goes_out_when_it_is_resumed() {
    let f = fixture().await;
    dead(&f, "ev-1").await;
    f.store
        .set_status(ENV, "hook-a", Status::Paused, None)
        .await
        .unwrap();

    assert_eq!(redeliver(&f, "ev-1").await, Redelivered::Accepted);
    assert_eq!(redeliver(&f, "ev-other").await, Redelivered::Accepted);

    assert_eq!(view(&f, "ev-1").await.status, DeliveryStatus::Held);
    sweep_all(&f.store).await;
    assert!(claim(&f).await.is_empty());
    assert_eq!(redeliver(&f, "ev-1").await, Redelivered::Accepted);
    assert_eq!(view(&f, "ev-1").await.status, DeliveryStatus::Held);
    f.store
        .set_status(ENV, "hook-a", Status::Active, None)
        .await
        .unwrap();
    // By hand, before the sweep comes to it; and the other one by the sweep.
    assert_eq!(redeliver(&f, "ev-1").await, Redelivered::Accepted);
    assert_eq!(view(&f, "ev-1").await.status, DeliveryStatus::Scheduled);
    sweep_all(&f.store).await;
    assert_eq!(claim(&f).await.len(), 2);
}

#[tokio::test]
async fn what_cannot_be_sent_again_says_why_and_stays_as_it_is() {
    let f = fixture().await;
    dead(&f, "ev-1").await;
    let unknown = f.store.redeliver("env-2", id("ev-1")).await;
    assert!(matches!(unknown, Err(StoreError::NotFound)));
    f.sql.batch_execute("DELETE FROM payloads").await.unwrap();

    for event_id in ["ev-1", "ev-other"] {
        assert_eq!(redeliver(&f, event_id).await, Redelivered::PayloadGone);
    }

    assert_eq!(view(&f, "ev-1").await.status, DeliveryStatus::Dead);
    assert_nothing_waits(&f).await;
}

#[tokio::test]
async fn wishes_at_once_are_one_wish() {
    let f = fixture().await;
    for n in 0..20 {
        let event_id = format!("ev-{n}");
        if n % 2 == 0 {
            dead(&f, &event_id).await;
        } else {
            f.store
                .commit(&[delivered("hook-a", &event_id)])
                .await
                .unwrap();
        }
        let mut all = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let store = store_at(&f.url, &[1]);
            let id = id(&event_id);
            all.spawn(async move { store.redeliver(ENV, id).await.unwrap() });
        }
        // Its duplicate comes at the same time: delivered wins, and nothing stands twice.
        let mut duplicate = failed("hook-a", &event_id, MINUTE);
        duplicate.age = Duration::ZERO;
        f.store.commit(&[duplicate]).await.unwrap();
        while let Some(redelivered) = all.join_next().await {
            assert_eq!(redelivered.unwrap(), Redelivered::Accepted);
        }

        let claimed = claim(&f).await;
        assert_eq!(claimed.len(), 1, "{event_id}");
        let done = result_of(&claimed[0], Step::Delivered, Outcome::Delivered);
        f.store.commit(&[done]).await.unwrap();
        let standing = view(&f, &event_id).await;
        assert_eq!(standing.status, DeliveryStatus::Delivered);
        assert_sound(&f.sql).await;
    }
}

#[tokio::test]
async fn a_success_that_comes_late_ends_what_was_brought_back() {
    let f = fixture().await;
    dead(&f, "ev-1").await;
    redeliver(&f, "ev-1").await;

    f.store
        .commit(&[delivered("hook-a", "ev-1")])
        .await
        .unwrap();

    assert_eq!(view(&f, "ev-1").await.status, DeliveryStatus::Delivered);
    assert!(claim(&f).await.is_empty());
    assert_sound(&f.sql).await;
}

#[tokio::test]
async fn the_version_before_writes_rows_that_this_one_reads() {
    let f = fixture().await;
    // As it wrote them, without the new columns.
    f.sql
        .batch_execute(
            "INSERT INTO payloads_waiting VALUES ('env-1', '00000000-0000-0000-0000-000000000001', '{}');
            INSERT INTO deliveries_waiting (environment_id, request_id, webhook_id, event_id, event_type, status, attempts,
                claims, created, due, payload_id, payload_bytes)
            VALUES ('env-1', gen_random_uuid(), 'hook-a', 'ev-1', 'card-published', 'scheduled', 3, 0,
                now() - interval '2 h', now(), '00000000-0000-0000-0000-000000000001', 2);
            INSERT INTO subscription_due VALUES ('env-1', 'hook-a', now())",
        )
        .await
        .unwrap();

    let claimed = claim(&f).await;

    assert_eq!((claimed[0].attempts, claimed[0].attempts_before), (3, 0));
    assert_eq!(claimed[0].by_hand, None);
    assert!(claimed[0].age > HOUR);
}

/// So many settled ones more, a quarter as many that wait; then one of each kind is sent again.
async fn fetched_among(f: &Fixture, settled: i32) -> Fetched {
    const WAITING: &str = "
        WITH made AS (INSERT INTO deliveries_waiting (environment_id, request_id, webhook_id, event_id, event_type,
                status, attempts, claims, created, due, payload_id, payload_bytes)
            SELECT 'env-1', gen_random_uuid(), 'hook-a', 'w-' || n, 'card-published', 'scheduled', 1, 0, now(),
                now() + interval '1 h', gen_random_uuid(), 2 FROM generate_series(1, $1::int4 / 4) AS n
            RETURNING request_id, payload_id),
        kept AS (INSERT INTO payloads_waiting SELECT 'env-1', payload_id, '{}' FROM made)
        INSERT INTO attempts_waiting SELECT 'env-1', request_id, 1, now(), 1, 'timeout' FROM made";
    for sql in [MANY, WAITING] {
        f.sql.execute(sql, &[&settled]).await.unwrap();
    }
    let [died, went, waits] =
        ["dead", "delivered", "waits"].map(|kind| format!("{kind}-{settled}"));
    dead(f, &died).await;
    let others = [delivered("hook-a", &went), failed("hook-a", &waits, HOUR)];
    f.store.commit(&others).await.unwrap();
    f.sql.batch_execute("VACUUM ANALYZE").await.unwrap();

    fetched_by(f, async |store| {
        for event_id in [died, went, waits] {
            let redelivered = store.redeliver(ENV, id(&event_id)).await.unwrap();
            assert_eq!(redelivered, Redelivered::Accepted, "{event_id}");
        }
        let unknown = store.redeliver(ENV, id("ev-unknown")).await;
        assert!(matches!(unknown, Err(StoreError::NotFound)));
    })
    .await
}

#[tokio::test]
async fn what_is_read_to_send_one_again_does_not_grow_with_the_ledger() {
    let f = fixture().await;
    f.sql.batch_execute(&days_before()).await.unwrap();

    let few = fetched_among(&f, 10_000).await;
    let many = fetched_among(&f, 100_000).await;

    eprintln!("among 10,000: {few:?}; among 110,000: {many:?}");
    assert!(many.rows < 100, "{many:?}");
    assert!(many.blocks < few.blocks * 3 / 2, "{many:?} after {few:?}");
}

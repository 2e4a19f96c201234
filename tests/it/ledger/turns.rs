//! The turns of rate-limited subscriptions: how many a claim takes, and when it comes back.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use store::{ClaimLimits, NewSubscription, Redelivered, Store};
use tests::servers::Session;
use webhook::RequestId;

use super::fixture::*;

fn limited(id: &str, per_second: u32) -> NewSubscription {
    NewSubscription {
        rate_limit: NonZeroU32::new(per_second),
        ..subscription(id)
    }
}

/// Makes a subscription of which so many are due.
async fn with_backlog(f: &Fixture, new: NewSubscription, rows: usize) {
    let id = new.id.clone();
    f.store.create(new).await.unwrap();
    for first in (0..rows).step_by(500) {
        let records: Vec<_> = (first..rows.min(first + 500))
            .map(|n| failed(&id, &format!("ev-{n}"), Duration::ZERO))
            .collect();
        f.store.commit(&records).await.unwrap();
    }
}

/// How many a claim with places enough takes.
async fn claim(store: &Store) -> usize {
    let many = ClaimLimits {
        rows_max: 256,
        slots_default: 256,
        ..limits(&[])
    };
    store.claim_due(many).await.unwrap().claimed.len()
}

/// As if the last turn had been taken so many seconds ago, and the head were looked at.
async fn rest(sql: &Session, seconds: f64) {
    let sql_text = format!(
        "UPDATE subscription_pace SET next_turn = now() - {seconds} * interval '1 s';
        UPDATE subscription_due SET next_due = now() WHERE next_due < 'infinity'"
    );
    sql.batch_execute(&sql_text).await.unwrap();
}

async fn change_limit(store: &Store, id: &str, per_second: Option<u32>) {
    let stored = store.get(ENV, id).await.unwrap().unwrap();
    let mut subscription = stored.subscription;
    subscription.rate_limit = per_second.and_then(NonZeroU32::new);
    store
        .change(&subscription, stored.updated, u32::MAX)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_claim_takes_the_turns_that_are_up_and_a_tenth_of_a_second_s_at_most() {
    let f = store().await;
    with_backlog(&f, limited("hook-a", 50), 100).await;

    assert_eq!(claim(&f.store).await, 6, "after a rest");
    rest(&f.sql, 0.05).await;
    let taken = claim(&f.store).await;
    assert!((3..=6).contains(&taken), "{taken} after 50 ms and more");
    rest(&f.sql, 3600.0).await;
    assert_eq!(claim(&f.store).await, 6, "after an hour");
    rest(&f.sql, -60.0).await;
    assert_eq!(claim(&f.store).await, 0, "a minute before the next");

    // What had to wait was neither leased nor counted, and nobody looks at it before its turn.
    let waiting = "SELECT count(*) FROM deliveries_waiting WHERE lease_id IS NULL AND claims = 0 AND attempts = 1";
    assert_eq!(
        number(&f.sql, waiting).await,
        100 - 12 - i64::try_from(taken).unwrap()
    );
    let seconds = "SELECT extract(epoch FROM next_due - now())::int8 FROM subscription_due";
    assert!((50..=60).contains(&number(&f.sql, seconds).await));
}

#[tokio::test]
async fn what_is_written_for_a_limited_subscription_wakes_nobody_before_its_turn() {
    let f = store().await;
    with_backlog(&f, limited("hook-a", 1), 3).await;
    assert_eq!(claim(&f.store).await, 1);

    let more = [failed("hook-a", "later", Duration::ZERO)];
    f.store.commit(&more).await.unwrap();

    let next = f.store.claim_due(limits(&[])).await.unwrap().next_due_in;
    let next = next.unwrap();
    assert!(
        next > Duration::from_millis(500) && next <= Duration::from_secs(1),
        "{next:?}"
    );
    assert_sound(&f.sql).await;
}

#[tokio::test]
async fn others_are_claimed_whatever_waits_for_its_turn() {
    let f = store().await;
    with_backlog(&f, limited("hook-a", 1), 500).await;
    assert_eq!(claim(&f.store).await, 1);

    with_backlog(&f, subscription("hook-b"), 7).await;

    assert_eq!(claim(&f.store).await, 7);
}

#[tokio::test]
async fn what_a_person_sends_again_takes_a_turn_too() {
    let f = store().await;
    with_backlog(&f, limited("hook-a", 1), 1).await;
    let success = delivered("hook-a", "by-hand");
    let request_id: RequestId = success.delivery.request_id;
    f.store.commit(&[success]).await.unwrap();
    assert_eq!(claim(&f.store).await, 1);

    let redelivered = f.store.redeliver(ENV, request_id).await.unwrap();
    assert_eq!(redelivered, Redelivered::Accepted);

    assert_eq!(claim(&f.store).await, 0);
    rest(&f.sql, 0.0).await;
    assert_eq!(claim(&f.store).await, 1);
}

#[tokio::test]
async fn another_limit_counts_from_now_on_and_without_one_all_may_go() {
    let f = store().await;
    with_backlog(&f, limited("hook-a", 1), 100).await;
    assert_eq!(claim(&f.store).await, 1);
    assert_eq!(claim(&f.store).await, 0);

    change_limit(&f.store, "hook-a", Some(100)).await;
    assert_eq!(claim(&f.store).await, 11);
    change_limit(&f.store, "hook-a", Some(1)).await;
    assert_eq!(claim(&f.store).await, 1);
    assert_eq!(claim(&f.store).await, 0);
    change_limit(&f.store, "hook-a", None).await;
    assert_eq!(claim(&f.store).await, 100 - 13);
    assert_sound(&f.sql).await;
}

#[tokio::test]
async fn a_turn_isn_t_taken_by_what_finds_no_place() {
    let f = store().await;
    with_backlog(&f, limited("hook-a", 1000), 200).await;
    let few = ClaimLimits {
        slots_default: 10,
        ..limits(&[])
    };

    assert_eq!(f.store.claim_due(few).await.unwrap().claimed.len(), 10);
    let taken = claim(&f.store).await;

    // 101 after a rest, less the ten, and those of the time since then.
    assert!((91..=101).contains(&taken), "{taken}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_of_many_at_once_keep_the_limit_together() {
    const PER_SECOND: u32 = 200;
    let f = store().await;
    with_backlog(&f, limited("hook-a", PER_SECOND), 1000).await;
    let began = Instant::now();
    let mut claimers = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let store = f.store.clone();
        claimers.spawn(async move {
            let mut taken = 0;
            while began.elapsed() < Duration::from_secs(2) {
                taken += claim(&store).await;
            }
            taken
        });
    }

    let taken: usize = claimers.join_all().await.into_iter().sum();

    let due = began.elapsed().as_secs_f64() * f64::from(PER_SECOND);
    let taken = f64::from(u32::try_from(taken).unwrap());
    assert!(taken <= due + 21.0, "{taken} of {due}");
    assert!(taken >= 0.9 * due, "{taken} of {due}");
    let leased = "SELECT count(*) FROM deliveries_waiting WHERE claims = 1";
    assert!((f64::from(i32::try_from(number(&f.sql, leased).await).unwrap()) - taken).abs() < 0.5);
}

#[tokio::test]
async fn the_gauges_tell_what_waits_for_its_turn_from_what_is_due() {
    let f = store().await;
    with_backlog(&f, limited("hook-a", 1), 20).await;
    with_backlog(&f, subscription("hook-b"), 3).await;
    f.sql
        .batch_execute(
            "UPDATE deliveries_waiting SET due = now() - interval '1 h' WHERE webhook_id = 'hook-a'",
        )
        .await
        .unwrap();

    // Nobody has claimed any of it yet: then it isn't the limit that it waits for.
    let gauges = f.store.gauges().await.unwrap();
    assert_eq!((gauges.due, gauges.rate_limited), (23, 0));
    assert!(gauges.oldest_due_seconds > 3500.0, "{gauges:?}");

    let blocked = [(ENV.into(), "hook-b".into(), 0)];
    let claim = f.store.claim_due(limits(&blocked)).await.unwrap();
    assert_eq!(claim.claimed.len(), 1);
    let gauges = f.store.gauges().await.unwrap();
    assert_eq!((gauges.due, gauges.rate_limited), (3, 19));
    assert!(gauges.oldest_due_seconds < 60.0, "{gauges:?}");

    rest(&f.sql, 11.0).await;
    let gauges = f.store.gauges().await.unwrap();
    assert_eq!((gauges.due, gauges.rate_limited), (22, 0));
    assert!(gauges.oldest_due_seconds > 3500.0, "{gauges:?}");
}

#[tokio::test]
async fn many_that_wait_for_their_turn_are_estimated_and_what_is_due_beside_them_is_not() {
    let f = store().await;
    with_backlog(&f, limited("hook-a", 1), 1).await;
    with_backlog(&f, subscription("hook-b"), 3).await;
    f.sql
        .batch_execute(
            "INSERT INTO deliveries_waiting (environment_id, request_id, webhook_id, event_id, event_type, status, attempts,
                claims, created, due, payload_id, payload_bytes)
            SELECT 'env-1', gen_random_uuid(), 'hook-a', 'e', 't', 'scheduled', 0, 0, now(), now(), gen_random_uuid(), 1
                FROM generate_series(1, 30000);
            ANALYZE deliveries_waiting",
        )
        .await
        .unwrap();
    let blocked = [(ENV.into(), "hook-b".into(), 0)];
    f.store.claim_due(limits(&blocked)).await.unwrap();

    let gauges = f.store.gauges().await.unwrap();

    assert_eq!(gauges.due, 3);
    let estimated = 20_000..40_000;
    assert!(estimated.contains(&gauges.rate_limited), "{gauges:?}");
    assert!(gauges.oldest_due_seconds < 60.0, "{gauges:?}");
}

#[tokio::test]
async fn how_far_a_subscription_had_come_is_forgotten_in_time() {
    let f = store().await;
    with_backlog(&f, limited("hook-a", 1), 1).await;
    with_backlog(&f, limited("hook-b", 1), 1).await;
    assert_eq!(claim(&f.store).await, 2);
    f.sql
        .batch_execute(
            "UPDATE subscription_pace SET next_turn = now() - interval '2 min' WHERE webhook_id = 'hook-a'",
        )
        .await
        .unwrap();

    f.store.forget_paces(MINUTE).await.unwrap();

    let kept = "SELECT count(*) FROM subscription_pace WHERE webhook_id = 'hook-b'";
    assert_eq!(number(&f.sql, kept).await, 1);
    assert_eq!(
        number(&f.sql, "SELECT count(*) FROM subscription_pace").await,
        1
    );
}

#[tokio::test]
async fn what_waits_too_long_for_its_turn_is_dead_and_takes_none() {
    let f = store().await;
    with_backlog(&f, limited("hook-a", 1), 700).await;
    with_backlog(&f, subscription("hook-b"), 3).await;
    let taken = f.store.claim_due(limits(&[])).await.unwrap().claimed;
    assert_eq!(taken.len(), 4);
    f.sql
        .batch_execute(
            "UPDATE deliveries_waiting SET due = now() - interval '2 min' WHERE lease_id IS NULL AND event_id <> 'ev-699';
            UPDATE deliveries_waiting SET by_hand = 'extra' WHERE event_id = 'ev-698'",
        )
        .await
        .unwrap();
    f.store
        .commit(&[failed("hook-b", "late", Duration::ZERO)])
        .await
        .unwrap();
    f.sql
        .batch_execute(
            "UPDATE deliveries_waiting SET due = now() - interval '2 min' WHERE event_id = 'late'",
        )
        .await
        .unwrap();

    // Its receiver takes what it gets, so it isn't paused by those deaths.
    f.store.commit(&[delivered("hook-a", "ok")]).await.unwrap();
    assert_eq!(f.store.give_up_overdue(MINUTE, 500).await.unwrap(), 500);
    assert_eq!(f.store.give_up_overdue(MINUTE, 500).await.unwrap(), 197);

    let dead = "SELECT count(*) FROM deliveries JOIN outbox USING (request_id) \
        WHERE deliveries.webhook_id = 'hook-a' AND status = 'dead' AND deliveries.reason = 'too_old'";
    assert_eq!(number(&f.sql, dead).await, 697);
    // What is under way, what isn't late, what a person asked for, and what has no limit.
    let waiting = "SELECT count(*) FROM deliveries_waiting";
    assert_eq!(number(&f.sql, waiting).await, 4 + 2 + 1);
    let stored = f.store.get(ENV, "hook-a").await.unwrap().unwrap();
    assert_eq!(stored.subscription.status, webhook::Status::Active);
    rest(&f.sql, 0.0).await;
    assert_eq!(claim(&f.store).await, 2);
    assert_sound(&f.sql).await;
}

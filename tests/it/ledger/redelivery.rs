//! All that died in a span is sent again, in portions.

use std::time::{Duration, Instant};

use store::{Accepted, Deaths, RedeliveryView, StoreError};
use time::OffsetDateTime;
use tokio_postgres::types::ToSql;
use uuid::Uuid;
use webhook::Status;

use super::fixture::*;

/// So many dead ones of `hook-a`, a millisecond between two deaths, the last one now; each with payload and attempt.
async fn dead(f: &Fixture, count: i32) {
    let sql = "
        WITH made AS (SELECT n, gen_random_uuid() AS id, now() - ($1 - n) * interval '1 ms' AS at
            FROM generate_series(1, $1) AS n),
        kept AS (INSERT INTO payloads SELECT 'env-1', id, (now() AT TIME ZONE 'UTC')::date, '{}' FROM made),
        tried AS (INSERT INTO attempts SELECT 'env-1', id, 1, at, 1, 'timeout', NULL, NULL, NULL,
            (now() AT TIME ZONE 'UTC')::date FROM made)
        INSERT INTO deliveries SELECT 'env-1', id, 'hook-a', 'ev-' || n, 'card-published', 'dead', 'too_old', 1,
            at - interval '1 h', at, id, (now() AT TIME ZONE 'UTC')::date FROM made";
    f.sql.execute(sql, &[&count]).await.unwrap();
}

async fn fixture() -> Fixture {
    let f = store().await;
    for id in ["hook-a", "hook-b"] {
        f.store.create(subscription(id)).await.unwrap();
    }
    f
}

async fn accepted(f: &Fixture, deaths: Deaths) -> (Option<Uuid>, u64) {
    match f.store.redeliver_dead(ENV, "hook-a", deaths).await.unwrap() {
        Accepted::Redelivery {
            redelivery_id,
            accepted,
        } => (redelivery_id, accepted),
        Accepted::SubscriptionEnded => panic!("it is active"),
    }
}

async fn progress(f: &Fixture, id: Option<Uuid>) -> RedeliveryView {
    f.store.redelivery(ENV, id.unwrap()).await.unwrap()
}

/// Brings back all that is due, without waiting for each portion's second.
async fn bring_all_back(f: &Fixture) -> u32 {
    let mut portions = 0;
    while f.store.redeliver_portion().await.unwrap() {
        portions += 1;
        f.sql
            .batch_execute("UPDATE redeliveries SET next_portion = now()")
            .await
            .unwrap();
    }
    portions
}

async fn time(f: &Fixture, query: &str, params: &[&(dyn ToSql + Sync)]) -> OffsetDateTime {
    f.sql.query_one(query, params).await.unwrap().get(0)
}

#[tokio::test]
async fn the_dead_of_a_span_are_brought_back_and_no_others() {
    let f = fixture().await;
    dead(&f, 10).await;
    let died = "SELECT settled FROM deliveries WHERE event_id = $1";
    let since = Some(time(&f, died, &[&"ev-3"]).await);
    let until = Some(time(&f, died, &[&"ev-6"]).await);

    let (id, accepted) = accepted(&f, Deaths { since, until }).await;

    assert_eq!(accepted, 3);
    bring_all_back(&f).await;
    let ids = "SELECT string_agg(event_id, ' ' ORDER BY event_id) FROM deliveries_waiting";
    let back: String = f.sql.query_one(ids, &[]).await.unwrap().get(0);
    assert_eq!(back, "ev-3 ev-4 ev-5");
    let shown = progress(&f, id).await;
    assert_eq!((shown.accepted, shown.redelivered), (3, 3));
    assert!(shown.ended.is_some());
    let foreign = f.store.redelivery("env-2", id.unwrap()).await;
    assert!(matches!(foreign, Err(StoreError::NotFound)));
    assert_sound(&f.sql).await;
}

#[tokio::test]
async fn each_portion_is_bounded_and_goes_on_where_the_last_one_ended() {
    let f = fixture().await;
    dead(&f, 450).await;
    let (id, accepted) = accepted(&f, Deaths::default()).await;
    assert_eq!(accepted, 450);

    assert!(f.store.redeliver_portion().await.unwrap());

    assert_eq!(progress(&f, id).await.redelivered, 200);
    // At most one a second.
    assert!(!f.store.redeliver_portion().await.unwrap());
    // What dies again meanwhile isn't met again; what was sent again by hand is nothing to do.
    let one = "SELECT request_id FROM deliveries ORDER BY settled DESC LIMIT 1";
    let one: Uuid = f.sql.query_one(one, &[]).await.unwrap().get(0);
    let one = webhook::RequestId(one);
    f.store.redeliver(ENV, one).await.unwrap();
    f.sql
        .batch_execute("UPDATE redeliveries SET next_portion = now()")
        .await
        .unwrap();
    assert_eq!(bring_all_back(&f).await, 3);
    let shown = progress(&f, id).await;
    assert_eq!((shown.accepted, shown.redelivered), (450, 449));
    let waiting = "SELECT count(*) FROM deliveries_waiting WHERE status = 'scheduled'";
    assert_eq!(number(&f.sql, waiting).await, 450);
    assert_eq!(
        number(&f.sql, "SELECT count(*) FROM attempts_waiting").await,
        450
    );
    assert_eq!(number(&f.sql, "SELECT count(*) FROM deliveries").await, 0);
    assert_sound(&f.sql).await;
}

#[tokio::test]
async fn workers_at_once_double_none_and_one_that_breaks_off_loses_none() {
    let f = fixture().await;
    dead(&f, 1000).await;
    let (id, _) = accepted(&f, Deaths::default()).await;
    let deadline = Instant::now() + Duration::from_secs(60);

    while progress(&f, id).await.ended.is_none() {
        assert!(Instant::now() < deadline);
        let mut all = tokio::task::JoinSet::new();
        for n in 0..4_u64 {
            let store = store_at(&f.url, &[1]);
            all.spawn(async move {
                // Some are broken off at whatever they are at.
                let limit = Duration::from_millis(5 + 10 * n);
                let portion = tokio::time::timeout(limit, store.redeliver_portion());
                if n < 3 {
                    portion.await.ok();
                } else {
                    store.redeliver_portion().await.unwrap();
                }
            });
        }
        while let Some(ended) = all.join_next().await {
            ended.unwrap();
        }
        f.sql
            .batch_execute("UPDATE redeliveries SET next_portion = now()")
            .await
            .unwrap();
    }

    let shown = progress(&f, id).await;
    assert_eq!((shown.accepted, shown.redelivered), (1000, 1000));
    let waiting = "SELECT count(DISTINCT event_id) FROM deliveries_waiting";
    assert_eq!(number(&f.sql, waiting).await, 1000);
    assert_sound(&f.sql).await;
}

#[tokio::test]
async fn many_spans_of_one_subscription_are_no_quicker_than_one() {
    let f = fixture().await;
    dead(&f, 3).await;
    let all = Deaths::default();
    let (first, second) = (accepted(&f, all).await, accepted(&f, all).await);
    assert_eq!((first.1, second.1), (3, 3));

    assert!(f.store.redeliver_portion().await.unwrap());

    assert_eq!(progress(&f, first.0).await.redelivered, 3);
    // The first one has its end still to see, a second later.
    assert!(!f.store.redeliver_portion().await.unwrap());
    f.sql
        .batch_execute("UPDATE redeliveries SET next_portion = now()")
        .await
        .unwrap();
    bring_all_back(&f).await;
    for (id, redelivered) in [(first.0, 3), (second.0, 0)] {
        let shown = progress(&f, id).await;
        assert_eq!(shown.redelivered, redelivered);
        assert!(shown.ended.is_some());
    }
}

#[tokio::test]
async fn while_it_is_paused_they_stay_dead_and_a_disabled_one_gets_nothing() {
    let f = fixture().await;
    dead(&f, 3).await;
    let (id, _) = accepted(&f, Deaths::default()).await;
    f.store
        .set_status(ENV, "hook-a", Status::Paused, None)
        .await
        .unwrap();

    assert!(f.store.redeliver_portion().await.unwrap());

    let shown = progress(&f, id).await;
    assert_eq!((shown.redelivered, shown.ended), (0, None));
    f.store
        .set_status(ENV, "hook-a", Status::Disabled, None)
        .await
        .unwrap();
    bring_all_back(&f).await;
    f.sql
        .batch_execute("UPDATE redeliveries SET next_portion = now()")
        .await
        .unwrap();
    bring_all_back(&f).await;
    assert!(progress(&f, id).await.ended.is_some());
    assert_eq!(number(&f.sql, "SELECT count(*) FROM deliveries").await, 3);
    let again = f
        .store
        .redeliver_dead(ENV, "hook-a", Deaths::default())
        .await;
    assert_eq!(again.unwrap(), Accepted::SubscriptionEnded);
    let unknown = f
        .store
        .redeliver_dead(ENV, "hook-c", Deaths::default())
        .await;
    assert!(matches!(unknown, Err(StoreError::NotFound)));
    f.store.forget_redeliveries(Duration::ZERO).await.unwrap();
    let forgotten = f.store.redelivery(ENV, id.unwrap()).await;
    assert!(matches!(forgotten, Err(StoreError::NotFound)));
}

#[tokio::test]
async fn what_has_lost_its_payload_is_not_accepted() {
    let f = fixture().await;
    dead(&f, 3).await;
    f.sql
        .batch_execute(
            "DO $$ BEGIN EXECUTE format('DROP TABLE %I', 'payloads' || to_char((now() AT TIME ZONE 'UTC')::date,
            '_YYYYMMDD')); END $$",
        )
        .await
        .unwrap();

    assert_eq!(accepted(&f, Deaths::default()).await, (None, 0));
}

#[tokio::test]
async fn of_a_hundred_thousand_a_portion_reads_no_more_than_it_moves() {
    let f = fixture().await;
    dead(&f, 100_000).await;
    f.sql
        .batch_execute(
            "INSERT INTO deliveries SELECT 'env-1', gen_random_uuid(), 'hook-a', 'ok-' || n, 'card-published', 'delivered',
                NULL, 1, now(), now(), gen_random_uuid(), (now() AT TIME ZONE 'UTC')::date
            FROM generate_series(1, 50000) AS n;
            ANALYZE",
        )
        .await
        .unwrap();
    let began = Instant::now();
    let (id, accepted) = accepted(&f, Deaths::default()).await;
    eprintln!("100,000 were accepted within {:?}", began.elapsed());
    assert_eq!(accepted, 100_000);

    let began = Instant::now();
    assert!(f.store.redeliver_portion().await.unwrap());
    eprintln!("a portion took {:?}", began.elapsed());

    assert_eq!(progress(&f, id).await.redelivered, 200);
    // As `redelivery.rs` reads it.
    f.sql.batch_execute("BEGIN").await.unwrap();
    let portion = "SELECT request_id FROM deliveries WHERE environment_id = 'env-1' AND webhook_id = 'hook-a'
            AND status = 'dead' AND settled < now() AND (settled, request_id) > (now() - interval '50 s', $1)
            AND settled_on >= ((now() - interval '50 s') AT TIME ZONE 'UTC')::date
        ORDER BY settled, request_id LIMIT 200";
    let rows = f.sql.query(portion, &[&Uuid::nil()]).await.unwrap();
    let fetched =
        "SELECT (sum(seq_tup_read) + sum(idx_tup_fetch))::bigint FROM pg_stat_xact_user_tables
        WHERE relname LIKE 'deliveries%'";
    let fetched = number(&f.sql, fetched).await;
    f.sql.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(rows.len(), 200);
    assert!(fetched <= 210, "{fetched} rows for a portion of 200");
}

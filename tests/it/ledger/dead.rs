//! What is dead, found by the index of deaths however much was delivered, and judged by the statement itself: counted are
//! the rows that the store's own connection has fetched.

use std::time::Duration;

use store::Deaths;
use tests::wait::wait_until;
use time::OffsetDateTime;
use webhook::DeadReason;

use super::fixture::*;

/// A second between two settlements over three days' partitions; of each ten one is dead, of each hundred one for
/// another reason; ten subscriptions.
const MANY: &str = "
    INSERT INTO deliveries (environment_id, request_id, webhook_id, event_id, event_type, status, reason, attempts,
            created, settled, payload_id, settled_on)
        SELECT 'env-1', gen_random_uuid(), 'hook-' || n / 10 % 10, 'ev-' || n, 'card-published',
            CASE WHEN n % 10 = 0 THEN 'dead' ELSE 'delivered' END,
            CASE WHEN n % 100 = 0 THEN 'gone' WHEN n % 10 = 0 THEN 'too_old' END, 1,
            now() - n * interval '5 s', now() - n * interval '5 s', gen_random_uuid(),
            ((now() - n * interval '5 s') AT TIME ZONE 'UTC')::date
        FROM generate_series(1, 30000) AS n;
    ANALYZE";
/// Rows that scans have fetched, in this database, by connections that are idle or gone.
const FETCHED: &str = "
    SELECT (sum(seq_tup_read) + sum(idx_tup_fetch))::bigint FROM pg_stat_user_tables WHERE relname LIKE 'deliveries%'";
const CONNECTIONS: &str =
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()";
const LIMIT: u32 = 20;

#[tokio::test]
async fn the_dead_are_listed_the_newest_first_within_their_environment_span_and_reason() {
    let f = store().await;
    f.sql.batch_execute(DAYS_BEFORE).await.unwrap();
    f.sql.batch_execute(MANY).await.unwrap();
    let list = async |environment, webhook, deaths, reason| {
        let dead = f
            .store
            .dead_deliveries(environment, webhook, deaths, reason, 10_000);
        dead.await.unwrap()
    };

    let all = list(ENV, None, Deaths::default(), None).await;

    assert_eq!(all.len(), 3000);
    assert!(all.windows(2).all(|pair| pair[0].died > pair[1].died));
    assert_eq!(all[0].event_id, "ev-10");
    assert_eq!((all[0].attempts, &*all[0].webhook_id), (1, "hook-1"));
    assert_eq!(all[0].reason, Some(DeadReason::TooOld));
    let gone = list(ENV, None, Deaths::default(), Some(DeadReason::Gone)).await;
    assert_eq!(gone.len(), 300);
    assert!(gone.iter().all(|dead| dead.webhook_id == "hook-0"));
    let one = list(ENV, Some("hook-7"), Deaths::default(), None).await;
    assert_eq!(one.len(), 300);
    let (since, until) = (Some(all[30].died), Some(all[10].died));
    let span = list(ENV, None, Deaths { since, until }, None).await;
    assert_eq!(span, all[11..=30]);
    assert!(
        list("env-2", None, Deaths::default(), None)
            .await
            .is_empty()
    );
}

#[tokio::test]
async fn what_was_delivered_all_the_same_is_not_listed_as_dead() {
    let f = store().await;
    f.sql.batch_execute(DAYS_BEFORE).await.unwrap();
    f.sql.batch_execute(MANY).await.unwrap();
    let late = "
        INSERT INTO deliveries SELECT environment_id, request_id, webhook_id, event_id, event_type, 'delivered', NULL, 2,
            created, now(), payload_id, (now() AT TIME ZONE 'UTC')::date
        FROM deliveries WHERE event_id = 'ev-30000'";
    f.sql.batch_execute(late).await.unwrap();

    let dead = f
        .store
        .dead_deliveries(ENV, None, Deaths::default(), None, 10_000)
        .await
        .unwrap();

    assert_eq!(dead.len(), 2999);
    assert!(dead.iter().all(|dead| dead.event_id != "ev-30000"));
}

#[tokio::test]
async fn a_list_of_the_dead_reads_no_more_than_its_index_has_of_them() {
    let f = store().await;
    f.sql.batch_execute(DAYS_BEFORE).await.unwrap();
    f.sql.batch_execute(MANY).await.unwrap();
    let hour = Duration::from_secs(3600);
    let span = Deaths {
        since: Some(OffsetDateTime::now_utc() - 20 * hour),
        until: Some(OffsetDateTime::now_utc() - 10 * hour),
    };
    // Of each of ten subscriptions a list, each row with a look whether it was delivered; of each day one more row, and
    // the ways from one subscription to the next.
    for (webhook, deaths, fetched_max) in [
        (Some("hook-7"), Deaths::default(), 3 * i64::from(LIMIT)),
        (Some("hook-7"), span, 3 * i64::from(LIMIT)),
        (None, Deaths::default(), 10 * 3 * i64::from(LIMIT) + 100),
    ] {
        let before = fetched(&f).await;
        let store = store_at(&f.url, &[1]);
        let connections = number(&f.sql, CONNECTIONS).await;
        let dead = store
            .dead_deliveries(ENV, webhook, deaths, None, LIMIT)
            .await
            .unwrap();
        drop(store);
        // A connection tells what it has read before it is gone.
        wait_until(MINUTE, "the store's connection to end", async || {
            (number(&f.sql, CONNECTIONS).await == connections).then_some(())
        })
        .await;

        let fetched = fetched(&f).await - before;
        assert!(!dead.is_empty());
        assert!(fetched >= dead.len() as i64, "{fetched} rows were counted");
        assert!(
            fetched <= fetched_max,
            "{fetched} rows for {} of {webhook:?}",
            dead.len()
        );
    }
}

async fn fetched(f: &Fixture) -> i64 {
    f.sql
        .batch_execute("SELECT pg_stat_force_next_flush()")
        .await
        .unwrap();
    number(&f.sql, FETCHED).await
}

//! The log of many deliveries is read by index alone, also of a status that is rare among them.

use std::collections::HashSet;

use webhook::{DeliveryStatus, RequestId};

use super::fixture::*;

/// Settled ones over three days, one in a thousand dead, and some that wait.
const MANY: &str = "
    INSERT INTO deliveries (environment_id, request_id, webhook_id, event_id, event_type, status, reason, attempts,
            created, settled, payload_id, settled_on)
        SELECT 'env-1', gen_random_uuid(), 'hook-' || n % 2, 'ev-' || n, 'card-published',
            CASE WHEN n % 1000 = 0 THEN 'dead' ELSE 'delivered' END, CASE WHEN n % 1000 = 0 THEN 'too_old' END, 1,
            now() - n * interval '5 s', now() - n * interval '5 s', gen_random_uuid(),
            ((now() - n * interval '5 s') AT TIME ZONE 'UTC')::date
        FROM generate_series(1, 30000) AS n;
    INSERT INTO deliveries_waiting (environment_id, request_id, webhook_id, event_id, event_type, status, attempts, claims,
            created, due, payload_id, payload_bytes)
        SELECT 'env-1', gen_random_uuid(), 'hook-0', 'w-' || n, 'card-published', 'scheduled', 1, 0,
            now() - n * interval '7 s', now(), gen_random_uuid(), 2 FROM generate_series(1, 3000) AS n;
    ANALYZE";

/// Rows that scans have fetched since the counters were reset.
const FETCHED: &str = "
    SELECT (sum(seq_tup_read) + sum(idx_tup_fetch))::bigint FROM pg_stat_xact_user_tables
    WHERE relname LIKE 'deliveries%'";

#[tokio::test]
async fn a_log_of_thousands_is_read_whole_page_by_page() {
    let f = store().await;
    f.sql.batch_execute(DAYS_BEFORE).await.unwrap();
    f.sql.batch_execute(MANY).await.unwrap();

    for (status, expected) in [
        (None, 15_000 + 3000),
        (Some(DeliveryStatus::Dead), 30),
        (Some(DeliveryStatus::Scheduled), 3000),
        (Some(DeliveryStatus::Held), 0),
    ] {
        let (mut seen, mut before, mut created) = (HashSet::<RequestId>::new(), None, None);
        loop {
            let page = f
                .store
                .deliveries(ENV, "hook-0", status, before, 100)
                .await
                .unwrap();
            for view in &page.deliveries {
                assert!(created.is_none_or(|earlier| view.created <= earlier));
                created = Some(view.created);
                assert!(seen.insert(view.request_id), "{} twice", view.request_id);
                assert!(status.is_none_or(|status| view.status == status));
            }
            before = page.next;
            if before.is_none() {
                break;
            }
        }
        assert_eq!(seen.len(), expected, "{status:?}");
    }
}

#[tokio::test]
async fn a_page_reads_no_more_than_it_shows() {
    let f = store().await;
    f.sql.batch_execute(DAYS_BEFORE).await.unwrap();
    f.sql.batch_execute(MANY).await.unwrap();
    for (table, status) in [
        ("deliveries", "dead"),
        ("deliveries", "delivered"),
        ("deliveries_waiting", "scheduled"),
    ] {
        let page = format!(
            "SELECT request_id FROM {table} WHERE environment_id = 'env-1' AND webhook_id = 'hook-0'
                AND status = '{status}' AND (created, request_id) < (now() - interval '1 h', '{}')
            ORDER BY created DESC, request_id DESC LIMIT 20",
            uuid::Uuid::max()
        );
        f.sql.batch_execute("BEGIN").await.unwrap();
        let rows = f.sql.query(&page, &[]).await.unwrap();
        let fetched = number(&f.sql, FETCHED).await;
        f.sql.batch_execute("ROLLBACK").await.unwrap();

        assert!(!rows.is_empty());
        // Each day up to a page, and the row that tells its end.
        assert!(fetched <= 11 * 21, "{fetched} rows for a page of {status}");
    }
}

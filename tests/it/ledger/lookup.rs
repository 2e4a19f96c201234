//! What can be asked of the ledger.

use std::collections::HashSet;
use std::time::Duration;

use super::fixture::*;

#[tokio::test]
async fn known_are_those_that_wait_or_are_settled() {
    let f = store().await;
    f.store.create(subscription("hook-a")).await.unwrap();
    f.store
        .commit(&[
            delivered("hook-a", "ev-1"),
            failed("hook-a", "ev-2", MINUTE),
        ])
        .await
        .unwrap();
    let id = |event| delivered("hook-a", event).delivery.request_id;
    let keys: Vec<_> = ["ev-1", "ev-2", "ev-3"].map(|e| (ENV.into(), id(e))).into();

    let known = f.store.known(&keys).await.unwrap();

    assert_eq!(known, HashSet::from([id("ev-1"), id("ev-2")]));
}

#[tokio::test]
async fn the_gauges_count_what_stands() {
    let f = store().await;
    f.store.create(subscription("hook-a")).await.unwrap();
    f.store
        .commit(&[
            failed("hook-a", "ev-1", Duration::ZERO),
            failed("hook-a", "ev-2", MINUTE),
        ])
        .await
        .unwrap();
    f.sql
        .batch_execute(
            "UPDATE deliveries_waiting SET due = now() - interval '9 s' WHERE due <= now()",
        )
        .await
        .unwrap();
    let gauges = f.store.gauges().await.unwrap();
    assert_eq!((gauges.due, gauges.held, gauges.outbox_pending), (1, 0, 0));
    assert!(gauges.oldest_due_seconds >= 9.0 && gauges.oldest_due_seconds < 20.0);

    f.sql.batch_execute("INSERT INTO deliveries_waiting SELECT 'env-1', gen_random_uuid(), 'hook-a', 'e', 't', 'scheduled', 0, 0, now(), now() - interval '1 s', NULL, NULL, '0', gen_random_uuid(), 1 FROM generate_series(1, 30000); ANALYZE deliveries_waiting").await.unwrap();
    let gauges = f.store.gauges().await.unwrap();
    assert!(gauges.due > 20_000 && gauges.due < 40_000, "{gauges:?}");
}

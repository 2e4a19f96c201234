//! What happens while Postgres doesn't answer.

use std::time::{Duration, Instant};

use store::StoreError;

use super::fixture::*;

#[tokio::test]
async fn a_ledger_that_does_not_answer_is_unavailable_in_time_and_works_again() {
    let f = store().await;
    f.sql
        .batch_execute("BEGIN; LOCK TABLE deliveries_waiting")
        .await
        .unwrap();
    let begun = Instant::now();

    let result = f.store.commit(&[delivered("hook-a", "ev-1")]).await;

    assert!(
        matches!(result, Err(StoreError::Unavailable(_))),
        "{result:?}"
    );
    assert!(begun.elapsed() < Duration::from_secs(11));
    f.sql.batch_execute("ROLLBACK").await.unwrap();
    f.store
        .commit(&[delivered("hook-a", "ev-1")])
        .await
        .unwrap();
}

#[tokio::test]
async fn a_caller_that_gives_up_leaves_no_transaction_open() {
    let f = store().await;
    f.sql
        .batch_execute("BEGIN; LOCK TABLE deliveries_waiting")
        .await
        .unwrap();
    let records = [delivered("hook-a", "ev-1")];
    assert!(
        tokio::time::timeout(Duration::from_millis(300), f.store.commit(&records))
            .await
            .is_err()
    );
    f.sql.batch_execute("ROLLBACK").await.unwrap();

    for _ in 0..20 {
        f.store.commit(&records).await.unwrap();
    }

    let limit = Instant::now() + Duration::from_secs(5);
    while number(&f.sql, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in%'").await > 0 {
        assert!(Instant::now() < limit);
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn nobody_there_is_unavailable_and_shows_no_password() {
    let store = store_at("postgres://u:hush@127.0.0.1:1/d", &[1]);

    let error = store.gauges().await.unwrap_err();

    assert!(matches!(error, StoreError::Unavailable(_)));
    assert!(!format!("{error:?} {store:?}").contains("hush"));
}

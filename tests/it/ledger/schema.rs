//! Migrations and partitions.

use std::time::{Duration, Instant};

use store::{SchemaState, StoreError};
use tests::servers::connect;

use super::fixture::*;

#[tokio::test]
async fn migrating_is_done_once_by_whoever_comes_first() {
    let f = store().await;
    assert_eq!(f.store.schema_state().await.unwrap(), SchemaState::Current);
    assert_eq!(f.store.migrate().await.unwrap(), 0);
    f.sql.batch_execute("INSERT INTO refinery_schema_history VALUES (999, 'later', '2026-01-01T00:00:00Z', '1')").await.unwrap();
    assert_eq!(f.store.schema_state().await.unwrap(), SchemaState::Newer);
    assert!(matches!(
        f.store.migrate().await,
        Err(StoreError::SchemaNewer)
    ));
    f.sql
        .batch_execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        .await
        .unwrap();
    assert_eq!(f.store.schema_state().await.unwrap(), SchemaState::Behind);
    assert!(matches!(
        f.store.gauges().await,
        Err(StoreError::SchemaBehind)
    ));

    let mut all = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let store = store_at(&f.url, &[1]);
        all.spawn(async move { store.migrate().await.unwrap() });
    }
    let mut applied = 0;
    while let Some(one) = all.join_next().await {
        applied += one.unwrap();
    }
    let known = store::migrations().get_migrations().len();
    assert_eq!(usize::try_from(applied).unwrap(), known);
    assert_eq!(number(&f.sql, "SELECT count(*) FROM pg_inherits i WHERE inhparent IN ('deliveries'::regclass, 'attempts'::regclass, 'payloads'::regclass)").await, 24);
}

#[tokio::test]
async fn a_day_that_stands_apart_is_attached_again() {
    let f = store().await;
    f.sql
        .batch_execute(
            "DO $$ BEGIN EXECUTE format('ALTER TABLE deliveries DETACH PARTITION %I',
        'deliveries' || to_char((now() AT TIME ZONE 'UTC')::date, '_YYYYMMDD')); END $$",
        )
        .await
        .unwrap();

    let written = f
        .store
        .commit(&[delivered("hook-a", "ev-1")])
        .await
        .unwrap();

    assert_eq!(written[0].status, webhook::DeliveryStatus::Delivered);
    assert_eq!(number(&f.sql, "SELECT count(*) FROM deliveries").await, 1);
}

#[tokio::test]
async fn days_past_keeping_go_but_not_those_that_the_outbox_needs() {
    let f = store().await;
    f.sql.batch_execute("DO $$ DECLARE d date; t text; BEGIN FOR n IN 1..40 LOOP d := (now() AT TIME ZONE 'UTC')::date - n;
        FOREACH t IN ARRAY ARRAY['deliveries','attempts','payloads'] LOOP
        EXECUTE format('CREATE TABLE %s PARTITION OF %s FOR VALUES FROM (%L) TO (%L)', t || to_char(d, '_YYYYMMDD'), t, d, d + 1); END LOOP; END LOOP; END $$;
        INSERT INTO outbox (kind, environment_id, webhook_id, reason, settled_on) VALUES ('delivery_dead', 'e', 'w', 'gone', (now() AT TIME ZONE 'UTC')::date - 20)").await.unwrap();
    const DAY: u64 = 86_400;

    let dropped = f
        .store
        .drop_partitions(Duration::from_secs(30 * DAY), Duration::from_secs(3 * DAY))
        .await
        .unwrap();

    // Of 40 past days deliveries and attempts keep 30, payloads 3 and the one that the outbox needs.
    assert_eq!(dropped, Some(10 + 10 + 36));
    assert_eq!(
        f.store
            .drop_partitions(Duration::from_secs(30 * DAY), Duration::from_secs(3 * DAY))
            .await
            .unwrap(),
        Some(0)
    );
}

/// A worker that makes a day holds the drop up for a moment, not until the next round.
#[tokio::test]
async fn who_meets_another_at_the_partitions_is_told_to_come_again() {
    let f = store().await;
    let month = Duration::from_secs(30 * 86_400);
    let maker = connect(&f.url).await;
    maker
        .batch_execute(
            "BEGIN; SELECT pg_advisory_xact_lock(hashtextextended('postrider partitions ' || current_schema(), 0))",
        )
        .await
        .unwrap();

    let met = f.store.drop_partitions(month, month).await.unwrap();

    assert_eq!(met, None);
    maker.batch_execute("COMMIT").await.unwrap();
    let alone = f.store.drop_partitions(month, month).await.unwrap();
    assert_eq!(alone, Some(0));
}

/// As long as a query of the whole log lasts, days past keeping stay, and new ones are made; no write waits for either.
#[tokio::test]
async fn a_long_query_of_the_log_stalls_neither_commits_nor_new_days() {
    let f = store().await;
    f.sql
        .batch_execute(
            "DO $$ DECLARE d date := (now() AT TIME ZONE 'UTC')::date - 40; t text; BEGIN
                FOREACH t IN ARRAY ARRAY['deliveries','attempts','payloads'] LOOP
                    EXECUTE format('CREATE TABLE %s PARTITION OF %s FOR VALUES FROM (%L) TO (%L)',
                        t || to_char(d, '_YYYYMMDD'), t, d, d + 1);
                    EXECUTE format('DROP TABLE %s', t || to_char(d + 47, '_YYYYMMDD'));
                END LOOP; END $$",
        )
        .await
        .unwrap();
    let month = Duration::from_secs(30 * 86_400);
    // Its locks are those of a query that lasts.
    let reader = connect(&f.url).await;
    reader
        .client
        .batch_execute("BEGIN; SELECT count(*) FROM deliveries, attempts, payloads")
        .await
        .unwrap();

    let dropping = f.store.drop_partitions(month, month);
    let writing = async {
        let mut slowest = Duration::ZERO;
        for n in 0..100 {
            let began = Instant::now();
            let record = delivered("hook-a", &format!("ev-{n}"));
            f.store.commit(&[record]).await.unwrap();
            slowest = slowest.max(began.elapsed());
        }
        slowest
    };
    let (dropped, slowest) = tokio::join!(dropping, writing);

    assert!(dropped.is_err(), "{dropped:?}");
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    assert_eq!(f.store.ensure_partitions(7).await.unwrap(), 3);
    reader.client.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(
        f.store.drop_partitions(month, month).await.unwrap(),
        Some(3)
    );
}

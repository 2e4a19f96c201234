//! A store on a database of its own, records to write, and what must hold of the ledger.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use store::{
    Attempt, ClaimLimits, Claimed, Delivery, Keyring, NewSubscription, Payload, PostgresSettings,
    Record, Step, Store,
};
use tests::servers::{Session, connect};
use tests::stage::Stage;
use tests::wait::wait_until;
use uuid::Uuid;
use webhook::{Method, Outcome, RequestId, Secret};

pub(super) const ENV: &str = "env-1";
pub(super) const LEASE: Duration = Duration::from_secs(30);
/// What is held may be so for as long.
pub(super) const HELD_MAX: Duration = Duration::from_secs(3600);
pub(super) const MINUTE: Duration = Duration::from_secs(60);

/// Makes the partitions of deliveries for yesterday and the day before.
pub(super) const DAYS_BEFORE: &str = "
    DO $$ DECLARE d date; BEGIN FOR n IN 1..2 LOOP d := (now() AT TIME ZONE 'UTC')::date - n;
        EXECUTE format('CREATE TABLE deliveries_%s PARTITION OF deliveries FOR VALUES FROM (%L) TO (%L)',
            to_char(d, 'YYYYMMDD'), d, d + 1); END LOOP; END $$";

/// So many settled ones, with payload and attempt, over three days; every other one of the end user `u-1`.
pub(super) const MANY: &str = "
    WITH made AS (SELECT n, gen_random_uuid() AS id, now() - n % 3 * interval '1 day' AS at
            FROM generate_series(1, $1::int4) AS n),
    kept AS (INSERT INTO payloads SELECT 'env-1', id, (at AT TIME ZONE 'UTC')::date,
            convert_to('{\"id\":\"ev-' || n || '\",\"endUserId\":\"u-' || n % 2 || '\",\"secret\":\"'
                || CASE n % 2 WHEN 1 THEN 'hush' ELSE '' END || '\"}', 'UTF8') FROM made),
    tried AS (INSERT INTO attempts SELECT 'env-1', id, 1, at, 1, 'delivered', 200, NULL,
            CASE n % 2 WHEN 1 THEN 'hush' ELSE 'plain' END::bytea, (at AT TIME ZONE 'UTC')::date FROM made)
    INSERT INTO deliveries SELECT 'env-1', id, 'hook-a', 'ev-' || n, 'card-published', 'delivered', NULL, 1, at, at, id,
        (at AT TIME ZONE 'UTC')::date FROM made";

pub(super) struct Fixture {
    pub(super) store: Store,
    pub(super) sql: Session,
    pub(super) url: String,
    _stage: Stage,
}

pub(super) fn store_at(url: &str, keys: &[u8]) -> Store {
    let keyring = Keyring::new(keys.iter().map(|k| [*k; 32]).collect()).unwrap();
    Store::new(
        PostgresSettings {
            url: url.into(),
            ca_file: None,
            pool_size: 8,
        },
        keyring,
    )
    .unwrap()
}

pub(super) async fn store() -> Fixture {
    let stage = Stage::new("ledger").await;
    let url = stage.postgres_url.clone();
    let store = store_at(&url, &[1]);
    assert!(store.migrate().await.unwrap() >= 1);
    Fixture {
        store,
        sql: connect(&url).await,
        url,
        _stage: stage,
    }
}

pub(super) fn subscription(id: &str) -> NewSubscription {
    NewSubscription {
        environment_id: ENV.into(),
        id: id.into(),
        name: Some("n".into()),
        types: vec!["card-published".into()],
        card_template_id: None,
        action_flow_config_id: None,
        url: "https://example.com/hook".into(),
        method: Method::Post,
        headers: vec![("X-Token".into(), "hush-header".into())],
        batch: None,
        rate_limit: None,
        secret: Secret::new("hush-secret".into()),
    }
}

pub(super) fn record(webhook_id: &str, event_id: &str, step: Step) -> Record {
    Record {
        delivery: Delivery {
            environment_id: ENV.into(),
            request_id: RequestId::of_event(webhook_id, "card-published", event_id),
            webhook_id: webhook_id.into(),
            event_id: event_id.into(),
            event_type: "card-published".into(),
            trace: None,
        },
        payload: Payload {
            id: Uuid::new_v5(&Uuid::nil(), event_id.as_bytes()),
            data: Bytes::from(format!("{{\"id\":\"{event_id}\"}}")),
        },
        age: Duration::from_secs(3),
        attempt: None,
        lease_id: None,
        step,
    }
}

pub(super) fn attempted(mut record: Record, number: u32, outcome: Outcome) -> Record {
    record.attempt = Some(Attempt {
        number,
        ago: Duration::from_millis(300),
        duration: Duration::from_millis(20),
        outcome,
        status: Some(503),
        error: Some("a\0b".into()),
        response: Some(Bytes::from(vec![0xff; 2000])),
    });
    record
}

pub(super) fn failed(webhook_id: &str, event_id: &str, after: Duration) -> Record {
    attempted(
        record(webhook_id, event_id, Step::Retry { after }),
        1,
        Outcome::HttpStatus,
    )
}

pub(super) fn delivered(webhook_id: &str, event_id: &str) -> Record {
    attempted(
        record(webhook_id, event_id, Step::Delivered),
        1,
        Outcome::Delivered,
    )
}

pub(super) fn result_of(claimed: &Claimed, step: Step, outcome: Outcome) -> Record {
    let record = Record {
        delivery: claimed.delivery.clone(),
        payload: claimed.payload.clone(),
        age: claimed.age,
        attempt: None,
        lease_id: Some(claimed.lease_id),
        step,
    };
    attempted(record, claimed.attempts + 1, outcome)
}

pub(super) fn limits<'a>(slots: &'a [(Arc<str>, Arc<str>, u32)]) -> ClaimLimits<'a> {
    ClaimLimits {
        rows_max: 100,
        payload_bytes_max: 1 << 20,
        lease: LEASE,
        suspect: true,
        slots_default: 10,
        slots,
    }
}

/// What must hold whenever nothing is under way.
pub(super) async fn assert_sound(sql: &Session) {
    for (what, query) in [
        (
            "payloads without a delivery",
            "SELECT count(*) FROM payloads_waiting p WHERE NOT EXISTS (SELECT FROM deliveries_waiting w WHERE w.environment_id = p.environment_id AND w.payload_id = p.payload_id) AND NOT EXISTS (SELECT FROM batch_members_waiting m WHERE m.environment_id = p.environment_id AND m.payload_id = p.payload_id)",
        ),
        (
            "deliveries without a payload",
            "SELECT count(*) FROM deliveries_waiting w WHERE NOT EXISTS (SELECT FROM payloads_waiting p WHERE w.environment_id = p.environment_id AND w.payload_id = p.payload_id)",
        ),
        (
            "events for batches without a payload",
            "SELECT count(*) FROM batch_members_waiting m WHERE NOT EXISTS (SELECT FROM payloads_waiting p WHERE m.environment_id = p.environment_id AND m.payload_id = p.payload_id)",
        ),
        (
            "events for batches that nobody looks at",
            "SELECT count(*) FROM batch_members_waiting m LEFT JOIN batches_open b USING (environment_id, webhook_id) WHERE b.next_look IS NULL OR b.next_look > now() + '61 s'",
        ),
        (
            "settled without a payload",
            "SELECT count(*) FROM deliveries w WHERE NOT EXISTS (SELECT FROM payloads p WHERE w.environment_id = p.environment_id AND w.payload_id = p.payload_id AND w.settled_on = p.settled_on)",
        ),
        (
            "heads too late",
            "SELECT count(*) FROM deliveries_waiting w LEFT JOIN subscription_due h USING (environment_id, webhook_id) WHERE w.status = 'scheduled' AND (h.next_due IS NULL OR h.next_due > GREATEST(w.due, now() + '6 s'))",
        ),
        (
            "held without a sweep",
            "SELECT count(*) FROM deliveries_waiting w LEFT JOIN subscription_due h USING (environment_id, webhook_id) WHERE w.status = 'held' AND (h.next_sweep IS NULL OR h.next_sweep > now() + '61 s')",
        ),
        (
            "attempts without a delivery",
            "SELECT count(*) FROM attempts_waiting a WHERE NOT EXISTS (SELECT FROM deliveries_waiting w WHERE w.environment_id = a.environment_id AND w.request_id = a.request_id)",
        ),
    ] {
        let n: i64 = sql.query_one(query, &[]).await.unwrap().get(0);
        assert_eq!(n, 0, "{what}");
    }
}

/// Yesterday and the day before, of all three tables.
pub(super) fn days_before() -> String {
    ["deliveries", "attempts", "payloads"]
        .map(|table| DAYS_BEFORE.replace("deliveries", table))
        .join(";")
}

pub(super) async fn number(sql: &Session, query: &str) -> i64 {
    sql.query_one(query, &[]).await.unwrap().get(0)
}

pub(super) async fn sweep_all(store: &Store) -> u32 {
    let mut all = 0;
    loop {
        match store.sweep(500, HELD_MAX).await.unwrap().changed() {
            0 => return all,
            n => all += n,
        }
    }
}

/// What was read of the ledger's tables and their indexes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fetched {
    /// Rows, by scans of tables and of indexes.
    pub(super) rows: i64,
    /// Blocks of 8 KiB, those that were in memory too: an index that is read whole costs blocks, not rows.
    pub(super) blocks: i64,
}

impl Fetched {
    async fn so_far(sql: &Session) -> Self {
        const ROWS: &str = "SELECT coalesce(sum(seq_tup_read) + sum(idx_tup_fetch), 0)::bigint FROM pg_stat_user_tables
            WHERE relname ~ '^(deliveries|attempts|payloads)'";
        const BLOCKS: &str =
            "SELECT coalesce(sum(heap_blks_read) + sum(heap_blks_hit) + sum(idx_blks_read)
                + sum(idx_blks_hit), 0)::bigint
            FROM pg_statio_user_tables WHERE relname ~ '^(deliveries|attempts|payloads)'";
        Self {
            rows: number(sql, ROWS).await,
            blocks: number(sql, BLOCKS).await,
        }
    }
}

/// What a fresh store has read for some work.
pub(super) async fn fetched_by(f: &Fixture, work: impl AsyncFnOnce(Store)) -> Fetched {
    const OPEN: &str = "SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND application_name = 'postrider'";
    f.sql
        .batch_execute("SELECT pg_stat_force_next_flush()")
        .await
        .unwrap();
    let (open, before) = (number(&f.sql, OPEN).await, Fetched::so_far(&f.sql).await);

    work(store_at(&f.url, &[1])).await;

    // A connection tells what it has read when it ends at the latest.
    wait_until(MINUTE, "the end of its connections", async || {
        (number(&f.sql, OPEN).await <= open).then_some(())
    })
    .await;
    let after = Fetched::so_far(&f.sql).await;
    Fetched {
        rows: after.rows - before.rows,
        blocks: after.blocks - before.blocks,
    }
}

//! How long the questions to a long log take: measured, not asserted, but for what they answer. `make log` asks among ten
//! million settled deliveries, three million of them of one subscription; `make test` among some thousands.

use std::time::{Duration, Instant};

use store::{Accepted, Deaths, LogCursor};
use time::OffsetDateTime;
use uuid::Uuid;
use webhook::{DeliveryStatus, RequestId};

use super::fixture::*;

/// So many settled deliveries; `POSTRIDER_TEST_LOG_ROWS` says otherwise.
const ROWS: i64 = 30_000;
const DAYS: i64 = 30;
/// Each question is asked so often.
const TIMES: usize = 20;
const BIG: &str = "hook-big";

/// One day's partitions; payloads are kept for three.
const DAY: &str = "
    DO $$ DECLARE d date := (now() AT TIME ZONE 'UTC')::date - {ago}; t text; BEGIN
        FOREACH t IN ARRAY ARRAY['deliveries', 'attempts', 'payloads'] LOOP
            IF t <> 'payloads' OR {ago} <= 3 THEN
                EXECUTE format('CREATE TABLE %s PARTITION OF %s FOR VALUES FROM (%L) TO (%L)',
                    t || to_char(d, '_YYYYMMDD'), t, d, d + 1);
            END IF;
        END LOOP;
    END $$";
/// A day's share: three of ten are the big subscription's, one in a thousand is dead, one in five thousand cancelled.
const FILL: &str = "
    WITH made AS (SELECT n, gen_random_uuid() AS id, (now() AT TIME ZONE 'UTC')::date - {ago} AS day,
            (((now() AT TIME ZONE 'UTC')::date - {ago})::timestamp + random() * interval '23:59:59') AT TIME ZONE 'UTC' AS at,
            CASE WHEN n % 1000 = 2 THEN 'dead' WHEN n % 5000 = 11 THEN 'cancelled' ELSE 'delivered' END AS status
        FROM generate_series(1, {rows}) AS n),
    tried AS (INSERT INTO attempts (environment_id, request_id, attempt, started, duration_ms, outcome, status, error,
                response, settled_on)
            SELECT CASE WHEN n % 10 < 3 THEN 'env-1' ELSE 'env-' || 2 + n % 100 END, id, 1, at, 12,
                CASE status WHEN 'dead' THEN 'http_status' ELSE 'delivered' END, 200, NULL, 'thank you', day FROM made)
    INSERT INTO deliveries (environment_id, request_id, webhook_id, event_id, event_type, status, reason, attempts,
            created, settled, payload_id, settled_on)
        SELECT CASE WHEN n % 10 < 3 THEN 'env-1' ELSE 'env-' || 2 + n % 100 END, id,
            CASE WHEN n % 10 < 3 THEN 'hook-big' ELSE 'hook-' || n % 1000 END, 'ev-' || n, 'card-published', status,
            CASE status WHEN 'dead' THEN 'too_old' END, 1, at, at, gen_random_uuid(), day FROM made";
const WAITING: &str = "
    INSERT INTO deliveries_waiting (environment_id, request_id, webhook_id, event_id, event_type, status, attempts, claims,
            created, due, held_since, payload_id, payload_bytes)
        SELECT 'env-1', gen_random_uuid(), 'hook-big', 'w-' || n, 'card-published',
            CASE n % 5 WHEN 0 THEN 'held' ELSE 'scheduled' END, 1, 0, now() - n * interval '1 s',
            CASE WHEN n % 5 > 0 THEN now() + interval '1 h' END, CASE n % 5 WHEN 0 THEN now() END, gen_random_uuid(), 2
        FROM generate_series(1, 20000) AS n";

/// One line of the table.
async fn measure<T>(what: &str, mut ask: impl AsyncFnMut(usize) -> T) -> T {
    let (mut took, mut answer) = (Vec::with_capacity(TIMES), None);
    for time in 0..=TIMES {
        let began = Instant::now();
        answer = Some(ask(time).await);
        took.push(began.elapsed());
    }
    let first = took.remove(0);
    took.sort_unstable();
    let ms = |took: Duration| took.as_secs_f64() * 1000.0;
    eprintln!(
        "| {what} | {:.1} | {:.1} | {:.1} |",
        ms(first),
        ms(took[TIMES / 2]),
        ms(took[TIMES - 1])
    );
    answer.expect("it was asked")
}

#[tokio::test]
async fn the_questions_to_a_long_log_are_answered() {
    let rows = std::env::var("POSTRIDER_TEST_LOG_ROWS");
    let rows: i64 = rows.map_or(ROWS, |rows| rows.parse().unwrap());
    let f = store().await;
    f.store.create(subscription(BIG)).await.unwrap();
    let began = Instant::now();
    for ago in 1..=DAYS {
        let share = [("{ago}", ago), ("{rows}", rows / DAYS)];
        for sql in [DAY, FILL] {
            let sql = share.iter().fold(sql.to_owned(), |sql, (name, value)| {
                sql.replace(name, &value.to_string())
            });
            f.sql.batch_execute(&sql).await.unwrap();
        }
    }
    f.sql.batch_execute(WAITING).await.unwrap();
    for sql in ["VACUUM ANALYZE", "CHECKPOINT"] {
        f.sql.batch_execute(sql).await.unwrap();
    }
    let bytes = "SELECT sum(pg_total_relation_size(inhrelid))::bigint FROM pg_inherits";
    let mib = number(&f.sql, bytes).await >> 20;
    eprintln!(
        "{rows} settled, {mib} MiB with indexes, made in {:.0?}\n",
        began.elapsed()
    );
    eprintln!("| question | first, ms | median, ms | slowest, ms |\n|---|---:|---:|---:|");

    let now = OffsetDateTime::now_utc();
    let all = [None].into_iter().chain(DeliveryStatus::ALL.map(Some));
    for status in all {
        for (page, days) in [("first page", None), ("page 15 days back", Some(15))] {
            let waits = matches!(
                status,
                Some(DeliveryStatus::Scheduled | DeliveryStatus::Held)
            );
            if waits && days.is_some() {
                continue;
            }
            let before = days.map(|days| LogCursor {
                created: now - time::Duration::days(days),
                request_id: RequestId(Uuid::max()),
            });
            let named = status.map_or("all", DeliveryStatus::as_str);
            let page = measure(&format!("log, {named}, {page} of 100"), async |_| {
                let page = f.store.deliveries(ENV, BIG, status, before, 100).await;
                page.unwrap().deliveries
            })
            .await;
            assert!(!page.is_empty(), "{named}");
            assert!(
                page.iter()
                    .all(|view| status.is_none_or(|status| view.status == status))
            );
        }
    }
    let ids = "SELECT d.request_id FROM generate_series(1, 30) AS ago, LATERAL (SELECT request_id FROM deliveries
        WHERE environment_id = 'env-1' AND settled_on = (now() AT TIME ZONE 'UTC')::date - ago LIMIT 2) AS d";
    let ids: Vec<Uuid> = f
        .sql
        .query(ids, &[])
        .await
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    let view = measure("one delivery by its requestId", async |time| {
        let id = RequestId(ids[time % ids.len()]);
        f.store.delivery(ENV, id).await.unwrap()
    })
    .await;
    assert!(view.is_some());
    let none = measure("a requestId that nobody knows", async |_| {
        f.store
            .delivery(ENV, RequestId(Uuid::new_v4()))
            .await
            .unwrap()
    })
    .await;
    assert!(none.is_none());
    let month = Deaths::default();
    let listed = measure("dead-letters list, the newest 100", async |_| {
        f.store
            .dead_deliveries(ENV, Some(BIG), month, None, 100)
            .await
            .unwrap()
    })
    .await;
    assert!(!listed.is_empty());
    let accepted = measure("a span's dead are counted and accepted", async |_| {
        f.store.redeliver_dead(ENV, BIG, month).await.unwrap()
    })
    .await;
    let Accepted::Redelivery { accepted, .. } = accepted else {
        panic!("it is active");
    };
    assert!(accepted > 0);
    eprintln!("\n{accepted} were dead in the days of which payloads are kept");
}

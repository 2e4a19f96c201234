//! Weeks pass: what is past keeping goes by the day, what waits stays with its bytes, and what was held too long ends.

use tests::receiver::Reply;
use tests::servers::Session;
use tests::wait::wait_until;
use webhook::{DeadReason, DeliveryStatus, RequestId, Status};

use crate::world::{DEAD_DELIVERIES, ENV, SOON, World, data, request_id};

/// Every time in the database is as long ago as if so many days had passed: the columns are those that the catalogue knows, so
/// none is forgotten. Partitions become those of as many days before, the earliest first, so that none is in another's way.
const DAYS_PASS: &str = "
    SET timezone = 'UTC';
    DO $$ DECLARE days int := {days}; child record; changed record; BEGIN
        CREATE TEMPORARY TABLE moved AS
            SELECT i.inhparent::regclass::text AS parent, c.relname::text AS name,
                to_date(right(c.relname, 8), 'YYYYMMDD') - days AS day
            FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE c.relkind = 'r';
        FOR child IN SELECT * FROM moved LOOP
            EXECUTE format('ALTER TABLE %I DETACH PARTITION %I', child.parent, child.name);
        END LOOP;
        FOR changed IN SELECT c.table_name, string_agg(CASE c.data_type
                    WHEN 'date' THEN format('%1$I = %1$I - %2$s', c.column_name, days)
                    ELSE format('%1$I = %1$I - interval ''%2$s days''', c.column_name, days) END, ', ') AS sets
                FROM information_schema.columns c JOIN pg_class t ON t.oid = to_regclass(quote_ident(c.table_name))
                WHERE c.table_schema = current_schema() AND t.relkind = 'r'
                    AND c.data_type IN ('date', 'timestamp with time zone')
                GROUP BY 1 LOOP
            EXECUTE format('UPDATE %I SET %s', changed.table_name, changed.sets);
        END LOOP;
        FOR child IN SELECT *, parent || to_char(day, '_YYYYMMDD') AS past FROM moved ORDER BY day LOOP
            EXECUTE format('ALTER TABLE %I RENAME TO %I', child.name, child.past);
            EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', child.parent, child.past,
                child.day, child.day + 1);
        END LOOP;
        DROP TABLE moved;
    END $$";

async fn days_pass(sql: &Session, days: u32) {
    let passing = DAYS_PASS.replace("{days}", &days.to_string());
    sql.batch_execute(&passing).await.unwrap();
}

/// The first retry comes after forty days, and age ends nothing.
const SETTINGS: [(&str, &str); 3] = [
    ("POSTRIDER__RETRY__DELAY_BASE", "40d"),
    ("POSTRIDER__RETRY__DELAY_MAX", "40d"),
    ("POSTRIDER__RETRY__AGE_MAX", "90d"),
];

/// So many days later a worker does what is to be done, until `done`, and stops.
async fn later(world: &World, days: u32, what: &str, done: impl AsyncFn() -> bool) {
    days_pass(&world.sql, days).await;
    let mut worker = world.worker_with(&SETTINGS).await;
    wait_until(SOON, what, async || done().await.then_some(())).await;
    wait_until(SOON, "a week of days ahead", async || {
        let ahead = worker.metric("postrider_ledger_partitions_ahead", &[]);
        (ahead.await == 7.0).then_some(())
    })
    .await;
    world.stop_with_all_acked(&mut worker).await;
}

async fn status(world: &World, id: RequestId) -> Option<DeliveryStatus> {
    let view = world.store.delivery(ENV, id).await.unwrap();
    view.map(|view| view.status)
}

async fn payload(world: &World, id: RequestId) -> Option<String> {
    let payload = world.store.delivery_payload(ENV, id).await.unwrap();
    payload.map(|data| String::from_utf8(data.to_vec()).unwrap())
}

#[tokio::test]
async fn what_is_settled_goes_after_its_time_and_what_waits_stays() {
    let world = World::new("retention").await;
    let [well, later_on, paused] = [
        world.subscribe("/well").await,
        world.subscribe("/later").await,
        world.subscribe("/paused").await,
    ];
    world
        .receiver
        .script("/later", [Reply::status(503), Reply::status(200)]);
    let pause = world.store.set_status(ENV, &paused, Status::Paused, None);
    pause.await.unwrap();
    let (scheduled, held) = (DeliveryStatus::Scheduled, DeliveryStatus::Held);
    let delivered = DeliveryStatus::Delivered;
    let [well, later_on, paused] = [well, later_on, paused].map(|id| request_id(&id, "ev-1"));
    let mut worker = world.worker_with(&SETTINGS).await;
    world.publish("card-published", "ev-1").await;
    world.wait_status(well, delivered).await;
    world.wait_status(later_on, scheduled).await;
    world.wait_status(paused, held).await;
    world.stop_with_all_acked(&mut worker).await;
    let bytes = data("card-published", "ev-1");
    assert_eq!(payload(&world, well).await, Some(bytes.clone()));

    // Payloads are kept for 3 days, deliveries and what is held for 30.
    later(&world, 8, "the payload's end", async || {
        payload(&world, well).await.is_none()
    })
    .await;
    assert_eq!(status(&world, well).await, Some(delivered));
    assert_eq!(
        world.store.redeliver(ENV, well).await.unwrap(),
        store::Redelivered::PayloadGone
    );
    for (id, waits) in [(later_on, scheduled), (paused, held)] {
        assert_eq!(status(&world, id).await, Some(waits));
        assert_eq!(payload(&world, id).await, Some(bytes.clone()));
    }

    later(&world, 23, "the delivery's end", async || {
        status(&world, well).await.is_none()
            && status(&world, paused).await == Some(DeliveryStatus::Dead)
    })
    .await;
    let attempts = "SELECT count(*) FROM attempts";
    assert_eq!(world.number(attempts).await, 0);
    let view = world.store.delivery(ENV, paused).await.unwrap().unwrap();
    assert_eq!(view.reason, Some(DeadReason::HeldTooLong));
    let copy = world.take(DEAD_DELIVERIES).await;
    let reason = copy.header("x-postrider-reason");
    assert_eq!(reason.as_deref(), Some("held_too_long"));
    assert!(String::from_utf8(copy.body).unwrap().contains(&bytes));
    assert_eq!(status(&world, later_on).await, Some(scheduled));
    assert_eq!(payload(&world, later_on).await, Some(bytes.clone()));
    assert_eq!(world.receiver.count("/later"), 1);

    // After forty days it is due, and goes out as it came.
    later(&world, 10, "the second attempt", async || {
        status(&world, later_on).await == Some(delivered)
    })
    .await;
    let requests = world.receiver.requests("/later");
    assert_eq!(requests.len(), 2);
    assert_eq!(requests[1].body, requests[0].body);
    assert_eq!(requests[1].header("postrider-attempt"), Some("2"));
    assert_eq!(world.receiver.count("/well"), 1);
    assert_eq!(world.receiver.count("/paused"), 0);
}

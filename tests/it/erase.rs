//! `postrider erase`: one end user's payloads and response starts, beside running workers.

use std::time::Duration;

use serde_json::{Value, json};
use tests::postrider::{Finished, Postrider};
use tests::receiver::Reply;
use tests::wait::wait_until;
use webhook::{DeliveryStatus, Status};

use crate::world::{DEAD_DELIVERIES, ENV, SOON, World, message_of, request_id};

/// An end user whose name needs escapes, as somebody gives it to the shell.
const THEIRS: &str = "Zoë \"7\"";
const ERASE: [&str; 5] = ["erase", "--environment", ENV, "--end-user", THEIRS];
/// What of theirs is left.
const LEFT: &str = "
    SELECT (SELECT count(*) FROM payloads_waiting WHERE position('hush'::bytea IN data) > 0)
        + (SELECT count(*) FROM payloads WHERE position('hush'::bytea IN data) > 0)
        + (SELECT count(*) FROM attempts_waiting WHERE position('hush'::bytea IN response) > 0)
        + (SELECT count(*) FROM attempts WHERE position('hush'::bytea IN response) > 0)";

async fn publish(world: &World, id: &str, end_user: &str) {
    let data = format!(
        r#"{{"id":"{id}","analyticsEvent":"card-published","endUserId":{end_user},"properties":{{"x":"hush"}}}}"#
    );
    world.publish_raw(&message_of(&data)).await;
}

/// The same for theirs.
async fn publish_theirs(world: &World, id: &str) {
    publish(world, id, r#""Zo\u00eb \"7\"""#).await;
}

async fn run(world: &World, args: &[&str]) -> Finished {
    Postrider::run(args, &world.environment(&[])).await
}

async fn erase(world: &World) -> Value {
    let finished = run(world, &ERASE).await;
    assert!(finished.status.success(), "{}", finished.stderr);
    serde_json::from_str(&finished.stdout).unwrap()
}

fn counts(payloads: u64, responses: u64, cancelled: u64) -> Value {
    json!({"payloads": payloads, "responses": responses, "cancelled": cancelled, "moreCame": false})
}

#[tokio::test]
async fn what_is_kept_of_one_end_user_goes_and_what_waits_of_theirs_is_cancelled() {
    let world = World::new("erase").await;
    let hour = ("POSTRIDER__RETRY__DELAY_BASE", "1h");
    let long = ("POSTRIDER__RETRY__DELAY_MAX", "2h");
    let (well, busy) = (
        world.subscribe("/well").await,
        world.subscribe("/busy").await,
    );
    let ok = Reply::status(200).body("thanks, hush");
    world.receiver.script("/well", [ok]);
    world
        .receiver
        .script("/busy", [Reply::status(503).body("later, hush")]);
    let mut worker = world.worker_with(&[hour, long]).await;
    publish_theirs(&world, "ev-1").await;
    publish(&world, "ev-2", r#""somebody else""#).await;
    publish(&world, "ev-3", "7").await;
    for event in ["ev-1", "ev-2", "ev-3"] {
        let delivered = DeliveryStatus::Delivered;
        world.wait_status(request_id(&well, event), delivered).await;
        let scheduled = DeliveryStatus::Scheduled;
        world.wait_status(request_id(&busy, event), scheduled).await;
    }

    assert_eq!(erase(&world).await, counts(1, 2, 1));
    let by_number = ["erase", "--environment", ENV, "--end-user", "7"];
    let by_number = run(&world, &by_number).await;
    let again = erase(&world).await;

    let by_number: Value = serde_json::from_str(&by_number.stdout).unwrap();
    assert_eq!((by_number, again), (counts(1, 2, 1), counts(0, 0, 0)));
    let cancelled = DeliveryStatus::Cancelled;
    let view = world
        .wait_status(request_id(&busy, "ev-1"), cancelled)
        .await;
    assert_eq!(
        (view.attempts[0].status, &view.attempts[0].response),
        (Some(503), &None)
    );
    // Another's stands in history and waits, with both responses.
    assert_eq!(world.number(LEFT).await, 4);
    let waits = world.store.delivery(ENV, request_id(&busy, "ev-2")).await;
    assert_eq!(waits.unwrap().unwrap().status, DeliveryStatus::Scheduled);
    let gone = world.store.redeliver(ENV, request_id(&well, "ev-1")).await;
    assert_eq!(gone.unwrap(), store::Redelivered::PayloadGone);
    let shown = [
        "dead-letters",
        "show",
        &request_id(&well, "ev-1").to_string(),
        "--environment",
        ENV,
    ];
    let shown = run(&world, &shown).await;
    assert!(shown.stderr.contains("was erased"), "{}", shown.stderr);
    let shown: Value = serde_json::from_str(&shown.stdout).unwrap();
    assert_eq!(shown["data"], Value::Null);
    world.stop_with_all_acked(&mut worker).await;
}

#[tokio::test]
async fn what_is_held_or_in_flight_goes_too_and_the_attempt_is_waited_for() {
    let world = World::new("erase_in_flight").await;
    let paused = world.subscribe("/paused").await;
    let (store, status) = (&world.store, Status::Paused);
    store.set_status(ENV, &paused, status, None).await.unwrap();
    let slow = world.subscribe("/slow").await;
    let late = Reply::status(200)
        .body("thanks, hush")
        .delay(Duration::from_secs(4));
    world.receiver.script("/slow", [late]);
    let mut worker = world.worker().await;
    publish_theirs(&world, "ev-1").await;
    let held = DeliveryStatus::Held;
    world.wait_status(request_id(&paused, "ev-1"), held).await;
    // Handed off, under a lease.
    let scheduled = DeliveryStatus::Scheduled;
    world
        .wait_status(request_id(&slow, "ev-1"), scheduled)
        .await;

    let finished = run(&world, &ERASE).await;

    assert!(finished.status.success(), "{}", finished.stderr);
    let waiting = "an attempt is under way";
    assert!(finished.stderr.contains(waiting), "{}", finished.stderr);
    let erased: Value = serde_json::from_str(&finished.stdout).unwrap();
    assert_eq!(erased, counts(1, 1, 1));
    let (cancelled, delivered) = (DeliveryStatus::Cancelled, DeliveryStatus::Delivered);
    world
        .wait_status(request_id(&paused, "ev-1"), cancelled)
        .await;
    let view = world
        .wait_status(request_id(&slow, "ev-1"), delivered)
        .await;
    assert_eq!(view.attempts[0].response, None);
    assert_eq!(world.number(LEFT).await, 0);
    world.stop_with_all_acked(&mut worker).await;
}

#[tokio::test]
async fn a_dead_copy_that_is_still_to_be_published_goes_without_their_data() {
    let world = World::new("erase_dead").await;
    let webhook_id = world.subscribe("/gone").await;
    world.receiver.script("/gone", [Reply::status(410)]);
    let id = request_id(&webhook_id, "ev-1");
    // The dead copy is due in an hour, so that it is erased first.
    world
        .sql
        .batch_execute(
            "ALTER TABLE outbox ALTER COLUMN not_before SET DEFAULT now() + interval '1 h'",
        )
        .await
        .unwrap();
    let mut worker = world.worker().await;
    publish_theirs(&world, "ev-1").await;
    world.wait_status(id, DeliveryStatus::Dead).await;

    assert_eq!(erase(&world).await["payloads"], json!(1));

    world
        .sql
        .batch_execute("UPDATE outbox SET not_before = now()")
        .await
        .unwrap();
    let copy = world.take(DEAD_DELIVERIES).await;
    let copy: Value = serde_json::from_slice(&copy.body).unwrap();
    assert_eq!(
        copy,
        json!({"requestId": id.to_string(), "environmentId": ENV, "webhookId": webhook_id, "isBatched": false,
            "data": null})
    );
    world.stop_with_all_acked(&mut worker).await;
}

/// So many of theirs and of another, with payload and attempt.
const MANY: &str = "
    WITH made AS (SELECT n, gen_random_uuid() AS id, (now() AT TIME ZONE 'UTC')::date AS day
            FROM generate_series(1, $1::int4) AS n),
    kept AS (INSERT INTO payloads SELECT 'env-1', id, day, convert_to('{\"endUserId\":'
            || CASE n % 2 WHEN 1 THEN '\"Zo\\u00eb \\\"7\\\"\",\"x\":\"hush\"' ELSE '7' END || '}', 'UTF8') FROM made),
    tried AS (INSERT INTO attempts SELECT 'env-1', id, 1, now(), 1, 'delivered', 200, NULL,
            CASE n % 2 WHEN 1 THEN 'hush' ELSE 'plain' END::bytea, day FROM made)
    INSERT INTO deliveries SELECT 'env-1', id, 'hook-a', 'ev-' || n, 'card-published', 'delivered', NULL, 1, now(), now(),
        id, day FROM made";

#[tokio::test]
async fn one_that_is_killed_is_finished_by_the_next() {
    let world = World::new("erase_killed").await;
    let of_theirs: i64 = 10_000;
    world.sql.execute(MANY, &[&20_000]).await.unwrap();
    let left = async |sql: &str| world.number(sql).await;
    let payloads = "SELECT count(*) FROM payloads WHERE position('hush'::bytea IN data) > 0";
    let responses = "SELECT count(*) FROM attempts WHERE response = 'hush'::bytea";
    let killed_at = async |sql: &str, at_most: i64| {
        let mut erasing = Postrider::start(&ERASE, &world.environment(&[]));
        wait_until(SOON, "a part of it", async || {
            (left(sql).await <= at_most).then_some(())
        })
        .await;
        erasing.kill();
    };

    // While it empties payloads, and while it erases the responses to them.
    killed_at(payloads, of_theirs * 4 / 5).await;
    let after_first = (left(payloads).await, left(responses).await);
    killed_at(responses, of_theirs * 4 / 5).await;
    let after_second = (left(payloads).await, left(responses).await);
    let finished = erase(&world).await;

    assert!(after_first.0 > 0, "{after_first:?}");
    assert_eq!(after_first.1, of_theirs);
    assert_eq!(after_second.0, 0);
    assert!(after_second.1 > 0, "{after_second:?}");
    assert_eq!(
        finished,
        json!({"payloads": 0, "responses": after_second.1, "cancelled": 0, "moreCame": false})
    );
    assert_eq!(left(LEFT).await, 0);
    let others = "SELECT count(*) FROM attempts a JOIN payloads p ON p.payload_id = a.request_id
        WHERE octet_length(data) > 0 AND response = 'plain'::bytea";
    assert_eq!(left(others).await, of_theirs);
    assert_eq!(erase(&world).await, counts(0, 0, 0));
}

#[tokio::test]
async fn what_is_asked_for_wrongly_is_told_and_does_nothing() {
    let world = World::new("erase_wrong").await;
    world.subscribe("/hook").await;
    let cases: &[(&[&str], i32, &str)] = &[
        (&["--environment", ENV], 2, "--end-user"),
        (&["--end-user", "u-1"], 2, "--environment"),
        (&["--environment", ENV, "--end-user", ""], 2, "--end-user"),
        (&["--environment", "a b", "--end-user", "u-1"], 2, "A-Z"),
        (
            &["--environment", "env-9", "--end-user", "u-1"],
            1,
            "is --environment right?",
        ),
    ];

    for (args, code, expected) in cases {
        let finished = run(&world, &[&["erase"], *args].concat()).await;

        let (status, told) = (finished.status.code(), finished.stderr);
        assert_eq!(status, Some(*code), "{args:?}: {told}");
        assert!(told.contains(expected), "{args:?}: {told}");
        assert_eq!(finished.stdout, "", "{args:?}");
    }
    assert_eq!(erase(&world).await, counts(0, 0, 0));
}

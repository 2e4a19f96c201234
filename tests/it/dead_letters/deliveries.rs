//! Deliveries given up: what the ledger has of them.

use serde_json::{Value, json};
use tests::receiver::Reply;
use webhook::{DeliveryStatus, RequestId, Status};

use super::{done, lines, run};
use crate::world::{ENV, SOON, World, data, request_id};

/// So many dead ones, a millisecond between two deaths.
const DEAD: &str = "
    WITH made AS (SELECT n, gen_random_uuid() AS id, now() - n * interval '1 ms' AS at,
            (now() AT TIME ZONE 'UTC')::date AS day FROM generate_series(1, $2::bigint) AS n),
    kept AS (INSERT INTO payloads SELECT 'env-1', id, day, '{}' FROM made),
    tried AS (INSERT INTO attempts SELECT 'env-1', id, 1, at, 1, 'timeout', NULL, NULL, NULL, day FROM made)
    INSERT INTO deliveries SELECT 'env-1', id, $1, 'ev-' || n, 'card-published', 'dead', 'too_old', 1, at, at, id, day
        FROM made";
const DELIVERED: &str =
    "SELECT count(*) FROM deliveries WHERE webhook_id = $1 AND status = 'delivered'";

async fn wait_delivered(world: &World, webhook_id: &str, count: i64) {
    let what = format!("{count} delivered");
    tests::wait::wait_until(SOON * 2, &what, async || {
        let row = world
            .sql
            .query_one(DELIVERED, &[&webhook_id])
            .await
            .unwrap();
        (row.get::<_, i64>(0) >= count).then_some(())
    })
    .await;
}

/// A delivery that died by its attempts, of a subscription that is active all the same.
async fn one_dead(world: &World) -> (String, RequestId) {
    let webhook_id = world.subscribe("/hook").await;
    let id = request_id(&webhook_id, "ev-1");
    let replies = [500, 500, 500, 500, 200].map(Reply::status);
    world.receiver.script("/hook", replies);
    world.publish("card-published", "ev-1").await;
    world.wait_status(id, DeliveryStatus::Dead).await;
    world
        .store
        .set_status(ENV, &webhook_id, Status::Active, None)
        .await
        .unwrap();
    (webhook_id, id)
}

#[tokio::test]
async fn a_delivery_given_up_is_listed_without_its_body_shown_with_it_and_sent_again() {
    let world = World::new("dead_letters_one").await;
    let _worker = world.worker().await;
    let (webhook_id, id) = one_dead(&world).await;
    let id_text = id.to_string();

    let listed = done(&world, &["list", "--environment", ENV]).await;
    let shown = done(&world, &["show", &id_text, "--environment", ENV]).await;
    let replayed = done(&world, &["replay", &id_text, "--environment", ENV]).await;

    let dead = lines(&listed);
    assert_eq!(dead.len(), 1, "{listed}");
    let died = dead[0]["died"].as_str().unwrap().to_owned();
    let created = dead[0]["created"].clone();
    assert_eq!(
        dead[0],
        json!({"requestId": id_text, "webhookId": webhook_id, "eventId": "ev-1", "type": "card-published",
            "reason": "attempts_exhausted", "attempts": 4, "created": created, "died": died})
    );
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["data"], data("card-published", "ev-1"));
    assert_eq!(shown["status"], "dead");
    let attempts = shown["attempts"].as_array().unwrap();
    assert_eq!(attempts.len(), 4);
    assert_eq!(
        (
            &attempts[3]["attempt"],
            &attempts[3]["outcome"],
            &attempts[3]["status"]
        ),
        (&json!(4), &json!("http_status"), &json!(500))
    );
    assert_eq!(
        lines(&replayed),
        [json!({"accepted": 1, "requestId": id_text, "status": "scheduled"})]
    );
    world.wait_status(id, DeliveryStatus::Delivered).await;
    let requests = world.receiver.requests("/hook");
    assert_eq!(requests.len(), 5);
    assert_eq!(requests[4].body, requests[0].body);
    // What is delivered is left alone by who looks after the dead.
    let again = run(&world, &["replay", &id_text, "--environment", ENV]).await;
    assert_eq!(again.status.code(), Some(1));
    assert!(
        again.stderr.contains("is delivered, not dead"),
        "{}",
        again.stderr
    );
    assert_eq!(done(&world, &["list", "--environment", ENV]).await, "");
}

#[tokio::test]
async fn the_list_is_cut_by_subscription_span_reason_and_limit() {
    let world = World::new("dead_letters_list").await;
    let webhook_id = world.subscribe("/hook").await;
    let dead = world.sql.execute(DEAD, &[&webhook_id, &5_i64]).await;
    assert_eq!(dead.unwrap(), 5);
    let list = async |more: &[&str]| {
        let args = [&["list", "--environment", ENV], more].concat();
        let stdout = done(&world, &args).await;
        let events = lines(&stdout);
        let events = events.iter().map(|dead| dead["eventId"].as_str().unwrap());
        events.collect::<Vec<_>>().join(" ")
    };
    let all = done(&world, &["list", "--environment", ENV]).await;
    let died: Vec<String> = lines(&all)
        .iter()
        .map(|dead| dead["died"].as_str().unwrap().to_owned())
        .collect();

    // The newest first; a span has its beginning and not its end; what is printed can be given back.
    assert_eq!(list(&[]).await, "ev-1 ev-2 ev-3 ev-4 ev-5");
    let span = list(&["--since", &died[3], "--until", &died[1]]).await;
    assert_eq!(span, "ev-3 ev-4");
    assert_eq!(
        list(&["--webhook", &webhook_id, "--limit", "2"]).await,
        "ev-1 ev-2"
    );
    assert_eq!(
        list(&["--reason", "too_old"]).await,
        "ev-1 ev-2 ev-3 ev-4 ev-5"
    );
    assert_eq!(list(&["--reason", "gone"]).await, "");
}

#[tokio::test]
async fn what_is_asked_for_wrongly_is_told_with_what_to_do_and_does_nothing() {
    let world = World::new("dead_letters_wrong").await;
    let webhook_id = world.subscribe("/hook").await;
    let id = "b0ac9bd3-9094-5dbd-8fd3-1c0dcb1d44cd";
    let (early, late) = ("2026-03-01T12:00:00Z", "2026-03-02T12:00:00Z");

    let cases: &[(&[&str], i32, &str)] = &[
        (&["list"], 2, "--environment"),
        (
            &["list", "--environment", "env-9"],
            1,
            "is --environment right?",
        ),
        (
            &["list", "--environment", ENV, "--webhook", "nobody00"],
            1,
            "GET /v1/env-1/webhook",
        ),
        (
            &["list", "--environment", ENV, "--reason", "tired"],
            2,
            "attempts_exhausted",
        ),
        (
            &["list", "--environment", ENV, "--since", "today"],
            2,
            "2026-03-01T12:00:00Z",
        ),
        (
            &[
                "list",
                "--environment",
                ENV,
                "--since",
                late,
                "--until",
                early,
            ],
            1,
            "--until must be later",
        ),
        (
            &["list", "--environment", ENV, "--reason", "not_json"],
            1,
            "add --events",
        ),
        (
            &["list", "--events", "--environment", ENV],
            2,
            "cannot be used with",
        ),
        (
            &["list", "--events", "--reason", "gone"],
            1,
            "leave --events out",
        ),
        (&["replay", "--events"], 2, "--all"),
        (&["replay", "--all"], 2, "--events"),
        (&["show", "12", "--environment", ENV], 2, "12"),
        (
            &["show", id, "--environment", ENV],
            1,
            "dead-letters list --environment env-1",
        ),
        (
            &["show", id, "--environment", "env-9"],
            1,
            "is --environment right?",
        ),
        (&["replay", id, "--environment", ENV], 1, "has no delivery"),
        (&["replay", "--environment", ENV], 2, "--webhook"),
        (
            &["replay", "--environment", "env-9", "--webhook", &webhook_id],
            1,
            "GET /v1/env-9/webhook",
        ),
        (
            &[
                "replay",
                "--environment",
                ENV,
                "--webhook",
                &webhook_id,
                "--since",
                late,
                "--until",
                early,
            ],
            1,
            "--until must be later",
        ),
    ];
    for (args, code, expected) in cases {
        let finished = run(&world, args).await;

        assert_eq!(
            finished.status.code(),
            Some(*code),
            "{args:?}: {}",
            finished.stderr
        );
        assert!(
            finished.stderr.contains(expected),
            "{args:?}: {}",
            finished.stderr
        );
        assert_eq!(finished.stdout, "", "{args:?}");
    }
    let none = run(&world, &["list", "--environment", ENV]).await;
    assert!(none.status.success());
    assert_eq!(none.stdout, "");
    world
        .store
        .set_status(ENV, &webhook_id, Status::Disabled, None)
        .await
        .unwrap();
    let disabled = run(
        &world,
        &["replay", "--environment", ENV, "--webhook", &webhook_id],
    )
    .await;
    assert_eq!(disabled.status.code(), Some(1));
    assert!(
        disabled.stderr.contains("to active first"),
        "{}",
        disabled.stderr
    );
    assert_eq!(world.number("SELECT count(*) FROM redeliveries").await, 0);
}

#[tokio::test]
async fn a_span_is_sent_again_and_followed_or_left_to_the_workers() {
    let world = World::new("dead_letters_span").await;
    let webhook_id = world.subscribe("/hook").await;
    let dead = async |count: i64| {
        let dead = world.sql.execute(DEAD, &[&webhook_id, &count]).await;
        assert_eq!(dead.unwrap(), count as u64);
    };
    let all = ["replay", "--environment", ENV, "--webhook", &webhook_id];
    dead(300).await;
    let _worker = world.worker().await;

    let followed = done(&world, &all).await;

    let followed = &lines(&followed)[0];
    assert_eq!(
        (&followed["accepted"], &followed["redelivered"]),
        (&json!(300), &json!(300))
    );
    wait_delivered(&world, &webhook_id, 300).await;
    let nothing = done(&world, &all).await;
    assert_eq!(
        lines(&nothing),
        [json!({"redeliveryId": null, "accepted": 0, "redelivered": 0})]
    );

    dead(3).await;
    let left = done(&world, &[&all[..], &["--detach"]].concat()).await;
    let left = &lines(&left)[0];
    assert_eq!(
        (&left["accepted"], &left["redelivered"]),
        (&json!(3), &Value::Null)
    );
    wait_delivered(&world, &webhook_id, 303).await;

    // Nothing comes of it before somebody resumes the subscription, so nobody is kept waiting.
    dead(2).await;
    world
        .store
        .set_status(ENV, &webhook_id, Status::Paused, None)
        .await
        .unwrap();
    let rests = run(&world, &all).await;
    assert!(rests.status.success(), "{}", rests.stderr);
    let told = &lines(&rests.stdout)[0];
    assert_eq!(
        (&told["accepted"], &told["redelivered"]),
        (&json!(2), &json!(0))
    );
    assert!(
        rests.stderr.contains("once it is resumed"),
        "{}",
        rests.stderr
    );
}

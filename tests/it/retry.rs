//! What is tried again, when, and how it ends.

use std::time::Duration;

use tests::receiver::Reply;
use tests::wait::wait_until;
use webhook::{DeadReason, DeliveryStatus, Outcome, RequestId, Status};

use crate::world::{DEAD_DELIVERIES, ENV, SOON, World, is_signed, request_id};

#[tokio::test]
async fn a_failure_is_tried_again_with_growing_delays_under_the_same_id_and_a_new_signature() {
    let world = World::new("retry").await;
    let webhook_id = world.subscribe("/hook").await;
    world.receiver.script(
        "/hook",
        [
            Reply::status(503),
            Reply::status(302),
            Reply::close(),
            Reply::status(204),
        ],
    );
    let mut worker = world.worker().await;

    world.publish("card-published", "ev-1").await;

    let requests = world.receiver.wait_for(4, "/hook", SOON).await;
    let id = request_id(&webhook_id, "ev-1");
    for (number, request) in (1..).zip(&requests) {
        assert_eq!(request.header("webhook-id"), Some(id.to_string().as_str()));
        assert_eq!(
            request.header("postrider-attempt"),
            Some(number.to_string().as_str())
        );
        assert_eq!(request.body, requests[0].body);
        assert!(is_signed(request));
    }
    for (pair, delay) in requests.windows(2).zip([100, 200, 400]) {
        assert!(
            pair[1].at - pair[0].at >= Duration::from_millis(delay),
            "earlier than after {delay} ms"
        );
    }
    let view = world.wait_status(id, DeliveryStatus::Delivered).await;
    let outcomes: Vec<_> = view
        .attempts
        .iter()
        .map(|attempt| (attempt.attempt, attempt.outcome))
        .collect();
    assert_eq!(
        outcomes,
        [
            (1, Outcome::HttpStatus),
            (2, Outcome::Redirected),
            (3, Outcome::Protocol),
            (4, Outcome::Delivered)
        ]
    );
    world.stop_with_all_acked(&mut worker).await;
    assert_eq!(
        world
            .number("SELECT count(*) FROM deliveries_waiting")
            .await,
        0
    );
}

#[tokio::test]
async fn retry_after_is_a_floor_in_seconds_and_as_a_date_capped_by_delay_max() {
    let world = World::new("retry_after").await;
    for (path, reply) in [
        ("/seconds", Reply::status(503).header("retry-after", "1")),
        ("/capped", Reply::status(429).header("retry-after", "86400")),
        (
            "/ignored",
            Reply::status(500).header("retry-after", "86400"),
        ),
    ] {
        world.subscribe(path).await;
        world.receiver.script(path, [reply, Reply::status(200)]);
    }
    let _worker = world.worker().await;

    world.publish("card-published", "ev-1").await;

    // delay_max is 2 s here, and the delay without Retry-After 100 ms.
    for (path, floor, ceiling) in [
        ("/seconds", 1000, 1900),
        ("/capped", 2000, 10_000),
        ("/ignored", 100, 1000),
    ] {
        let requests = world.receiver.wait_for(2, path, SOON).await;
        let waited = requests[1].at - requests[0].at;
        let bounds = Duration::from_millis(floor)..Duration::from_millis(ceiling);
        assert!(bounds.contains(&waited), "{path}: {waited:?}");
    }
}

#[tokio::test]
async fn a_delivery_that_is_given_up_is_dead_in_the_ledger_and_fed_to_the_dead_queue() {
    let world = World::new("exhausted").await;
    let webhook_id = world.subscribe("/hook").await;
    world
        .receiver
        .script("/hook", [Reply::status(500).body("broken <&> \u{0}")]);
    let mut worker = world.worker().await;

    world.publish("card-published", "ev-1").await;

    let letter = world.take(DEAD_DELIVERIES).await;
    let id = request_id(&webhook_id, "ev-1");
    let requests = world.receiver.requests("/hook");
    assert_eq!(requests.len(), 4);
    assert_eq!(letter.body, requests[0].body);
    for (name, value) in [
        ("request-id", id.to_string().as_str()),
        ("webhook-id", &webhook_id),
        ("environment-id", ENV),
        ("reason", "attempts_exhausted"),
        ("attempts", "4"),
    ] {
        assert_eq!(
            letter.header(&format!("x-postrider-{name}")).as_deref(),
            Some(value),
            "{name}"
        );
    }
    assert_eq!(letter.properties.delivery_mode(), &Some(2));
    let view = world.wait_status(id, DeliveryStatus::Dead).await;
    assert_eq!(
        (view.reason, view.attempts.len()),
        (Some(DeadReason::AttemptsExhausted), 4)
    );
    assert_eq!(
        view.attempts[0].response.as_deref(),
        Some("broken <&> \u{0}".as_bytes())
    );
    wait_until(SOON, "an empty outbox", async || {
        (world.number("SELECT count(*) FROM outbox").await == 0).then_some(())
    })
    .await;
    assert_eq!(
        worker
            .metric(
                "postrider_dead_letters_total",
                &[("reason", "attempts_exhausted")]
            )
            .await,
        1.0
    );
    assert_eq!(
        worker
            .metric("postrider_deliveries_total", &[("settlement", "dead")])
            .await,
        1.0
    );
    assert_eq!(
        worker
            .metric("postrider_deliveries_total", &[("settlement", "retry")])
            .await,
        3.0
    );
    world.stop_with_all_acked(&mut worker).await;
    assert_eq!(world.broker.depth(DEAD_DELIVERIES).await, 0);
}

#[tokio::test]
async fn age_ends_a_delivery_before_its_attempts_do() {
    let world = World::new("too_old").await;
    let webhook_id = world.subscribe("/hook").await;
    world.receiver.script("/hook", [Reply::status(500)]);
    let _worker = world
        .worker_with(&[
            ("POSTRIDER__RETRY__AGE_MAX", "1s"),
            ("POSTRIDER__RETRY__ATTEMPTS_MAX", "100"),
        ])
        .await;

    world.publish("card-published", "ev-1").await;

    let view = world
        .wait_status(request_id(&webhook_id, "ev-1"), DeliveryStatus::Dead)
        .await;
    assert_eq!(view.reason, Some(DeadReason::TooOld));
    assert!(view.attempts.len() < 10);
}

#[tokio::test]
async fn gone_ends_the_delivery_what_waits_and_the_subscription_and_tells() {
    let world = World::new("gone").await;
    let webhook_id = world.subscribe("/hook").await;
    world.receiver.script(
        "/hook",
        [
            Reply::status(503).header("retry-after", "2"),
            Reply::status(410),
        ],
    );
    let mut worker = world
        .worker_with(&[("POSTRIDER__RETRY__DELAY_MAX", "1h")])
        .await;
    let notices = world.broker.listen_to("postrider.notices", "#").await;

    world.publish("card-published", "ev-waits").await;
    world
        .wait_status(
            request_id(&webhook_id, "ev-waits"),
            DeliveryStatus::Scheduled,
        )
        .await;
    world.publish("card-published", "ev-gone").await;

    for event in ["ev-gone", "ev-waits"] {
        let view = world
            .wait_status(request_id(&webhook_id, event), DeliveryStatus::Dead)
            .await;
        assert_eq!(view.reason, Some(DeadReason::Gone), "{event}");
    }
    let stored = world.store.get(ENV, &webhook_id).await.unwrap().unwrap();
    assert_eq!(
        (stored.subscription.status, stored.status_reason.as_deref()),
        (Status::Disabled, Some("gone"))
    );
    let letters = [
        world.take(DEAD_DELIVERIES).await,
        world.take(DEAD_DELIVERIES).await,
    ];
    assert!(
        letters
            .iter()
            .all(|letter| letter.header("x-postrider-reason").as_deref() == Some("gone"))
    );
    let notice = world.take(&notices).await;
    assert_eq!(notice.routing_key, "subscription.disabled");
    let body: serde_json::Value = serde_json::from_slice(&notice.body).unwrap();
    assert_eq!(
        (
            body["environmentId"].as_str(),
            body["webhookId"].as_str(),
            body["reason"].as_str()
        ),
        (Some(ENV), Some(webhook_id.as_str()), Some("gone"))
    );
    assert!(body["at"].as_str().unwrap().ends_with('Z'));

    // Nothing is made for it any more.
    world.publish("card-published", "ev-late").await;
    wait_until(SOON, "the late event read", async || {
        let unmatched = [("outcome", "unmatched")];
        let read = worker
            .metric("postrider_events_consumed_total", &unmatched)
            .await;
        (read == 1.0).then_some(())
    })
    .await;
    world.stop_with_all_acked(&mut worker).await;
    assert_eq!(
        world
            .store
            .delivery(ENV, request_id(&webhook_id, "ev-late"))
            .await
            .unwrap(),
        None
    );
    assert_eq!(world.receiver.count("/hook"), 2);
}

#[tokio::test]
async fn a_slow_answer_is_handed_to_the_ledger_and_its_message_acked_meanwhile() {
    let world = World::new("handoff").await;
    let webhook_id = world.subscribe("/hook").await;
    world.receiver.script("/hook", [Reply::hang()]);
    let mut worker = world
        .worker_with(&[
            ("POSTRIDER__DELIVERY__HANDOFF_AFTER", "200ms"),
            ("POSTRIDER__DELIVERY__TIMEOUT", "3s"),
        ])
        .await;

    world.publish("card-published", "ev-1").await;

    let id: RequestId = request_id(&webhook_id, "ev-1");
    let view = world.wait_status(id, DeliveryStatus::Scheduled).await;
    assert_eq!((view.attempts.len(), view.next_attempt), (0, None));
    assert_eq!(
        worker.metric("postrider_attempts_in_flight", &[]).await,
        1.0
    );
    let view = wait_until(SOON, "the attempt's outcome", async || {
        let view = world.store.delivery(ENV, id).await.unwrap()?;
        (!view.attempts.is_empty()).then_some(view)
    })
    .await;
    assert_eq!(view.attempts[0].outcome, Outcome::Timeout);
    world.receiver.script("/hook", [Reply::status(200)]);
    world.wait_status(id, DeliveryStatus::Delivered).await;
    world.stop_with_all_acked(&mut worker).await;
}

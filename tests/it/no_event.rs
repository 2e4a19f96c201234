//! Messages that are no events, and events that the ledger refuses: each ends in the dead-letter queue, whole, with its
//! reason, and stops nobody.

use webhook::DeliveryStatus;

use crate::world::{DEAD_EVENTS, EVENTS, EXCHANGE, World, message, request_id};

/// Each reason of the contract with messages that have it.
fn poison() -> Vec<(&'static str, Vec<u8>)> {
    let text = |reason, body: &str| (reason, body.as_bytes().to_vec());
    let long = "x".repeat(257);
    vec![
        ("too_large", vec![b' '; (1 << 20) + 1]),
        ("encoding", b"{\"environmentId\":\"\xff\"}".to_vec()),
        text("not_json", "{\"environmentId\":"),
        text("not_json", ""),
        text(
            "field_missing",
            r#"{"data":{"id":"e","analyticsEvent":"t"}}"#,
        ),
        text("field_missing", r#"{"environmentId":"env-1"}"#),
        text(
            "field_missing",
            r#"{"environmentId":"env-1","data":{"analyticsEvent":"t"}}"#,
        ),
        text(
            "field_missing",
            r#"{"environmentId":"env-1","data":{"id":"e"}}"#,
        ),
        text("field_invalid", "[]"),
        text("field_invalid", r#"{"environmentId":"env-1","data":[]}"#),
        text(
            "field_invalid",
            r#"{"environmentId":7,"data":{"id":"e","analyticsEvent":"t"}}"#,
        ),
        text(
            "field_invalid",
            r#"{"environmentId":"env-1","data":{"id":"","analyticsEvent":"t"}}"#,
        ),
        text(
            "field_invalid",
            &format!(
                r#"{{"environmentId":"env-1","data":{{"id":"{long}","analyticsEvent":"t"}}}}"#
            ),
        ),
        text(
            "field_invalid",
            r#"{"environmentId":"env-1","data":{"id":"e\n","analyticsEvent":"t"}}"#,
        ),
        text(
            "field_invalid",
            r#"{"environmentId":"env-1","data":{"id":"e","\u0069d":"f","analyticsEvent":"t"}}"#,
        ),
        text(
            "field_invalid",
            r#"{"environmentId":"env-1","data":{"id":"e","analyticsEvent":"t"},"data":{"id":"e","analyticsEvent":"t"}}"#,
        ),
    ]
}

#[tokio::test]
async fn each_kind_of_poison_is_dead_lettered_unchanged_and_the_worker_goes_on() {
    let world = World::new("poison").await;
    let webhook_id = world.subscribe("/hook").await;
    let mut worker = world.worker().await;

    for (number, (reason, body)) in poison().into_iter().enumerate() {
        world.broker.publish(EXCHANGE, "any.type", &body).await;
        let letter = world.take(DEAD_EVENTS).await;
        assert!(letter.body == body, "poison {number}: the body was changed");
        assert_eq!(
            letter.header("x-postrider-reason").as_deref(),
            Some(reason),
            "poison {number}"
        );
        assert!(
            !letter
                .header("x-postrider-detail")
                .unwrap_or_default()
                .is_empty(),
            "poison {number}"
        );
        assert_eq!(letter.properties.delivery_mode(), &Some(2));
    }

    world.publish("card-published", "ev-1").await;
    world
        .wait_status(request_id(&webhook_id, "ev-1"), DeliveryStatus::Delivered)
        .await;
    let counted = worker.metric("postrider_dead_letters_total", &[]).await;
    assert_eq!(counted, poison().len() as f64);
    assert_eq!(
        worker
            .metric("postrider_events_consumed_total", &[("outcome", "dead")])
            .await,
        counted
    );
    world.stop_with_all_acked(&mut worker).await;
    assert!(
        !worker.stderr().contains(r#""id":"e""#),
        "a body is in the log"
    );
}

#[tokio::test]
async fn an_event_that_postgres_refuses_is_dead_lettered_and_a_hundred_others_go_through() {
    let world = World::new("refused").await;
    let webhook_id = world.subscribe("/hook").await;
    for table in ["deliveries", "deliveries_waiting"] {
        world
            .sql
            .batch_execute(&format!(
                "ALTER TABLE {table} ADD CONSTRAINT no_bad CHECK (event_id <> 'bad')"
            ))
            .await
            .unwrap();
    }
    let mut worker = world.worker().await;

    let events: Vec<String> = (0..100)
        .map(|n| {
            if n == 50 {
                "bad".into()
            } else {
                format!("ev-{n}")
            }
        })
        .collect();
    let messages = events
        .iter()
        .map(|id| ("card-published", message("card-published", id)));
    world.broker.publish_all(EXCHANGE, messages).await;

    let letter = world.take(DEAD_EVENTS).await;
    assert_eq!(letter.body, message("card-published", "bad"));
    assert_eq!(
        letter.header("x-postrider-reason").as_deref(),
        Some("ledger_refused")
    );
    for event in events.iter().filter(|event| *event != "bad") {
        world
            .wait_status(request_id(&webhook_id, event), DeliveryStatus::Delivered)
            .await;
    }
    assert_eq!(
        worker
            .metric(
                "postrider_dead_letters_total",
                &[("reason", "ledger_refused")]
            )
            .await,
        1.0
    );
    world.stop_with_all_acked(&mut worker).await;
    assert_eq!(world.broker.depth(DEAD_EVENTS).await, 0);
}

#[tokio::test]
async fn what_the_broker_gives_up_keeps_its_story() {
    let world = World::new("delivery_limit").await;
    let mut worker = world.worker().await;
    world.stop_with_all_acked(&mut worker).await;
    world.publish("card-published", "ev-1").await;

    // As consumers that die with it in their hands would: given back until the broker's limit.
    world.broker.give_back(EVENTS, 51).await;

    let letter = world.take(DEAD_EVENTS).await;
    assert_eq!(letter.body, message("card-published", "ev-1"));
    assert!(letter.raw_header("x-death").is_some());
    assert_eq!(
        letter.header("x-first-death-reason").as_deref(),
        Some("delivery_limit")
    );
}

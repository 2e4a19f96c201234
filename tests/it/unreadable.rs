//! A subscription whose secrets can't be read (a tampered row, a lost key) harms nobody but itself, and loses nothing.

use std::time::Duration;
use store::{Delivery, Payload, Record, Step};
use webhook::{DeliveryStatus, RequestId};

use crate::world::{EXCHANGE, SOON, World, request_id, subscription};

/// Changes the last byte of what is sealed; done again, it mends it.
const TAMPER: &str = "\
    UPDATE subscriptions SET headers = set_byte(headers, length(headers) - 1, get_byte(headers, length(headers) - 1) # 1) \
    WHERE environment_id = 'env-bad'";

/// The tenant `env-bad`'s one subscription.
async fn subscribe(world: &World) -> String {
    let mut new = subscription(&world.receiver.url("/bad"));
    new.environment_id = "env-bad".into();
    world.store.create(new).await.unwrap().subscription.id
}

#[tokio::test]
async fn what_cannot_be_signed_waits_in_the_ledger_and_the_others_go_on() {
    let world = World::new("unreadable").await;
    world.subscribe("/hook").await;
    let bad = subscribe(&world).await;
    world.sql.batch_execute(TAMPER).await.unwrap();
    let mut worker = world
        .worker_with(&[("POSTRIDER__AMQP__PREFETCH", "4")])
        .await;

    for n in 0..5 {
        let body = format!(
            r#"{{"environmentId":"env-bad","data":{{"id":"ev-{n}","analyticsEvent":"card-published"}}}}"#
        );
        world
            .broker
            .publish(EXCHANGE, "card-published", body.as_bytes())
            .await;
    }
    world.publish("card-published", "ev-1").await;
    world.receiver.wait_for(1, "/hook", SOON).await;

    worker
        .wait_logged("nothing can be sent to a subscription", SOON)
        .await;
    let held = "SELECT count(*) FROM deliveries_waiting WHERE attempts = 0 AND claims = 0";
    tests::wait::wait_until(SOON, "its five in the ledger", async || {
        (world.number(held).await == 5).then_some(())
    })
    .await;
    assert_eq!(world.receiver.count("/bad"), 0);

    world.sql.batch_execute(TAMPER).await.unwrap();
    world
        .sql
        .batch_execute("UPDATE deliveries_waiting SET due = now(); UPDATE subscription_due SET next_due = now()")
        .await
        .unwrap();
    world.receiver.wait_for(5, "/bad", SOON).await;
    let first = request_id(&bad, "ev-0");
    tests::wait::wait_until(SOON, "the delivery", async || {
        let view = world.store.delivery("env-bad", first).await.unwrap()?;
        (view.status == DeliveryStatus::Delivered).then_some(())
    })
    .await;
    world.stop_with_all_acked(&mut worker).await;
}

#[tokio::test]
async fn its_backlog_is_left_alone() {
    let world = World::new("backlog").await;
    world.subscribe("/hook").await;
    let bad = subscribe(&world).await;
    let records: Vec<Record> = (0..2000)
        .map(|n| backlog(&bad, &format!("ev-{n}")))
        .collect();
    for records in records.chunks(500) {
        world.store.commit(records).await.unwrap();
    }
    world.sql.batch_execute(TAMPER).await.unwrap();

    let worker = world.worker().await;
    worker
        .wait_logged("nothing can be sent to a subscription", SOON)
        .await;
    for n in 0..50_usize {
        world.publish("card-published", &format!("ev-{n}")).await;
        world.receiver.wait_for(n + 1, "/hook", SOON).await;
    }

    // One claim's worth was looked at, and not again.
    let touched = "SELECT count(*) FROM deliveries_waiting WHERE due > now()";
    let touched = world.number(touched).await;
    assert!((1..=256).contains(&touched), "{touched}");
    let lines = worker.stderr();
    assert_eq!(lines.matches("nothing can be sent").count(), 1, "{lines}");
}

fn backlog(webhook_id: &str, event_id: &str) -> Record {
    Record {
        delivery: Delivery {
            environment_id: "env-bad".into(),
            request_id: RequestId::of_event(webhook_id, "card-published", event_id),
            webhook_id: webhook_id.into(),
            event_id: event_id.into(),
            event_type: "card-published".into(),
            trace: None,
        },
        payload: Payload {
            id: uuid::Uuid::new_v4(),
            data: bytes::Bytes::from_static(b"{}"),
        },
        age: Duration::ZERO,
        attempt: None,
        lease_id: None,
        step: Step::Schedule {
            after: Duration::ZERO,
        },
    }
}

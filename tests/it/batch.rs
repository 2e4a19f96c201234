//! Events that a subscriber gets in lists.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;
use tests::receiver::{Received, Reply};
use tests::wait::wait_until;
use webhook::{Batch, DeliveryStatus, RequestId};

use crate::world::{
    DEAD_DELIVERIES, ENV, EVENTS, EXCHANGE, SOON, World, data, is_signed, message, request_id,
};

const BATCH: Batch = Batch {
    events_max: 3,
    wait_max: Some(Duration::from_secs(60)),
    bytes_max: None,
};

async fn subscribe(world: &World, path: &str, batch: Batch) -> String {
    world
        .subscribe_with(path, |new| new.batch = Some(batch))
        .await
}

fn batch_id(webhook_id: &str, events: &[String]) -> RequestId {
    let ids: Vec<RequestId> = events
        .iter()
        .map(|event| request_id(webhook_id, event))
        .collect();
    RequestId::of_batch(webhook_id, &ids)
}

/// The ids of a request's events.
fn events(request: &Received) -> Vec<String> {
    let body: Value = serde_json::from_slice(&request.body).unwrap();
    assert_eq!(body["isBatched"], true);
    let list = body["data"].as_array().unwrap();
    list.iter()
        .map(|event| event["id"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn a_full_batch_goes_at_once_and_a_retry_sends_the_same_under_the_same_id() {
    let world = World::new("batch").await;
    let webhook_id = subscribe(&world, "/hook", BATCH).await;
    world
        .receiver
        .script("/hook", [Reply::status(500), Reply::status(200)]);
    let mut worker = world.worker().await;

    for id in ["ev-1", "ev-2", "ev-3"] {
        world.publish("card-published", id).await;
    }

    let requests = world.receiver.wait_for(2, "/hook", SOON).await;
    let ids = events(&requests[0]);
    let id = batch_id(&webhook_id, &ids);
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), 3);
    let list: Vec<String> = ids.iter().map(|id| data("card-published", id)).collect();
    let body = format!(
        r#"{{"requestId":"{id}","environmentId":"{ENV}","webhookId":"{webhook_id}","isBatched":true,"data":[{}]}}"#,
        list.join(",")
    );
    for (attempt, request) in ["1", "2"].into_iter().zip(&requests) {
        assert_eq!(request.body, body);
        assert_eq!(request.header("webhook-id"), Some(id.to_string().as_str()));
        assert_eq!(request.header("postrider-attempt"), Some(attempt));
        assert!(is_signed(request));
    }
    let view = world.wait_status(id, DeliveryStatus::Delivered).await;
    assert_eq!(view.attempts.len(), 2);
    // Whoever has an event's id alone finds the batch.
    let event = request_id(&webhook_id, "ev-2");
    let found = world.store.delivery(ENV, event).await.unwrap().unwrap();
    assert_eq!(found.request_id, id);
    world.stop_with_all_acked(&mut worker).await;
    assert!(worker.stderr().contains("events=3"));
}

#[tokio::test]
async fn an_event_that_nobody_joins_goes_alone_in_a_list_after_the_wait() {
    let world = World::new("batch_alone").await;
    let wait_max = Some(Duration::from_millis(300));
    let webhook_id = subscribe(&world, "/hook", Batch { wait_max, ..BATCH }).await;
    let plain = world.subscribe("/plain").await;
    let mut worker = world.worker().await;

    world.publish("card-published", "ev-1").await;

    let request = world.receiver.wait_for(1, "/hook", SOON).await.remove(0);
    assert_eq!(events(&request), ["ev-1"]);
    let ids = ["ev-1".to_owned()];
    let id = batch_id(&webhook_id, &ids);
    assert_eq!(request.header("webhook-id"), Some(id.to_string().as_str()));
    let alone = world.receiver.wait_for(1, "/plain", SOON).await.remove(0);
    assert!(request.at - alone.at >= Duration::from_millis(200));
    assert_eq!(
        alone.header("webhook-id"),
        Some(request_id(&plain, "ev-1").to_string().as_str())
    );
    world.wait_status(id, DeliveryStatus::Delivered).await;
    world.stop_with_all_acked(&mut worker).await;
}

#[tokio::test]
async fn a_batch_that_is_given_up_is_dead_as_one() {
    let world = World::new("batch_dead").await;
    let webhook_id = subscribe(
        &world,
        "/hook",
        Batch {
            events_max: 2,
            ..BATCH
        },
    )
    .await;
    world.receiver.script("/hook", [Reply::status(500)]);
    let mut worker = world.worker().await;

    for id in ["ev-1", "ev-2"] {
        world.publish("card-published", id).await;
    }

    let letter = world.take(DEAD_DELIVERIES).await;
    let requests = world.receiver.wait_for(4, "/hook", SOON).await;
    assert_eq!(letter.body, requests[0].body);
    let id = batch_id(&webhook_id, &events(&requests[0]));
    world.wait_status(id, DeliveryStatus::Dead).await;
    world.stop_with_all_acked(&mut worker).await;
}

#[tokio::test]
async fn what_is_not_full_at_a_stop_is_sent_by_the_next_worker() {
    let world = World::new("batch_stop").await;
    let webhook_id = subscribe(&world, "/hook", BATCH).await;
    let mut worker = world.worker().await;
    for id in ["ev-1", "ev-2"] {
        world.publish("card-published", id).await;
    }
    let waiting = "SELECT count(*) FROM batch_members_waiting";
    wait_until(SOON, "both in the ledger", async || {
        (world.number(waiting).await == 2).then_some(())
    })
    .await;

    world.stop_with_all_acked(&mut worker).await;
    assert_eq!(world.receiver.count("/hook"), 0);
    let mut worker = world.worker().await;
    world.publish("card-published", "ev-3").await;

    let request = world.receiver.wait_for(1, "/hook", SOON).await.remove(0);
    let ids = events(&request);
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), 3);
    world
        .wait_status(batch_id(&webhook_id, &ids), DeliveryStatus::Delivered)
        .await;
    world.stop_with_all_acked(&mut worker).await;
}

#[tokio::test]
async fn a_redelivered_event_is_not_put_into_a_second_batch() {
    let world = World::new("batch_redelivered").await;
    let wait_max = Some(Duration::from_millis(100));
    subscribe(&world, "/hook", Batch { wait_max, ..BATCH }).await;
    let mut worker = world.worker().await;
    world.publish("card-published", "ev-1").await;
    world.receiver.wait_for(1, "/hook", SOON).await;
    world.stop_with_all_acked(&mut worker).await;

    // As if its ack had been lost.
    world.publish("card-published", "ev-1").await;
    world.broker.give_back(EVENTS, 1).await;
    let mut worker = world.worker().await;
    wait_until(SOON, "an empty queue", async || {
        let read = worker.metric("postrider_events_consumed_total", &[]).await;
        (read == 1.0).then_some(())
    })
    .await;
    world.publish("card-published", "ev-2").await;

    let requests = world.receiver.wait_for(2, "/hook", SOON).await;
    assert_eq!(events(&requests[1]), ["ev-2"]);
    world.stop_with_all_acked(&mut worker).await;
    assert_eq!(world.receiver.count("/hook"), 2);
}

/// Two workers, one of them killed again and again while batches are put together and sent: each event comes, in one
/// batch only, and what comes twice is the same batch under the same id.
#[tokio::test]
async fn however_often_a_worker_is_killed_no_event_is_lost_and_none_changes_its_batch() {
    const LOAD: usize = 1500;
    const KILLS: usize = 4;
    let world = World::new("batch_kills").await;
    let batch = Batch {
        events_max: 7,
        wait_max: Some(Duration::from_millis(100)),
        bytes_max: None,
    };
    let webhook_id = subscribe(&world, "/hook", batch).await;
    let short = [("POSTRIDER__DELIVERY__TIMEOUT", "2s")];
    let mut steady = world.worker_with(&short).await;
    let publisher = world.stage.broker().await;
    let load = async {
        for event in 0..LOAD {
            let body = message("card-published", &format!("ev-{event}"));
            publisher.publish(EXCHANGE, "card-published", &body).await;
        }
    };
    let kills = async {
        for kill in 1..=KILLS {
            let mut worker = world.worker_with(&short).await;
            let enough = kill * LOAD / 7 / (KILLS + 1);
            wait_until(SOON, "some batches", async || {
                (world.receiver.requests("/hook").len() >= enough).then_some(())
            })
            .await;
            worker.kill();
            worker.wait(SOON).await;
        }
    };

    tokio::join!(load, kills);

    let wanted: BTreeSet<String> = (0..LOAD).map(|event| format!("ev-{event}")).collect();
    let limit = Duration::from_secs(120);
    let of_event = wait_until(limit, "every event", async || {
        let mut of_event: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for request in world.receiver.requests("/hook") {
            let ids = events(&request);
            let id = request.header("webhook-id").unwrap().to_owned();
            assert_eq!(id, batch_id(&webhook_id, &ids).to_string());
            for event in ids {
                of_event.entry(event).or_default().insert(id.clone());
            }
        }
        (of_event.len() == wanted.len()).then_some(of_event)
    })
    .await;
    assert!(of_event.keys().eq(&wanted));
    assert!(of_event.values().all(|batches| batches.len() == 1));
    wait_until(limit, "nothing that waits", async || {
        let rest = "SELECT (SELECT count(*) FROM deliveries_waiting) + (SELECT count(*) FROM batch_members_waiting) \
             + (SELECT count(*) FROM batches_open) + (SELECT count(*) FROM payloads_waiting)";
        (world.number(rest).await == 0 && world.broker.depth(EVENTS).await == 0).then_some(())
    })
    .await;
    world.stop_with_all_acked(&mut steady).await;
}

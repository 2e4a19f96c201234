//! Traces: a message's `traceparent` reaches the receiver, with a retry as with the first attempt.

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use tests::receiver::Reply;

use crate::world::{EXCHANGE, SOON, World, message};

/// What producers send, and the ids in it.
const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

#[tokio::test]
async fn a_message_s_traceparent_goes_with_its_requests_from_whichever_worker() {
    let world = World::new("traceparent").await;
    world.subscribe("/hook").await;
    let own = |new: &mut store::NewSubscription| {
        new.headers = vec![("Traceparent".into(), "mine".into())];
    };
    world.subscribe_with("/own", own).await;
    world
        .receiver
        .script("/hook", [Reply::status(500), Reply::status(200)]);
    let mut worker = world
        .worker_with(&[("POSTRIDER__RETRY__DELAY_BASE", "1s")])
        .await;

    publish(&world, "ev-1", Some(PARENT)).await;
    world.receiver.wait_for(1, "/hook", SOON).await;
    world.receiver.wait_for(1, "/own", SOON).await;
    world.stop_with_all_acked(&mut worker).await;
    let _other = world.worker().await;
    world.receiver.wait_for(2, "/hook", SOON).await;
    publish(&world, "ev-2", None).await;
    world.receiver.wait_for(3, "/hook", SOON).await;
    publish(&world, "ev-3", Some("00-no-traceparent")).await;

    let requests = world.receiver.wait_for(4, "/hook", SOON).await;
    let sent: Vec<Option<&str>> = requests
        .iter()
        .map(|request| request.header("traceparent"))
        .collect();
    assert_eq!(sent, [Some(PARENT), Some(PARENT), None, None]);
    let own = &world.receiver.requests("/own")[0];
    let standing: Vec<_> = own
        .headers
        .iter()
        .filter(|(name, _)| name == "traceparent")
        .map(|(_, value)| &value[..])
        .collect();
    assert_eq!(standing, [b"mine"]);
}

async fn publish(world: &World, id: &str, parent: Option<&str>) {
    let mut headers = FieldTable::default();
    if let Some(parent) = parent {
        headers.insert("traceparent".into(), AMQPValue::LongString(parent.into()));
    }
    let properties = BasicProperties::default().with_headers(headers);
    world
        .broker
        .publish_with(
            EXCHANGE,
            "card-published",
            &message("card-published", id),
            properties,
        )
        .await;
}

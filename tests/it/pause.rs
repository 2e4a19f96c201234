//! A receiver that takes nothing any more: its subscription is paused, what comes is held, and a resume lets it go.

use tests::receiver::Reply;
use webhook::{DeliveryStatus, Status};

use crate::world::{ENV, World, request_id};

#[tokio::test]
async fn a_subscription_that_gets_nothing_delivered_is_paused_until_it_is_resumed() {
    let world = World::new("pause").await;
    let webhook_id = world.subscribe("/hook").await;
    world.receiver.script("/hook", [Reply::status(500)]);
    let notices = world
        .broker
        .listen_to("postrider.notices", "subscription.paused")
        .await;
    let mut worker = world.worker().await;

    world.publish("card-published", "ev-1").await;

    let first = request_id(&webhook_id, "ev-1");
    world.wait_status(first, DeliveryStatus::Dead).await;
    let notice: serde_json::Value =
        serde_json::from_slice(&world.take(&notices).await.body).unwrap();
    for (key, value) in [
        ("environmentId", ENV),
        ("webhookId", webhook_id.as_str()),
        ("reason", "attempts_exhausted"),
    ] {
        assert_eq!(notice[key], value);
    }
    assert_eq!(notice["at"].as_str().unwrap().len(), 24);

    world.receiver.script("/hook", [Reply::status(200)]);
    let before = world.receiver.count("/hook");
    world.publish("card-published", "ev-2").await;
    let second = request_id(&webhook_id, "ev-2");
    world.wait_status(second, DeliveryStatus::Held).await;
    assert_eq!(world.receiver.count("/hook"), before);

    let active = Status::Active;
    let store = &world.store;
    store
        .set_status(ENV, &webhook_id, active, None)
        .await
        .unwrap();
    let delivered = DeliveryStatus::Delivered;
    let view = world.wait_status(second, delivered).await;
    assert_eq!(view.attempts.len(), 1);
    world.stop_with_all_acked(&mut worker).await;
}

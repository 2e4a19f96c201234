//! Who gets which event.

use std::time::{Duration, Instant};

use tests::wait::wait_until;

use crate::world::{ENV, SOON, World, data, message_of};

#[tokio::test]
async fn an_event_reaches_each_subscription_that_wants_it_and_no_other() {
    let world = World::new("matching").await;
    let event = r#"{"id":"ev-1","analyticsEvent":"card-completed","cardContext":{"cardTemplateId":9},"platformContext":{"flowConfigId":"flow-1"}}"#;
    let wants = |card: Option<&'static str>, flow: Option<&'static str>| {
        move |new: &mut store::NewSubscription| {
            new.types = vec!["card-published".into(), "card-completed".into()];
            new.card_template_id = card.map(Into::into);
            new.action_flow_config_id = flow.map(Into::into);
        }
    };
    world.subscribe_with("/any", wants(None, None)).await;
    world.subscribe_with("/card", wants(Some("9"), None)).await;
    world
        .subscribe_with("/both", wants(Some("9"), Some("flow-1")))
        .await;
    world
        .subscribe_with("/other-card", wants(Some("9.0"), None))
        .await;
    world
        .subscribe_with("/other-flow", wants(Some("9"), Some("flow-2")))
        .await;
    world.subscribe("/other-type").await;
    world
        .subscribe_with("/other-tenant", |new| {
            new.environment_id = "env-2".into();
            new.types = vec!["card-completed".into()];
        })
        .await;
    let mut worker = world.worker().await;

    world.publish_raw(&message_of(event)).await;
    world.publish("nobody-wants-it", "ev-2").await;

    for path in ["/any", "/card", "/both"] {
        world.receiver.wait_for(1, path, SOON).await;
    }
    wait_until(SOON, "both events read", async || {
        let unmatched = worker
            .metric(
                "postrider_events_consumed_total",
                &[("outcome", "unmatched")],
            )
            .await;
        (unmatched == 1.0).then_some(())
    })
    .await;
    assert_eq!(
        worker
            .metric("postrider_events_consumed_total", &[("outcome", "matched")])
            .await,
        1.0
    );
    world.stop_with_all_acked(&mut worker).await;
    for path in ["/other-card", "/other-flow", "/other-type", "/other-tenant"] {
        assert_eq!(world.receiver.count(path), 0, "{path}");
    }
    assert_eq!(world.number("SELECT count(*) FROM deliveries").await, 3);
}

#[tokio::test]
async fn a_subscription_works_within_a_second_of_being_made_and_ends_as_fast() {
    let world = World::new("fresh_subscription").await;
    world.subscribe("/first").await;
    let _worker = world.worker().await;
    world.publish("card-published", "ev-0").await;
    // Now the tenant's subscriptions are cached.
    world.receiver.wait_for(1, "/first", SOON).await;

    let id = world.subscribe("/second").await;
    let made = Instant::now();
    let mut n = 0;
    while world.receiver.count("/second") == 0 {
        assert!(
            made.elapsed() < Duration::from_secs(1),
            "not seen within a second"
        );
        n += 1;
        world
            .publish_raw(&message_of(&data("card-published", &format!("ev-{n}"))))
            .await;
    }

    world
        .store
        .set_status(ENV, &id, webhook::Status::Disabled, None)
        .await
        .unwrap();
    let ended = Instant::now();
    loop {
        let before = world.receiver.count("/second");
        n += 1;
        world.publish("card-published", &format!("ev-{n}")).await;
        world
            .receiver
            .wait_for_distinct(n + 1, "/first", SOON)
            .await;
        if world.receiver.count("/second") == before {
            break;
        }
        assert!(
            ended.elapsed() < Duration::from_secs(1),
            "still sent to after a second"
        );
    }
}

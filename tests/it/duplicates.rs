//! The same event twice, the same message twice: recognisable always, sent again as rarely as can be.

use std::time::Duration;

use tests::postrider::Postrider;
use tests::proxy::Proxy;
use tests::receiver::Reply;
use tests::servers::Servers;
use tests::wait::wait_until;
use tokio::time::sleep;
use webhook::DeliveryStatus;

use crate::world::{ENV, EVENTS, EXCHANGE, SOON, World, message, request_id};

async fn consumed(worker: &Postrider) -> f64 {
    worker.metric("postrider_events_consumed_total", &[]).await
}

#[tokio::test]
async fn a_producers_duplicate_joins_the_attempt_that_is_under_way() {
    let world = World::new("duplicate_in_flight").await;
    let webhook_id = world.subscribe("/hook").await;
    world.receiver.script(
        "/hook",
        [Reply::status(200).delay(Duration::from_millis(500))],
    );
    let mut worker = world.worker().await;

    // Both are confirmed within milliseconds, so the second comes while the first is in flight.
    let twice = std::iter::repeat_n(("card-published", message("card-published", "ev-1")), 2);
    world.broker.publish_all(EXCHANGE, twice).await;

    world
        .wait_status(request_id(&webhook_id, "ev-1"), DeliveryStatus::Delivered)
        .await;
    wait_until(SOON, "both messages read", async || {
        (consumed(&worker).await == 2.0).then_some(())
    })
    .await;
    world.stop_with_all_acked(&mut worker).await;
    assert_eq!(world.receiver.count("/hook"), 1);
    assert_eq!(world.number("SELECT count(*) FROM attempts").await, 1);
}

#[tokio::test]
async fn a_duplicate_on_the_next_day_is_the_same_delivery() {
    let world = World::new("duplicate_next_day").await;
    let webhook_id = world.subscribe("/hook").await;
    let mut worker = world.worker().await;
    world.publish("card-published", "ev-1").await;
    world
        .wait_status(request_id(&webhook_id, "ev-1"), DeliveryStatus::Delivered)
        .await;
    // As if that had been yesterday.
    world
        .sql
        .batch_execute(
            "DO $$ DECLARE d date := (now() AT TIME ZONE 'UTC')::date - 1; t text; BEGIN
             FOREACH t IN ARRAY ARRAY['deliveries','attempts','payloads'] LOOP
                EXECUTE format('CREATE TABLE %s PARTITION OF %s FOR VALUES FROM (%L) TO (%L)',
                    t || to_char(d, '_YYYYMMDD'), t, d, d + 1);
                EXECUTE format('UPDATE %s SET settled_on = %L', t, d);
             END LOOP; END $$;
             UPDATE deliveries SET settled = settled - interval '1 day'",
        )
        .await
        .unwrap();

    // It may be sent once more, but under its id, and a failure now doesn't open it again.
    world.receiver.script("/hook", [Reply::status(500)]);
    world.publish("card-published", "ev-1").await;

    wait_until(SOON, "both messages read", async || {
        (consumed(&worker).await == 2.0).then_some(())
    })
    .await;
    world.stop_with_all_acked(&mut worker).await;
    let view = world
        .store
        .delivery(ENV, request_id(&webhook_id, "ev-1"))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(view.status, DeliveryStatus::Delivered);
    assert_eq!(
        world
            .number("SELECT count(*) FROM deliveries_waiting")
            .await,
        0
    );
    assert_eq!(world.receiver.counts_by_id("/hook").len(), 1);
    assert!(world.receiver.count("/hook") <= 2);
}

#[tokio::test]
async fn a_duplicate_while_a_retry_waits_changes_neither_count_nor_schedule_and_a_success_ends_it()
{
    let world = World::new("duplicate_while_waiting").await;
    let webhook_id = world.subscribe("/hook").await;
    let id = request_id(&webhook_id, "ev-1");
    world.receiver.script(
        "/hook",
        [
            Reply::status(503).header("retry-after", "3600"),
            Reply::status(500),
            Reply::status(200),
        ],
    );
    let mut worker = world
        .worker_with(&[("POSTRIDER__RETRY__DELAY_MAX", "1h")])
        .await;
    world.publish("card-published", "ev-1").await;
    let first = world.wait_status(id, DeliveryStatus::Scheduled).await;

    world.publish("card-published", "ev-1").await;
    let second = wait_until(SOON, "the duplicate's attempt", async || {
        let view = world.store.delivery(ENV, id).await.unwrap()?;
        (view.attempts.len() == 2).then_some(view)
    })
    .await;
    assert_eq!(
        (second.status, second.next_attempt),
        (DeliveryStatus::Scheduled, first.next_attempt)
    );
    assert_eq!(
        world
            .number("SELECT attempts::int8 FROM deliveries_waiting")
            .await,
        1
    );

    world.publish("card-published", "ev-1").await;

    let last = world.wait_status(id, DeliveryStatus::Delivered).await;
    assert_eq!(last.attempts.len(), 3);
    world.stop_with_all_acked(&mut worker).await;
    assert_eq!(
        world
            .number("SELECT count(*) FROM deliveries_waiting")
            .await,
        0
    );
    assert_eq!(world.receiver.counts_by_id("/hook").len(), 1);
}

#[tokio::test]
async fn a_message_that_comes_again_after_its_commit_is_acked_at_once_and_not_sent_again() {
    let world = World::new("redelivery_committed").await;
    let webhook_id = world.subscribe("/hook").await;
    let broker = Servers::shared().await.amqp_address();
    let proxy = Proxy::start(broker).await;
    let through_proxy = proxy.instead_in(&world.stage.amqp_url);
    world.receiver.script(
        "/hook",
        [Reply::status(200).delay(Duration::from_millis(300))],
    );
    let mut first = world
        .worker_with(&[("POSTRIDER__AMQP__URL", &through_proxy)])
        .await;

    world.publish("card-published", "ev-1").await;
    world.receiver.wait_for(1, "/hook", SOON).await;
    // The message is here, its ack will not get through.
    proxy.freeze(true);
    world
        .wait_status(request_id(&webhook_id, "ev-1"), DeliveryStatus::Delivered)
        .await;
    first.kill();
    proxy.cut().await;
    wait_until(SOON, "the message back in its queue", async || {
        (world.broker.depth(EVENTS).await == 1).then_some(())
    })
    .await;

    // What the ledger doesn't know would have to wait for longer than this test does.
    let mut second = world
        .worker_with(&[
            ("POSTRIDER__LOG__LEVEL", "debug"),
            ("POSTRIDER__DELIVERY__HANDOFF_AFTER", "60s"),
        ])
        .await;
    second.wait_logged("stands in the ledger", SOON).await;
    world.stop_with_all_acked(&mut second).await;
    assert_eq!(world.receiver.count("/hook"), 1);
}

#[tokio::test]
async fn an_answer_that_came_while_the_worker_was_frozen_counts() {
    let world = World::new("answer_while_frozen").await;
    let webhook_id = world.subscribe("/hook").await;
    let answered_after = Duration::from_millis(300);
    world
        .receiver
        .script("/hook", [Reply::status(200).delay(answered_after)]);
    let limit = Duration::from_secs(1);
    let mut worker = world
        .worker_with(&[("POSTRIDER__DELIVERY__TIMEOUT", "1s")])
        .await;
    world.publish("card-published", "ev-1").await;
    world.receiver.wait_for(1, "/hook", SOON).await;

    worker.freeze();
    // The freeze itself: until the attempt's whole time is over.
    sleep(limit + answered_after).await;
    worker.thaw();

    world
        .wait_status(request_id(&webhook_id, "ev-1"), DeliveryStatus::Delivered)
        .await;
    world.stop_with_all_acked(&mut worker).await;
    assert_eq!(world.receiver.count("/hook"), 1);
}

#[tokio::test]
async fn a_worker_killed_before_its_commit_repeats_the_request_under_the_same_id() {
    let world = World::new("killed_before_commit").await;
    let webhook_id = world.subscribe("/hook").await;
    let mut first = world.worker().await;
    // Nothing can be committed while this is held.
    world
        .sql
        .batch_execute("BEGIN; LOCK TABLE deliveries IN EXCLUSIVE MODE")
        .await
        .unwrap();
    world.publish("card-published", "ev-1").await;
    world.receiver.wait_for(1, "/hook", SOON).await;

    first.kill();
    world.sql.batch_execute("ROLLBACK").await.unwrap();
    let mut second = world.worker().await;

    world
        .wait_status(request_id(&webhook_id, "ev-1"), DeliveryStatus::Delivered)
        .await;
    world.stop_with_all_acked(&mut second).await;
    let requests = world.receiver.requests("/hook");
    assert_eq!(requests.len(), 2);
    assert_eq!(requests[0].body, requests[1].body);
    assert_eq!(world.receiver.counts_by_id("/hook").len(), 1);
}

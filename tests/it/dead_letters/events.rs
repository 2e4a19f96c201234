//! What was no event: a queue is its only record, so a look must cost nothing, however often and however broken off.

use std::collections::{HashMap, HashSet};

use lapin::BasicProperties;
use lapin::options::{QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable};
use serde_json::{Value, json};
use tests::postrider::Postrider;
use tests::publish::Message;
use tests::wait::wait_until;
use webhook::DeliveryStatus;

use super::{done, lines, run};
use crate::world::{DEAD_EVENTS, ENV, EVENTS, EXCHANGE, SOON, World, message, request_id};

const LIST: [&str; 2] = ["list", "--events"];
const REPLAY_ALL: [&str; 3] = ["replay", "--events", "--all"];

/// A dead letter as the worker makes it.
async fn bury(world: &World, reason: &str, body: &[u8]) {
    let mut headers = FieldTable::default();
    for (name, value) in [
        ("x-postrider-reason", reason),
        ("x-postrider-detail", "why"),
    ] {
        headers.insert(name.into(), AMQPValue::LongString(value.into()));
    }
    let properties = BasicProperties::default()
        .with_headers(headers)
        .with_timestamp(1_772_366_400)
        .with_message_id("m-1".into());
    world
        .broker
        .publish_with("", DEAD_EVENTS, body, properties)
        .await;
}

/// The queue with other limits than those of the contract, whose arguments a round doesn't ask for.
async fn redeclare(world: &World, limits: &[(&str, i64)]) {
    let channel = world.broker.channel().await;
    channel
        .queue_delete(DEAD_EVENTS.into(), QueueDeleteOptions::default())
        .await
        .unwrap();
    let mut arguments = FieldTable::default();
    for (name, value) in [("x-queue-type", "quorum"), ("x-overflow", "reject-publish")] {
        arguments.insert(name.into(), AMQPValue::LongString(value.into()));
    }
    for (name, value) in limits {
        arguments.insert((*name).into(), AMQPValue::LongLongInt(*value));
    }
    let durable = QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    };
    channel
        .queue_declare(DEAD_EVENTS.into(), durable, arguments)
        .await
        .unwrap();
}

fn bodies(messages: &[Message]) -> Vec<String> {
    let text = |message: &Message| String::from_utf8_lossy(&message.body).into_owned();
    messages.iter().map(text).collect()
}

#[tokio::test]
async fn what_is_listed_twenty_five_times_is_all_there_in_its_order_and_no_nearer_to_a_limit() {
    let world = World::new("dead_events_list").await;
    // What RabbitMQ 4 gives a queue that has none.
    redeclare(&world, &[("x-delivery-limit", 20)]).await;
    let expected: Vec<String> = (0..5).map(|n| format!("no event {n}")).collect();
    for body in &expected {
        bury(&world, "not_json", body.as_bytes()).await;
    }

    let first = done(&world, &LIST).await;
    for _ in 1..25 {
        let listed = done(&world, &LIST).await;
        let ids = |stdout: &str| -> Vec<Value> {
            lines(stdout)
                .iter()
                .map(|line| line["id"].clone())
                .collect()
        };
        assert_eq!(ids(&listed), ids(&first));
    }

    let listed = &lines(&first)[0];
    let (id, age) = (&listed["id"], &listed["ageSeconds"]);
    assert!(age.as_i64().unwrap() > 0);
    assert_eq!(
        *listed,
        json!({"id": id, "reason": "not_json", "detail": "why", "bytes": 10,
            "died": "2026-03-01T12:00:00Z", "ageSeconds": age})
    );
    let left = world.broker.take_all(DEAD_EVENTS).await;
    assert_eq!(bodies(&left), expected);
    for message in &left {
        // Never given back: RabbitMQ counts nothing of it.
        let count = message.header("x-delivery-count");
        assert!(count.is_none_or(|count| count == "0"));
        assert!(!message.redelivered);
        assert_eq!(message.header("x-postrider-reason").unwrap(), "not_json");
        assert_eq!(message.header("x-postrider-detail").unwrap(), "why");
        assert_eq!(message.properties.timestamp(), &Some(1_772_366_400));
        assert_eq!(message.properties.message_id(), &Some("m-1".into()));
        assert_eq!(message.properties.delivery_mode(), &Some(2));
    }
}

#[tokio::test]
async fn what_a_worker_gave_up_is_listed_by_reason_shown_with_its_body_and_published_again() {
    let world = World::new("dead_events_replay").await;
    let webhook_id = world.subscribe("/hook").await;
    let mut worker = world
        .worker_with(&[("POSTRIDER__AMQP__MESSAGE_BYTES_MAX", "1024")])
        .await;
    let large = format!(
        r#"{{"environmentId":"{ENV}","data":{{"id":"ev-1","analyticsEvent":"card-published","text":"{}"}}}}"#,
        "x".repeat(2000)
    );
    world.publish_raw(large.as_bytes()).await;
    world.publish_raw(b"nothing").await;
    wait_until(SOON, "both among the dead", async || {
        (world.broker.depth(DEAD_EVENTS).await == 2).then_some(())
    })
    .await;
    worker.terminate();
    assert!(worker.wait(SOON).await.success());

    let listed = done(&world, &["list", "--events", "--reason", "too_large"]).await;
    let listed = lines(&listed);
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0]["bytes"], json!(large.len()));
    assert!(listed[0]["ageSeconds"].as_i64().unwrap() < 600);
    let id = listed[0]["id"].as_str().unwrap();
    let shown = done(&world, &["show", id, "--events"]).await;
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(
        (&shown["body"], &shown["bodyIsWhole"]),
        (&json!(large), &json!(true))
    );
    let replayed = done(&world, &["replay", id, "--events"]).await;
    assert_eq!(replayed, "{\"replayed\":1}\n");

    // A worker that allows it delivers it; the other one is where it was.
    let _worker = world.worker().await;
    world
        .wait_status(request_id(&webhook_id, "ev-1"), DeliveryStatus::Delivered)
        .await;
    assert_eq!(bodies(&[world.take(DEAD_EVENTS).await]), ["nothing"]);
    let unknown = run(&world, &["show", id, "--events"]).await;
    assert_eq!(unknown.status.code(), Some(1));
    assert!(
        unknown.stderr.contains("list --events"),
        "{}",
        unknown.stderr
    );
    // What has no type goes straight to the queue, and comes back with its reason.
    bury(&world, "field_missing", b"{}").await;
    assert_eq!(done(&world, &REPLAY_ALL).await, "{\"replayed\":1}\n");
    let back = world.take(DEAD_EVENTS).await;
    assert_eq!(
        back.header("x-postrider-detail").as_deref(),
        Some("environmentId is absent")
    );
}

#[tokio::test]
async fn rounds_that_are_killed_lose_none_and_replay_each_once_or_twice() {
    const COUNT: usize = 200;
    let world = World::new("dead_events_kill").await;
    for n in 0..COUNT {
        bury(
            &world,
            "ledger_refused",
            &message("card-published", &format!("ev-{n}")),
        )
        .await;
    }
    let environment = world.environment(&[]);
    let start = |args: &[&str]| Postrider::start(&[&["dead-letters"], args].concat(), &environment);

    // The first letters are at the end by then, and one is in the command's hand.
    let mut list = start(&LIST);
    wait_until(SOON, "some lines", async || {
        (list.stdout().lines().count() > 20).then_some(())
    })
    .await;
    list.kill();
    for so_far in [30, 90] {
        let mut replay = start(&REPLAY_ALL);
        wait_until(SOON, "some to be published", async || {
            (world.broker.depth(EVENTS).await > so_far).then_some(())
        })
        .await;
        replay.kill();
    }
    done(&world, &REPLAY_ALL).await;

    assert_eq!(world.broker.depth(DEAD_EVENTS).await, 0);
    let mut times: HashMap<String, usize> = HashMap::new();
    for body in bodies(&world.broker.take_all(EVENTS).await) {
        *times.entry(body).or_default() += 1;
    }
    assert_eq!(times.len(), COUNT);
    // Each kill may have had one in hand, published and not yet acked.
    assert!(times.values().sum::<usize>() <= COUNT + 3);
}

#[tokio::test]
async fn rounds_at_once_end_and_lose_and_double_nothing() {
    const COUNT: usize = 100;
    let world = World::new("dead_events_at_once").await;
    for n in 0..COUNT {
        let event = message("card-published", &format!("ev-{n}"));
        bury(&world, "ledger_refused", &event).await;
    }
    let ids = |stdout: &str| -> HashSet<String> {
        let id = |line: &Value| line["id"].as_str().unwrap().to_owned();
        lines(stdout).iter().map(id).collect()
    };

    let (one, other) = tokio::join!(done(&world, &LIST), done(&world, &LIST));
    let alone = done(&world, &LIST).await;

    // Each letter was in somebody's hand.
    assert_eq!(&ids(&one) | &ids(&other), ids(&alone));
    assert_eq!(
        (lines(&alone).len(), ids(&alone).len()),
        (COUNT, COUNT),
        "listed alone"
    );

    let (one, other) = tokio::join!(done(&world, &REPLAY_ALL), done(&world, &REPLAY_ALL));

    let replayed = |stdout: &str| lines(stdout)[0]["replayed"].as_u64().unwrap();
    assert_eq!(replayed(&one) + replayed(&other), COUNT as u64);
    assert_eq!(world.broker.depth(DEAD_EVENTS).await, 0);
    let published = bodies(&world.broker.take_all(EVENTS).await);
    assert_eq!(published.len(), COUNT);
    assert_eq!(published.iter().collect::<HashSet<_>>().len(), COUNT);
}

#[tokio::test]
async fn a_replay_that_is_refused_leaves_the_letter_and_its_exchange_is_the_producers() {
    let world = World::new("dead_events_refused").await;
    let heard = world.broker.listen_to(EXCHANGE, "card-published").await;
    bury(&world, "ledger_refused", &message("card-published", "ev-1")).await;
    let environment = world.environment(&[("POSTRIDER__AMQP__EXCHANGE", "nobody.declared.it")]);

    let args = [&["dead-letters"], &REPLAY_ALL[..]].concat();
    let refused = Postrider::run(&args, &environment).await;

    assert_eq!(refused.status.code(), Some(1));
    assert!(
        refused.stderr.contains("the rest is where it was"),
        "{}",
        refused.stderr
    );
    assert_eq!(refused.stdout, "");
    // The marker that the broken round has left goes with the next one.
    assert_eq!(done(&world, &REPLAY_ALL).await, "{\"replayed\":1}\n");
    assert_eq!(
        world.take(&heard).await.body,
        message("card-published", "ev-1")
    );
    assert_eq!(world.broker.take_all(DEAD_EVENTS).await.len(), 0);
}

#[tokio::test]
async fn a_full_queue_is_left_alone_by_who_looks_and_emptied_by_who_replays() {
    let world = World::new("dead_events_full").await;
    redeclare(&world, &[("x-max-length-bytes", 300)]).await;
    let events: Vec<_> = (0..3)
        .map(|n| message("card-published", &format!("ev-{n}")))
        .collect();
    for body in &events {
        bury(&world, "ledger_refused", body).await;
    }
    assert!(events.concat().len() > 300);

    for _ in 0..25 {
        let full = run(&world, &LIST).await;
        assert_eq!(full.status.code(), Some(1));
        assert!(
            full.stderr.contains("nothing was touched"),
            "{}",
            full.stderr
        );
        assert_eq!(full.stdout, "");
    }
    assert_eq!(world.broker.depth(DEAD_EVENTS).await, 3);
    let replayed = done(&world, &REPLAY_ALL).await;

    assert_eq!(replayed, "{\"replayed\":3}\n");
    assert_eq!(world.broker.depth(DEAD_EVENTS).await, 0);
    let published = world.broker.take_all(EVENTS).await;
    let published: Vec<_> = published.into_iter().map(|message| message.body).collect();
    assert_eq!(published, events);
    assert_eq!(done(&world, &LIST).await, "");
}

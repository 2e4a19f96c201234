//! Events that are put together into batches.

use std::collections::BTreeMap;
use std::time::Duration;

use store::{Claimed, Record, Step};
use webhook::{Batch, DeliveryStatus, RequestId, Status};

use super::fixture::{
    ENV, Fixture, assert_sound, limits, number, record, result_of, store, subscription,
};
use webhook::Outcome;

const HOOK: &str = "hook-a";
const LATER: Duration = Duration::from_secs(60);

/// Three events, or a minute.
const BATCH: Batch = Batch {
    events_max: 3,
    wait_max: Some(LATER),
    bytes_max: None,
};

async fn batched(f: &Fixture, id: &str, batch: Batch) {
    let mut new = subscription(id);
    new.batch = Some(batch);
    f.store.create(new).await.unwrap();
}

fn joining(webhook_id: &str, event_id: &str) -> Record {
    let step = Step::Join { within: LATER };
    let mut record = record(webhook_id, event_id, step);
    record.age = Duration::ZERO;
    record.payload = record.payload.for_batches();
    record
}

async fn join(f: &Fixture, webhook_id: &str, event_ids: &[&str]) {
    // One by one, so that their order is known.
    for event_id in event_ids {
        f.store
            .commit(&[joining(webhook_id, event_id)])
            .await
            .unwrap();
    }
}

fn id(webhook_id: &str, event_id: &str) -> RequestId {
    RequestId::of_event(webhook_id, "card-published", event_id)
}

fn batch_id(webhook_id: &str, event_ids: &[&str]) -> RequestId {
    let ids: Vec<RequestId> = event_ids
        .iter()
        .map(|event| id(webhook_id, event))
        .collect();
    RequestId::of_batch(webhook_id, &ids)
}

/// As if that much time had passed for what is to be put together.
async fn pass(f: &Fixture, time: &str) {
    f.sql
        .batch_execute(&format!("UPDATE batch_members_waiting SET created = created - interval '{time}'; UPDATE batches_open SET next_look = next_look - interval '{time}'"))
        .await
        .unwrap();
}

async fn make_all(f: &Fixture) -> Vec<usize> {
    let mut made = Vec::new();
    loop {
        let batches = f.store.make_batches().await.unwrap();
        made.extend(batches.made.iter().map(|batch| batch.events));
        if batches.next_in.is_none_or(|next| next > Duration::ZERO) {
            return made;
        }
    }
}

async fn claim(f: &Fixture) -> Vec<Claimed> {
    f.store.claim_due(limits(&[])).await.unwrap().claimed
}

#[tokio::test]
async fn a_full_batch_is_one_delivery_of_its_events_in_their_order() {
    let f = store().await;
    batched(&f, HOOK, BATCH).await;

    join(&f, HOOK, &["ev-1", "ev-2"]).await;
    assert!(make_all(&f).await.is_empty());
    assert!(claim(&f).await.is_empty());
    assert_sound(&f.sql).await;
    join(&f, HOOK, &["ev-3", "ev-4"]).await;

    assert_eq!(make_all(&f).await, [3]);
    let claimed = claim(&f).await;
    assert_eq!(claimed.len(), 1);
    let batch = &claimed[0];
    assert_eq!(
        batch.delivery.request_id,
        batch_id(HOOK, &["ev-1", "ev-2", "ev-3"])
    );
    assert_eq!(
        batch.payload.data,
        r#"[{"id":"ev-1"},{"id":"ev-2"},{"id":"ev-3"}]"#
    );
    assert_eq!((batch.attempts, batch.lost), (0, false));
    assert_sound(&f.sql).await;

    // It is claimed again as the same, and ends like any delivery.
    let retry = Step::Retry {
        after: Duration::ZERO,
    };
    f.store
        .commit(&[result_of(batch, retry, Outcome::HttpStatus)])
        .await
        .unwrap();
    let again = claim(&f).await;
    assert_eq!(again[0].payload, batch.payload);
    f.store
        .commit(&[result_of(&again[0], Step::Delivered, Outcome::Delivered)])
        .await
        .unwrap();
    assert_eq!(number(&f.sql, "SELECT count(*) FROM deliveries WHERE status = 'delivered' AND attempts = 2 AND event_type = 'batch' AND event_id = 'ev-1'").await, 1);
    assert_eq!(
        number(&f.sql, "SELECT count(*) FROM batch_members_waiting").await,
        1
    );
    assert_sound(&f.sql).await;
}

#[tokio::test]
async fn a_batch_goes_when_its_first_event_has_waited_long_enough() {
    let f = store().await;
    batched(&f, HOOK, BATCH).await;
    join(&f, HOOK, &["ev-1", "ev-2"]).await;

    let next = f.store.make_batches().await.unwrap().next_in.unwrap();
    assert!(next > Duration::from_secs(50) && next <= LATER, "{next:?}");
    pass(&f, "59 s").await;
    assert!(make_all(&f).await.is_empty());
    pass(&f, "2 s").await;

    assert_eq!(make_all(&f).await, [2]);
    assert!(f.store.make_batches().await.unwrap().next_in.is_none());
    assert_eq!(number(&f.sql, "SELECT count(*) FROM batches_open").await, 0);
}

#[tokio::test]
async fn a_body_is_no_larger_than_wanted() {
    let f = store().await;
    let around = r#"{"requestId":"b0ac9bd3-9094-5dbd-8fd3-1c0dcb1d44cd","environmentId":"env-1","webhookId":"hook-a","isBatched":true,"data":[]}"#;
    let two = around.len() + 2 * r#"{"id":"ev-1"}"#.len() + 1;
    let bytes = |bytes: usize| Batch {
        events_max: 1000,
        bytes_max: Some(u32::try_from(bytes).unwrap()),
        ..BATCH
    };
    batched(&f, HOOK, bytes(two)).await;
    batched(&f, "hook-b", bytes(two - 1)).await;

    for hook in [HOOK, "hook-b"] {
        join(&f, hook, &["ev-1", "ev-2", "ev-3"]).await;
    }

    let mut made = make_all(&f).await;
    made.sort_unstable();
    assert_eq!(made, [1, 1, 2]);
}

#[tokio::test]
async fn what_becomes_of_a_batch_is_decided_by_its_subscriptions_row() {
    let f = store().await;
    for hook in ["hook-a", "hook-b", "hook-c", "hook-d"] {
        batched(&f, hook, BATCH).await;
        join(&f, hook, &["ev-1", "ev-2"]).await;
    }
    for (hook, status) in [("hook-a", Status::Paused), ("hook-b", Status::Disabled)] {
        f.store.set_status(ENV, hook, status, None).await.unwrap();
    }
    f.store.remove(ENV, "hook-c").await.unwrap();
    let mut plain = f.store.get(ENV, "hook-d").await.unwrap().unwrap();
    plain.subscription.batch = None;
    f.store
        .change(&plain.subscription, plain.updated, 100)
        .await
        .unwrap();

    // Where there are no batches any more, nothing waits for one.
    assert_eq!(make_all(&f).await, [1; 4]);
    for (hook, status) in [
        ("hook-c", DeliveryStatus::Cancelled),
        ("hook-d", DeliveryStatus::Scheduled),
    ] {
        for event in ["ev-1", "ev-2"] {
            let view = f.store.delivery(ENV, id(hook, event)).await.unwrap();
            assert_eq!(view.unwrap().status, status, "{hook}");
        }
    }
    pass(&f, "60 s").await;
    assert_eq!(make_all(&f).await, [2, 2]);

    for (hook, status) in [
        ("hook-a", DeliveryStatus::Held),
        ("hook-b", DeliveryStatus::Cancelled),
    ] {
        let batch = batch_id(hook, &["ev-1", "ev-2"]);
        let view = f.store.delivery(ENV, batch).await.unwrap().unwrap();
        assert_eq!(view.status, status, "{hook}");
        assert_eq!(view.request_id, batch);
    }
    let mut data: Vec<_> = claim(&f)
        .await
        .into_iter()
        .map(|c| c.payload.data)
        .collect();
    data.sort_unstable();
    assert_eq!(data, [r#"{"id":"ev-1"}"#, r#"{"id":"ev-2"}"#]);
    assert_sound(&f.sql).await;
}

#[tokio::test]
async fn an_event_is_known_and_found_while_it_waits_and_by_its_batch() {
    let f = store().await;
    batched(&f, HOOK, BATCH).await;
    let event = id(HOOK, "ev-1");
    let knows = async || {
        let known = f.store.known(&[(ENV.into(), event)]).await.unwrap();
        known.contains(&event)
    };
    let found = async || f.store.delivery(ENV, event).await.unwrap();
    assert!(!knows().await && found().await.is_none());

    join(&f, HOOK, &["ev-1"]).await;
    assert!(knows().await);
    let waiting = found().await.unwrap();
    assert_eq!(
        (waiting.request_id, waiting.status, waiting.next_attempt),
        (event, DeliveryStatus::Scheduled, None)
    );

    // A producer's duplicate changes nothing while it waits.
    let mut duplicate = joining(HOOK, "ev-1");
    duplicate.payload.id = uuid::Uuid::new_v4();
    f.store
        .commit(&[duplicate.clone(), duplicate])
        .await
        .unwrap();
    assert_sound(&f.sql).await;
    join(&f, HOOK, &["ev-2", "ev-3"]).await;
    assert_eq!(make_all(&f).await, [3]);

    assert!(knows().await);
    let batch = batch_id(HOOK, &["ev-1", "ev-2", "ev-3"]);
    assert_eq!(found().await.unwrap().request_id, batch);
    assert!(f.store.delivery("env-2", event).await.unwrap().is_none());
}

#[tokio::test]
async fn an_events_bytes_are_kept_as_long_as_a_batch_needs_them() {
    let f = store().await;
    batched(&f, "hook-a", BATCH).await;
    batched(
        &f,
        "hook-b",
        Batch {
            events_max: 2,
            ..BATCH
        },
    )
    .await;
    let both = ["ev-1", "ev-2"].map(|event| [joining("hook-a", event), joining("hook-b", event)]);
    f.store.commit(&both.concat()).await.unwrap();
    assert_eq!(
        number(&f.sql, "SELECT count(*) FROM payloads_waiting").await,
        2
    );

    assert_eq!(make_all(&f).await, [2]);
    assert_sound(&f.sql).await;
    pass(&f, "60 s").await;
    assert_eq!(make_all(&f).await, [2]);

    assert_sound(&f.sql).await;
    assert_eq!(claim(&f).await.len(), 2);
    assert_eq!(
        number(&f.sql, "SELECT count(*) FROM payloads_waiting").await,
        2
    );
}

#[tokio::test]
async fn a_shorter_wait_takes_effect_at_once() {
    let f = store().await;
    batched(&f, HOOK, BATCH).await;
    join(&f, HOOK, &["ev-1"]).await;
    pass(&f, "1 s").await;
    assert!(make_all(&f).await.is_empty());

    let mut standing = f.store.get(ENV, HOOK).await.unwrap().unwrap();
    let wait_max = Some(Duration::from_millis(500));
    standing.subscription.batch = Some(Batch { wait_max, ..BATCH });
    f.store
        .change(&standing.subscription, standing.updated, 100)
        .await
        .unwrap();

    assert_eq!(make_all(&f).await, [1]);
}

/// Writers of events, makers of batches and duplicates at once: each event goes once.
#[tokio::test]
async fn however_many_are_at_it_each_event_goes_in_one_batch() {
    const WRITERS: usize = 4;
    const EVENTS: usize = 150;
    let f = store().await;
    let hooks = ["hook-a", "hook-b"];
    for hook in hooks {
        batched(
            &f,
            hook,
            Batch {
                events_max: 7,
                ..BATCH
            },
        )
        .await;
    }
    let write = |writer: usize| {
        let store = f.store.clone();
        async move {
            for event in 0..EVENTS {
                let event = format!("ev-{writer}-{event}");
                let records = hooks.map(|hook| joining(hook, &event));
                if event.ends_with('3') {
                    // Both of one event, but not in one transaction.
                    for record in &records {
                        store.commit(std::slice::from_ref(record)).await.unwrap();
                    }
                } else {
                    store.commit(&records).await.unwrap();
                }
            }
        }
    };
    let writing = futures_util::future::join_all((0..WRITERS).map(write));
    let done = tokio_util::sync::CancellationToken::new();
    let make = || async {
        let mut events = 0;
        while !done.is_cancelled() {
            match f.store.make_batches().await {
                Ok(batches) => {
                    events += batches.made.iter().map(|batch| batch.events).sum::<usize>()
                }
                Err(error) => panic!("{error}"),
            }
        }
        events
    };
    let writing = async {
        writing.await;
        done.cancel();
    };

    let ((), one, other) = tokio::join!(writing, make(), make());

    pass(&f, "61 s").await;
    let rest: usize = make_all(&f).await.into_iter().sum();
    assert_eq!(one + other + rest, hooks.len() * WRITERS * EVENTS);
    let mut times: BTreeMap<(String, String), u32> = BTreeMap::new();
    let rows = f
        .sql
        .query("SELECT w.webhook_id, convert_from(p.data, 'UTF8') FROM deliveries_waiting w JOIN payloads_waiting p USING (environment_id, payload_id)", &[])
        .await
        .unwrap();
    for row in rows {
        let events: Vec<serde_json::Value> = serde_json::from_str(row.get(1)).unwrap();
        assert!(events.len() <= 7);
        for event in events {
            let event = event["id"].as_str().unwrap().to_owned();
            *times.entry((row.get(0), event)).or_default() += 1;
        }
    }
    assert_eq!(times.len(), hooks.len() * WRITERS * EVENTS);
    assert!(times.values().all(|times| *times == 1));
    assert_eq!(
        number(&f.sql, "SELECT count(*) FROM batch_members_waiting").await,
        0
    );
    assert_eq!(
        number(&f.sql, "SELECT count(*) FROM batch_members").await,
        i64::try_from(hooks.len() * WRITERS * EVENTS).unwrap()
    );
    assert_sound(&f.sql).await;
}

#[tokio::test]
async fn what_is_written_again_after_it_went_is_not_put_into_a_second_batch() {
    let f = store().await;
    batched(&f, HOOK, BATCH).await;
    let records = ["ev-1", "ev-2", "ev-3"].map(|event| joining(HOOK, event));
    f.store.commit(&records).await.unwrap();
    assert_eq!(make_all(&f).await, [3]);

    // The answer to the first commit was lost.
    f.store.commit(&records).await.unwrap();

    pass(&f, "61 s").await;
    assert!(make_all(&f).await.is_empty());
    assert_sound(&f.sql).await;
    assert_eq!(claim(&f).await.len(), 1);
}

#[tokio::test]
async fn a_backlog_goes_many_batches_a_round_and_stands_before_nobody() {
    let f = store().await;
    let small = Batch {
        events_max: 2,
        ..BATCH
    };
    for hook in 0..40 {
        let hook = format!("hook-{hook}");
        batched(&f, &hook, small).await;
        let records: Vec<Record> = (0..300)
            .map(|event| joining(&hook, &format!("ev-{event}")))
            .collect();
        f.store.commit(&records).await.unwrap();
    }
    batched(&f, "hook-z", BATCH).await;
    join(&f, "hook-z", &["ev-1", "ev-2", "ev-3"]).await;

    let rounds = async |most: usize| {
        for round in 1..=most {
            let made = f.store.make_batches().await.unwrap().made;
            assert!(made.len() <= 500, "{}", made.len());
            if made
                .iter()
                .any(|batch| &*batch.delivery.webhook_id == "hook-z")
            {
                return round;
            }
        }
        panic!("it stands behind the others");
    };

    // The others have 6,000 batches, and go behind after their share of a round.
    assert_eq!(rounds(3).await, 2);
    let rest: usize = make_all(&f).await.into_iter().sum();
    assert!(rest > 0);
    assert_eq!(
        number(&f.sql, "SELECT count(*) FROM batch_members_waiting").await,
        0
    );
    assert_sound(&f.sql).await;
}

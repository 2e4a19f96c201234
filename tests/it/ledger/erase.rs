//! One end user's payloads and response starts are erased, wherever they stand and whatever goes on meanwhile.

use std::time::{Duration, Instant};

use bytes::Bytes;
use store::{Claimed, Erased, Record, Redelivered, Step, Store};
use tests::wait::wait_until;
use tokio::task::JoinSet;
use webhook::{DeadReason, DeliveryStatus, Outcome, RequestId, Status};

use super::fixture::*;

const THEIRS: &str = "u-1";
/// What of theirs is left, in payloads and in responses, by the texts that only theirs have.
const LEFT: &str = "
    SELECT (SELECT count(*) FROM payloads_waiting WHERE position('hush'::bytea IN data) > 0)
        + (SELECT count(*) FROM payloads WHERE position('hush'::bytea IN data) > 0)
        + (SELECT count(*) FROM attempts_waiting WHERE response = 'hush'::bytea)
        + (SELECT count(*) FROM attempts WHERE response = 'hush'::bytea)";

async fn fixture() -> Fixture {
    let f = store().await;
    for id in ["hook-a", "hook-b"] {
        f.store.create(subscription(id)).await.unwrap();
    }
    f
}

/// An event of that end user; theirs says so by more than its `endUserId`.
fn of(end_user: &str, mut record: Record) -> Record {
    let is_theirs = end_user == THEIRS;
    let (secret, response) = if is_theirs {
        ("hush", "hush")
    } else {
        ("", "plain")
    };
    let data = format!(
        r#"{{"id":"{}","endUserId":"{end_user}","secret":"{secret}"}}"#,
        record.delivery.event_id
    );
    record.payload.data = Bytes::from(data);
    if let Some(attempt) = &mut record.attempt {
        attempt.response = Some(Bytes::from(response));
    }
    record
}

fn id(webhook_id: &str, event_id: &str) -> RequestId {
    RequestId::of_event(webhook_id, "card-published", event_id)
}

async fn erase(store: &Store) -> Erased {
    store.erase_end_user(ENV, THEIRS, |_| {}).await.unwrap()
}

fn erased(payloads: u64, responses: u64, cancelled: u64) -> Erased {
    Erased {
        payloads,
        responses,
        cancelled,
        more_came: false,
    }
}

async fn status(f: &Fixture, webhook_id: &str, event_id: &str) -> DeliveryStatus {
    let view = f.store.delivery(ENV, id(webhook_id, event_id)).await;
    view.unwrap().unwrap().status
}

async fn redeliver(f: &Fixture, event_id: &str) -> Redelivered {
    f.store
        .redeliver(ENV, id("hook-a", event_id))
        .await
        .unwrap()
}

async fn claim(f: &Fixture) -> Vec<Claimed> {
    f.store.claim_due(limits(&[])).await.unwrap().claimed
}

/// What an attempt of theirs came to.
fn result(claimed: &Claimed, step: Step, outcome: Outcome) -> Record {
    let mut record = result_of(claimed, step, outcome);
    record.attempt.as_mut().unwrap().response = Some(Bytes::from("hush"));
    record
}

/// How many responses an environment has kept, by what they say.
async fn responses(f: &Fixture, text: &str) -> i64 {
    let sql = format!(
        "SELECT (SELECT count(*) FROM attempts WHERE response = '{text}'::bytea)
            + (SELECT count(*) FROM attempts_waiting WHERE response = '{text}'::bytea)"
    );
    number(&f.sql, &sql).await
}

#[tokio::test]
async fn what_is_settled_or_waits_is_erased_and_nobody_elses_is_touched() {
    let f = fixture().await;
    let gone_wrong = |event| record("hook-a", event, Step::Dead(DeadReason::AttemptsExhausted));
    let mut foreign = of(THEIRS, delivered("hook-a", "ev-foreign"));
    foreign.delivery.environment_id = "env-2".into();
    let records = [
        of(THEIRS, delivered("hook-a", "ev-delivered")),
        of(THEIRS, delivered("hook-b", "ev-delivered")),
        of(THEIRS, failed("hook-a", "ev-waits", MINUTE)),
        of(THEIRS, delivered("hook-b", "ev-waits")),
        of(
            THEIRS,
            attempted(gone_wrong("ev-dead"), 1, Outcome::HttpStatus),
        ),
        of("u-2", delivered("hook-a", "ev-other")),
        of("u-2", failed("hook-a", "ev-other-waits", MINUTE)),
        foreign,
    ];
    f.store.commit(&records).await.unwrap();

    let first = erase(&f.store).await;
    let second = erase(&f.store).await;

    // One event for two subscriptions has one payload where both are settled.
    assert_eq!(first, erased(3, 5, 1));
    assert_eq!(second, erased(0, 0, 0));
    assert_eq!(number(&f.sql, LEFT).await, 2, "another environment's");
    assert_eq!(responses(&f, "plain").await, 2);
    let (cancelled, delivered) = (DeliveryStatus::Cancelled, DeliveryStatus::Delivered);
    assert_eq!(status(&f, "hook-a", "ev-waits").await, cancelled);
    assert_eq!(status(&f, "hook-b", "ev-waits").await, delivered);
    assert_eq!(
        status(&f, "hook-a", "ev-other-waits").await,
        DeliveryStatus::Scheduled
    );
    for event in ["ev-delivered", "ev-waits", "ev-dead"] {
        assert_eq!(redeliver(&f, event).await, Redelivered::PayloadGone);
        let payload = f.store.delivery_payload(ENV, id("hook-a", event)).await;
        assert_eq!(payload.unwrap(), None);
    }
    assert_eq!(redeliver(&f, "ev-other").await, Redelivered::Accepted);
    // The log goes on telling what happened.
    let view = f.store.delivery(ENV, id("hook-a", "ev-waits")).await;
    let attempts = view.unwrap().unwrap().attempts;
    assert_eq!((attempts.len(), attempts[0].status), (1, Some(503)));
    // The dead copy goes out, without what it must not tell.
    let copies = f.store.take_outbox(10, MINUTE).await.unwrap();
    let copies = copies.iter().filter_map(|copy| match &copy.kind {
        store::OutboxKind::Dead { data, .. } => Some(data.len()),
        store::OutboxKind::Notice { .. } => None,
    });
    assert_eq!(copies.collect::<Vec<_>>(), [0]);
    assert_sound(&f.sql).await;
}

#[tokio::test]
async fn a_list_is_erased_if_any_of_its_events_is_theirs() {
    let f = fixture().await;
    for (event, data) in [
        (
            "ev-1",
            r#"[{"endUserId":"u-2"},{"endUserId":"u-1","secret":"hush"}]"#,
        ),
        ("ev-2", r#"[{"endUserId":"u-2"},{"x":{"endUserId":"u-1"}}]"#),
    ] {
        let mut record = delivered("hook-a", event);
        record.payload.data = Bytes::from(data);
        f.store.commit(&[record]).await.unwrap();
    }

    assert_eq!(erase(&f.store).await, erased(1, 1, 0));

    assert_eq!(redeliver(&f, "ev-1").await, Redelivered::PayloadGone);
    assert_eq!(redeliver(&f, "ev-2").await, Redelivered::Accepted);
}

#[tokio::test]
async fn what_is_held_is_cancelled_and_what_was_to_be_sent_once_more_stays_delivered() {
    let f = fixture().await;
    let all = [
        of(THEIRS, delivered("hook-a", "ev-again")),
        of(THEIRS, failed("hook-a", "ev-held", MINUTE)),
    ];
    f.store.commit(&all).await.unwrap();
    assert_eq!(redeliver(&f, "ev-again").await, Redelivered::Accepted);
    let paused = Status::Paused;
    f.store
        .set_status(ENV, "hook-a", paused, None)
        .await
        .unwrap();
    sweep_all(&f.store).await;
    assert_eq!(status(&f, "hook-a", "ev-held").await, DeliveryStatus::Held);

    assert_eq!(erase(&f.store).await, erased(2, 2, 1));

    assert_eq!(
        status(&f, "hook-a", "ev-held").await,
        DeliveryStatus::Cancelled
    );
    assert_eq!(
        status(&f, "hook-a", "ev-again").await,
        DeliveryStatus::Delivered
    );
    let waiting = "SELECT count(*) FROM deliveries_waiting";
    assert_eq!(number(&f.sql, waiting).await, 0);
    assert_eq!(number(&f.sql, LEFT).await, 0);
    assert_sound(&f.sql).await;
}

#[tokio::test]
async fn an_attempt_under_way_is_waited_for_and_brings_nothing_back() {
    let f = fixture().await;
    let records = [
        of(THEIRS, failed("hook-a", "ev-fails", Duration::ZERO)),
        of(THEIRS, failed("hook-a", "ev-succeeds", Duration::ZERO)),
        // Its neighbour waits with the same bytes, and doesn't have to wait for it.
        of(THEIRS, failed("hook-b", "ev-fails", MINUTE)),
    ];
    f.store.commit(&records).await.unwrap();
    let claimed = claim(&f).await;
    assert_eq!(claimed.len(), 2);
    let store = f.store.clone();
    let mut erasing = JoinSet::new();
    erasing.spawn(async move { erase(&store).await });
    wait_until(MINUTE, "the neighbour's end", async || {
        let status = status(&f, "hook-b", "ev-fails").await;
        (status == DeliveryStatus::Cancelled).then_some(())
    })
    .await;
    assert!(erasing.try_join_next().is_none());

    let results: Vec<Record> = claimed
        .iter()
        .map(|claimed| match &*claimed.delivery.event_id {
            "ev-succeeds" => result(claimed, Step::Delivered, Outcome::Delivered),
            _ => result(claimed, Step::Retry { after: MINUTE }, Outcome::HttpStatus),
        })
        .collect();
    f.store.commit(&results).await.unwrap();

    assert_eq!(erasing.join_next().await.unwrap().unwrap(), erased(2, 5, 2));
    let (cancelled, delivered) = (DeliveryStatus::Cancelled, DeliveryStatus::Delivered);
    assert_eq!(status(&f, "hook-a", "ev-fails").await, cancelled);
    assert_eq!(status(&f, "hook-a", "ev-succeeds").await, delivered);
    assert_eq!(number(&f.sql, LEFT).await, 0);
    // A result that comes twice, or after its lease was lost, brings no payload back either.
    let late: Vec<Record> = claimed
        .iter()
        .map(|claimed| result_of(claimed, Step::Delivered, Outcome::Delivered))
        .collect();
    f.store.commit(&late).await.unwrap();
    assert_eq!(redeliver(&f, "ev-fails").await, Redelivered::PayloadGone);
    assert_eq!(number(&f.sql, LEFT).await, 0);
    assert_sound(&f.sql).await;
}

#[tokio::test]
async fn a_redelivery_that_began_before_is_found_after() {
    let f = fixture().await;
    let theirs = of(THEIRS, delivered("hook-a", "ev-1"));
    f.store.commit(&[theirs]).await.unwrap();
    // As `redeliver.rs` writes it, and not committed yet.
    let other = tests::servers::connect(&f.url).await;
    other
        .batch_execute(
            "BEGIN; INSERT INTO deliveries_waiting (environment_id, request_id, webhook_id, event_id, event_type, status,
                attempts, claims, created, due, payload_id, payload_bytes, by_hand)
            SELECT environment_id, request_id, webhook_id, event_id, event_type, 'scheduled', 1, 0, created, now(),
                payload_id, 10, 'resend' FROM deliveries;
            INSERT INTO payloads_waiting SELECT environment_id, payload_id, data FROM payloads",
        )
        .await
        .unwrap();
    let store = f.store.clone();
    let mut erasing = JoinSet::new();
    erasing.spawn(async move { erase(&store).await });
    wait_until(MINUTE, "the payload's end", async || {
        let emptied = "SELECT count(*) FROM payloads WHERE octet_length(data) = 0";
        (number(&f.sql, emptied).await == 1).then_some(())
    })
    .await;
    assert!(erasing.try_join_next().is_none());

    other.batch_execute("COMMIT").await.unwrap();

    erasing.join_next().await.unwrap().unwrap();
    assert_eq!(number(&f.sql, LEFT).await, 0);
    let waiting = "SELECT count(*) FROM deliveries_waiting";
    assert_eq!(number(&f.sql, waiting).await, 0);
    assert_sound(&f.sql).await;
}

/// While some of theirs are claimed, settled, and sent again all the time: what was there when it began is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_moves_meanwhile_is_not_missed() {
    let f = fixture().await;
    for hook in ["hook-a", "hook-b"] {
        let mut records: Vec<Record> = (0..150)
            .map(|n| of(THEIRS, failed(hook, &format!("ev-{n}"), Duration::ZERO)))
            .collect();
        records.extend(
            (0..150).map(|n| of("u-2", failed(hook, &format!("other-{n}"), Duration::ZERO))),
        );
        f.store.commit(&records).await.unwrap();
    }
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let mut workers = JoinSet::new();
    for worker in 0..2_usize {
        let (store, stopped) = (store_at(&f.url, &[1]), stopped.clone());
        workers.spawn(async move {
            let mut round = 0;
            while !*stopped.borrow() {
                round += 1;
                let claim = store.claim_due(limits(&[])).await.unwrap();
                let results: Vec<Record> = claim
                    .claimed
                    .iter()
                    .enumerate()
                    .map(|(n, c)| {
                        let (step, outcome) = match (n + round + worker) % 3 {
                            0 => (Step::Delivered, Outcome::Delivered),
                            1 => (Step::Dead(DeadReason::TooOld), Outcome::Timeout),
                            _ => (
                                Step::Retry {
                                    after: Duration::ZERO,
                                },
                                Outcome::Timeout,
                            ),
                        };
                        let is_theirs = c.delivery.event_id.starts_with("ev-");
                        if is_theirs {
                            result(c, step, outcome)
                        } else {
                            result_of(c, step, outcome)
                        }
                    })
                    .collect();
                store.commit(&results).await.unwrap();
                for n in 0..10 {
                    let event = format!("ev-{}", (round * 10 + n) % 150);
                    for hook in ["hook-a", "hook-b"] {
                        store.redeliver(ENV, id(hook, &event)).await.unwrap();
                    }
                }
            }
        });
    }

    let first = erase(&f.store).await;

    // Not only what waits or only what is settled, else nothing moved.
    assert!(first.cancelled > 0 && first.payloads >= 150, "{first:?}");
    assert_eq!(number(&f.sql, LEFT).await, 0);
    stop.send(true).unwrap();
    while let Some(ended) = workers.join_next().await {
        ended.unwrap();
    }
    assert_eq!(number(&f.sql, LEFT).await, 0);
    let others = "SELECT count(DISTINCT request_id) FROM (SELECT request_id FROM deliveries_waiting UNION ALL
        SELECT request_id FROM deliveries) AS standing";
    assert_eq!(number(&f.sql, others).await, 600);
    let kept = "SELECT count(*) FROM (SELECT data FROM payloads UNION SELECT data FROM payloads_waiting) AS p
        WHERE octet_length(data) > 0";
    assert_eq!(number(&f.sql, kept).await, 150);
    assert_sound(&f.sql).await;
}

#[tokio::test]
async fn one_that_breaks_off_is_finished_by_the_next() {
    let f = fixture().await;
    f.sql.batch_execute(&days_before()).await.unwrap();
    f.sql.execute(MANY, &[&6000]).await.unwrap();
    let deadline = Instant::now() + MINUTE;
    let mut broken_off = 0;

    // At whatever it is at; each one goes a little further.
    let mut limit = Duration::from_millis(20);
    loop {
        assert!(Instant::now() < deadline);
        let store = store_at(&f.url, &[1]);
        let erasure = store.erase_end_user(ENV, THEIRS, |_| {});
        match tokio::time::timeout(limit, erasure).await {
            Ok(erased) => break assert!(!erased.unwrap().more_came),
            Err(_) => broken_off += 1,
        }
        limit += Duration::from_millis(25);
    }

    assert!(broken_off > 3, "{broken_off}");
    assert_eq!(number(&f.sql, LEFT).await, 0);
    assert_eq!(responses(&f, "plain").await, 3000);
    let kept = "SELECT count(*) FROM payloads WHERE octet_length(data) > 0";
    assert_eq!(number(&f.sql, kept).await, 3000);
    assert_eq!(erase(&f.store).await, erased(0, 0, 0));
    assert_sound(&f.sql).await;
}

#[tokio::test]
async fn of_many_environments_only_the_one_is_read() {
    let f = fixture().await;
    let foreign = MANY
        .replace("'env-1'", "'env-' || 2 + n % 5")
        .replace("n % 3 *", "0 *");
    f.sql.execute(foreign.as_str(), &[&50_000]).await.unwrap();
    let theirs = [
        of(THEIRS, delivered("hook-a", "ev-1")),
        of(THEIRS, failed("hook-a", "ev-2", MINUTE)),
    ];
    f.store.commit(&theirs).await.unwrap();
    f.sql.batch_execute("ANALYZE").await.unwrap();

    let fetched = fetched_by(&f, async |store| {
        assert_eq!(erase(&store).await, erased(2, 2, 1));
    })
    .await;

    assert!(
        fetched.rows < 100 && fetched.blocks < 500,
        "{fetched:?} for two payloads"
    );
}

/// A subscription that gets lists of three at most.
async fn batched(f: &Fixture, webhook_id: &str) {
    let mut new = subscription(webhook_id);
    new.batch = Some(webhook::Batch {
        events_max: 3,
        wait_max: None,
        bytes_max: None,
    });
    f.store.create(new).await.unwrap();
}

fn joining(end_user: &str, webhook_id: &str, event_id: &str) -> Record {
    let within = Duration::from_secs(1);
    let mut record = of(
        end_user,
        record(webhook_id, event_id, Step::Join { within }),
    );
    record.payload = record.payload.for_batches();
    record
}

#[tokio::test]
async fn an_event_that_is_to_go_in_a_batch_goes_for_good() {
    let f = fixture().await;
    batched(&f, "hook-c").await;
    let records = [
        joining(THEIRS, "hook-c", "ev-1"),
        joining("u-2", "hook-c", "ev-2"),
    ];
    f.store.commit(&records).await.unwrap();

    assert_eq!(erase(&f.store).await, erased(1, 0, 1));

    assert_eq!(number(&f.sql, LEFT).await, 0);
    assert_sound(&f.sql).await;
    let rest = [
        joining("u-2", "hook-c", "ev-3"),
        joining("u-2", "hook-c", "ev-4"),
    ];
    f.store.commit(&rest).await.unwrap();
    assert_eq!(f.store.make_batches().await.unwrap().made.len(), 1);
    let batch = claim(&f).await.remove(0);
    let events: Vec<serde_json::Value> = serde_json::from_slice(&batch.payload.data).unwrap();
    assert!(events.iter().all(|event| event["endUserId"] == "u-2"));
    assert_eq!(events.len(), 3);
}

#[tokio::test]
async fn a_batch_that_is_put_together_meanwhile_is_found() {
    const EVENTS: usize = 90;
    let f = fixture().await;
    batched(&f, "hook-c").await;
    for round in 0..4 {
        let records: Vec<Record> = (0..EVENTS)
            .map(|event| joining(THEIRS, "hook-c", &format!("ev-{round}-{event}")))
            .collect();
        f.store.commit(&records).await.unwrap();
        let store = f.store.clone();
        let mut making = JoinSet::new();
        making.spawn(async move { while !store.make_batches().await.unwrap().made.is_empty() {} });

        let done = erase(&f.store).await;

        making.join_all().await;
        assert!(done.payloads > 0 && !done.more_came, "{done:?}");
        assert_eq!(number(&f.sql, LEFT).await, 0);
        assert_sound(&f.sql).await;
    }
    assert_eq!(
        number(&f.sql, "SELECT count(*) FROM batch_members_waiting").await,
        0
    );
}

//! What a commit leaves in the ledger: the merge rule on a real Postgres.

use std::time::Duration;

use store::{OutboxKind, Step, StoreError};
use uuid::Uuid;
use webhook::{DeadReason, DeliveryStatus, Outcome, Status};

use super::fixture::*;

#[tokio::test]
async fn a_success_goes_straight_to_history_byte_for_byte() {
    let f = store().await;
    let record = delivered("hook-a", "ev-1");

    let written = f.store.commit(std::slice::from_ref(&record)).await.unwrap();

    assert_eq!(written[0].status, DeliveryStatus::Delivered);
    let id = record.delivery.request_id;
    let view = f.store.delivery(ENV, id).await.unwrap().unwrap();
    assert_eq!(
        (view.status, view.attempts.len()),
        (DeliveryStatus::Delivered, 1)
    );
    assert_eq!(view.attempts[0].response.as_ref().unwrap().len(), 1024);
    assert_eq!(
        f.store.delivery_payload(ENV, id).await.unwrap().unwrap(),
        record.payload.data
    );
    assert_eq!(f.store.delivery("env-2", id).await.unwrap(), None);
    assert_eq!(
        number(&f.sql, "SELECT count(*) FROM deliveries_waiting").await,
        0
    );
    assert_sound(&f.sql).await;
}

#[tokio::test]
async fn a_failure_waits_and_its_retry_moves_all_of_it_to_history() {
    let f = store().await;
    f.store.create(subscription("hook-a")).await.unwrap();
    let written = f
        .store
        .commit(&[failed("hook-a", "ev-1", Duration::ZERO)])
        .await
        .unwrap();
    assert_eq!(written[0].status, DeliveryStatus::Scheduled);
    assert_sound(&f.sql).await;

    let claim = f.store.claim_due(limits(&[])).await.unwrap();
    assert_eq!(claim.claimed.len(), 1);
    let claimed = &claim.claimed[0];
    assert_eq!((claimed.attempts, claimed.lost), (1, false));
    assert!(claimed.age >= Duration::from_secs(3));
    assert_eq!(&claimed.payload.data[..], b"{\"id\":\"ev-1\"}");
    let view = f
        .store
        .delivery(ENV, claimed.delivery.request_id)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (view.status, view.next_attempt),
        (DeliveryStatus::Scheduled, None)
    );
    let written = f
        .store
        .commit(&[result_of(claimed, Step::Delivered, Outcome::Delivered)])
        .await
        .unwrap();

    assert_eq!(written[0].status, DeliveryStatus::Delivered);
    let view = f
        .store
        .delivery(ENV, claimed.delivery.request_id)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        view.attempts.iter().map(|a| a.attempt).collect::<Vec<_>>(),
        [1, 2]
    );
    assert_eq!(
        number(&f.sql, "SELECT count(*) FROM deliveries_waiting").await,
        0
    );
    assert_eq!(
        number(&f.sql, "SELECT count(*) FROM attempts_waiting").await,
        0
    );
    assert_sound(&f.sql).await;
}

#[tokio::test]
async fn duplicates_in_one_group_are_one_delivery() {
    let f = store().await;
    f.store.create(subscription("hook-a")).await.unwrap();
    let lease_id = Uuid::new_v4();
    let hand_off = record(
        "hook-a",
        "ev-1",
        Step::HandOff {
            lease_id,
            lease: LEASE,
        },
    );
    let mut result = failed("hook-a", "ev-1", MINUTE);
    result.lease_id = Some(lease_id);

    let written = f
        .store
        .commit(&[
            hand_off,
            failed("hook-a", "ev-1", MINUTE),
            result,
            delivered("hook-a", "ev-2"),
            delivered("hook-a", "ev-2"),
        ])
        .await
        .unwrap();

    assert_eq!(
        written.iter().map(|w| w.status).collect::<Vec<_>>(),
        [
            DeliveryStatus::Scheduled,
            DeliveryStatus::Scheduled,
            DeliveryStatus::Scheduled,
            DeliveryStatus::Delivered,
            DeliveryStatus::Delivered
        ]
    );
    assert_eq!(number(&f.sql, "SELECT count(*) FROM deliveries_waiting WHERE attempts = 1 AND claims = 0 AND lease_id IS NULL").await, 1);
    assert_eq!(
        number(&f.sql, "SELECT count(*) FROM attempts_waiting").await,
        2
    );
    assert_sound(&f.sql).await;
}

#[tokio::test]
async fn a_handed_off_delivery_is_settled_by_its_result() {
    let f = store().await;
    f.store.create(subscription("hook-a")).await.unwrap();
    let lease_id = Uuid::new_v4();
    f.store
        .commit(&[record(
            "hook-a",
            "ev-1",
            Step::HandOff {
                lease_id,
                lease: LEASE,
            },
        )])
        .await
        .unwrap();
    assert!(
        f.store
            .claim_due(limits(&[]))
            .await
            .unwrap()
            .claimed
            .is_empty()
    );
    // A duplicate changes nothing.
    f.store
        .commit(&[record(
            "hook-a",
            "ev-1",
            Step::HandOff {
                lease_id: Uuid::new_v4(),
                lease: LEASE,
            },
        )])
        .await
        .unwrap();
    assert_sound(&f.sql).await;

    let mut result = delivered("hook-a", "ev-1");
    result.lease_id = Some(lease_id);
    let written = f.store.commit(&[result]).await.unwrap();

    assert_eq!(written[0].status, DeliveryStatus::Delivered);
    assert_eq!(
        number(&f.sql, "SELECT count(*) FROM deliveries_waiting").await,
        0
    );
    assert_sound(&f.sql).await;
}

#[tokio::test]
async fn a_late_result_only_adds_its_attempt_or_makes_it_delivered() {
    let f = store().await;
    f.store.create(subscription("hook-a")).await.unwrap();
    f.store
        .commit(&[failed("hook-a", "ev-1", Duration::ZERO)])
        .await
        .unwrap();
    let mut brief = limits(&[]);
    brief.lease = Duration::ZERO;
    let lost = f.store.claim_due(brief).await.unwrap().claimed.remove(0);
    let holder = f
        .store
        .claim_due(limits(&[]))
        .await
        .unwrap()
        .claimed
        .remove(0);
    assert_ne!(lost.lease_id, holder.lease_id);

    f.store
        .commit(&[result_of(
            &lost,
            Step::Dead(DeadReason::TooOld),
            Outcome::Timeout,
        )])
        .await
        .unwrap();
    assert_eq!(
        number(
            &f.sql,
            "SELECT count(*) FROM deliveries_waiting WHERE attempts = 1 AND claims = 2"
        )
        .await,
        1
    );
    assert_eq!(number(&f.sql, "SELECT count(*) FROM outbox").await, 0);
    f.store
        .commit(&[result_of(
            &holder,
            Step::Dead(DeadReason::AttemptsExhausted),
            Outcome::Timeout,
        )])
        .await
        .unwrap();
    let written = f
        .store
        .commit(&[result_of(&lost, Step::Delivered, Outcome::Delivered)])
        .await
        .unwrap();

    assert_eq!(written[0].status, DeliveryStatus::Delivered);
    let view = f
        .store
        .delivery(ENV, lost.delivery.request_id)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (view.status, view.reason, view.attempts.len()),
        (DeliveryStatus::Delivered, None, 4)
    );
    assert_sound(&f.sql).await;
}

#[tokio::test]
async fn a_dead_delivery_leaves_a_copy_to_publish() {
    let f = store().await;
    f.store.create(subscription("hook-a")).await.unwrap();
    let dead = attempted(
        record("hook-a", "ev-1", Step::Dead(DeadReason::AttemptsExhausted)),
        1,
        Outcome::Timeout,
    );

    let written = f.store.commit(std::slice::from_ref(&dead)).await.unwrap();
    // Once more, as after a commit whose answer was lost: no second copy.
    f.store.commit(std::slice::from_ref(&dead)).await.unwrap();

    assert_eq!(written[0].dead, Some(DeadReason::AttemptsExhausted));
    // Beside the notice that nothing is delivered to this subscription.
    let mut taken = f.store.take_outbox(10, Duration::ZERO).await.unwrap();
    taken.retain(|message| matches!(message.kind, OutboxKind::Dead { .. }));
    assert_eq!(taken.len(), 1);
    let OutboxKind::Dead {
        request_id,
        reason,
        attempts,
        data,
        environment_id,
        webhook_id,
    } = &taken[0].kind
    else {
        panic!()
    };
    assert_eq!(
        (*request_id, *reason, *attempts),
        (dead.delivery.request_id, DeadReason::AttemptsExhausted, 1)
    );
    assert_eq!(
        (environment_id.as_str(), webhook_id.as_str(), data),
        (ENV, "hook-a", &dead.payload.data)
    );
    let again = f.store.take_outbox(10, LEASE).await.unwrap();
    assert_eq!(again[0].message_id, taken[0].message_id);
    assert!(f.store.take_outbox(10, LEASE).await.unwrap().is_empty());
    f.store.remove_outbox(&[taken[0].id]).await.unwrap();
    let copies = "SELECT count(*) FROM outbox WHERE kind = 'delivery_dead'";
    assert_eq!(number(&f.sql, copies).await, 0);
}

#[tokio::test]
async fn gone_disables_the_subscription_and_ends_what_waits() {
    let f = store().await;
    f.store.create(subscription("hook-a")).await.unwrap();
    f.store
        .commit(&[
            failed("hook-a", "ev-1", MINUTE),
            failed("hook-a", "ev-2", MINUTE),
        ])
        .await
        .unwrap();
    let gone = attempted(
        record("hook-a", "ev-3", Step::Dead(DeadReason::Gone)),
        1,
        Outcome::Gone,
    );
    let other = attempted(
        record("hook-a", "ev-4", Step::Dead(DeadReason::Gone)),
        1,
        Outcome::Gone,
    );

    f.store.commit(&[gone, other]).await.unwrap();
    // A person disables it too before what waits has ended: the reason stays.
    f.store
        .set_status(ENV, "hook-a", Status::Disabled, None)
        .await
        .unwrap();
    assert_eq!(sweep_all(&f.store).await, 2);
    let late = f
        .store
        .commit(&[failed("hook-a", "ev-5", MINUTE)])
        .await
        .unwrap();

    assert_eq!(late[0].dead, Some(DeadReason::Gone));
    let stored = f.store.get(ENV, "hook-a").await.unwrap().unwrap();
    assert_eq!(
        (stored.subscription.status, stored.status_reason.as_deref()),
        (Status::Disabled, Some("gone"))
    );
    assert_eq!(
        number(
            &f.sql,
            "SELECT count(*) FROM deliveries WHERE status = 'dead' AND reason = 'gone'"
        )
        .await,
        5
    );
    assert_eq!(
        number(&f.sql, "SELECT count(*) FROM deliveries_waiting").await,
        0
    );
    let taken = f.store.take_outbox(10, LEASE).await.unwrap();
    let notices: Vec<_> = taken
        .iter()
        .filter_map(|m| match &m.kind {
            OutboxKind::Notice { routing_key, body } => Some((routing_key.as_str(), body.as_str())),
            _ => None,
        })
        .collect();
    assert_eq!(
        (taken.len(), notices.len(), notices[0].0),
        (6, 1, "subscription.disabled")
    );
    assert!(
        notices[0].1.starts_with(
            r#"{"environmentId":"env-1","webhookId":"hook-a","reason":"gone","at":"20"#
        ),
        "{}",
        notices[0].1
    );
    assert!(notices[0].1.ends_with("Z\"}"));
    assert_sound(&f.sql).await;
    assert_eq!(
        number(&f.sql, "SELECT count(*) FROM payloads_waiting").await,
        0
    );
}

#[tokio::test]
async fn a_failure_of_what_history_has_as_settled_only_adds_its_attempt() {
    let f = store().await;
    f.store.create(subscription("hook-a")).await.unwrap();
    f.store
        .commit(&[delivered("hook-a", "ev-1")])
        .await
        .unwrap();
    // As if it had been settled yesterday.
    f.sql.batch_execute("DO $$ DECLARE d date := (now() AT TIME ZONE 'UTC')::date - 1; t text; BEGIN
        FOREACH t IN ARRAY ARRAY['deliveries','attempts','payloads'] LOOP
        EXECUTE format('CREATE TABLE %s PARTITION OF %s FOR VALUES FROM (%L) TO (%L)', t || to_char(d, '_YYYYMMDD'), t, d, d + 1);
        EXECUTE format('UPDATE %s SET settled_on = %L', t, d); END LOOP; END $$").await.unwrap();

    let written = f
        .store
        .commit(&[
            failed("hook-a", "ev-1", MINUTE),
            record("hook-a", "ev-1", Step::Schedule { after: MINUTE }),
        ])
        .await
        .unwrap();
    let again = f
        .store
        .commit(&[delivered("hook-a", "ev-1")])
        .await
        .unwrap();

    assert!(
        written
            .iter()
            .chain(&again)
            .all(|w| w.status == DeliveryStatus::Delivered)
    );
    assert_eq!(
        number(&f.sql, "SELECT count(*) FROM deliveries_waiting").await,
        0
    );
    let view = f
        .store
        .delivery(ENV, delivered("hook-a", "ev-1").delivery.request_id)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(view.attempts.len(), 3);
    assert_sound(&f.sql).await;
}

#[tokio::test]
async fn a_payload_is_kept_once_and_as_long_as_anyone_waits_for_it() {
    let f = store().await;
    for id in ["hook-a", "hook-b", "hook-c"] {
        f.store.create(subscription(id)).await.unwrap();
    }
    f.store
        .commit(&[
            failed("hook-a", "ev-1", Duration::ZERO),
            failed("hook-b", "ev-1", Duration::ZERO),
            delivered("hook-c", "ev-1"),
        ])
        .await
        .unwrap();
    assert_eq!(
        number(&f.sql, "SELECT count(*) FROM payloads_waiting").await,
        1
    );

    let claim = f.store.claim_due(limits(&[])).await.unwrap();
    assert_eq!(claim.claimed.len(), 2);
    for (claimed, left) in claim.claimed.iter().zip([1, 0]) {
        f.store
            .commit(&[result_of(claimed, Step::Delivered, Outcome::Delivered)])
            .await
            .unwrap();
        assert_eq!(
            number(&f.sql, "SELECT count(*) FROM payloads_waiting").await,
            left
        );
        assert_sound(&f.sql).await;
    }
}

#[tokio::test]
async fn one_bad_record_refuses_the_group_and_says_so_without_showing_it() {
    let f = store().await;
    f.sql
        .batch_execute("ALTER TABLE deliveries ADD CONSTRAINT no_bad CHECK (event_id <> 'bad')")
        .await
        .unwrap();

    let refused = f
        .store
        .commit(&[delivered("hook-a", "ev-1"), delivered("hook-a", "bad")])
        .await
        .unwrap_err();

    let StoreError::Refused(error) = &refused else {
        panic!("{refused:?}")
    };
    assert_eq!(
        (error.sqlstate(), error.constraint()),
        (Some("23514"), Some("no_bad"))
    );
    assert!(
        !format!("{refused:?} {refused}").contains("card-published"),
        "{refused:?}"
    );
    assert_eq!(number(&f.sql, "SELECT count(*) FROM deliveries").await, 0);
    f.store
        .commit(&[delivered("hook-a", "ev-1")])
        .await
        .unwrap();
}

#[tokio::test]
async fn a_missing_partition_is_made_on_the_way() {
    let f = store().await;
    f.store.create(subscription("hook-a")).await.unwrap();
    f.store
        .commit(&[failed("hook-a", "ev-2", MINUTE)])
        .await
        .unwrap();
    f.sql
        .batch_execute(
            "DO $$ DECLARE d text := to_char(now() AT TIME ZONE 'UTC', '_YYYYMMDD'); BEGIN
        EXECUTE 'DROP TABLE deliveries' || d || ', attempts' || d || ', payloads' || d; END $$",
        )
        .await
        .unwrap();

    f.store
        .commit(&[delivered("hook-a", "ev-1"), delivered("hook-a", "ev-2")])
        .await
        .unwrap();

    assert_eq!(number(&f.sql, "SELECT count(*) FROM deliveries").await, 2);
    assert_sound(&f.sql).await;
}

/// Many workers with the same deliveries at once: nothing fails, nothing is lost, nothing is left over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_that_meet_leave_a_sound_ledger() {
    let f = store().await;
    for hook in 0..4 {
        f.store
            .create(subscription(&format!("hook-{hook}")))
            .await
            .unwrap();
    }
    let mut workers = tokio::task::JoinSet::new();
    for worker in 0..6u64 {
        let store = f.store.clone();
        workers.spawn(async move {
            for round in 0..40u64 {
                let records: Vec<_> = (0..60u64)
                    .map(|n| {
                        let n = (n * 7 + worker * 13 + round * 31) % 200;
                        let (hook, event) = (format!("hook-{}", n % 4), format!("ev-{}", n / 4));
                        match (n + worker + round) % 5 {
                            0 => delivered(&hook, &event),
                            1 => record(
                                &hook,
                                &event,
                                Step::Schedule {
                                    after: Duration::ZERO,
                                },
                            ),
                            2 => attempted(
                                record(&hook, &event, Step::Dead(DeadReason::TooOld)),
                                1,
                                Outcome::Dns,
                            ),
                            _ => failed(&hook, &event, Duration::ZERO),
                        }
                    })
                    .collect();
                store.commit(&records).await.unwrap();
                let claim = store.claim_due(limits(&[])).await.unwrap();
                let results: Vec<_> = claim
                    .claimed
                    .iter()
                    .enumerate()
                    .map(|(i, c)| match i % 3 {
                        0 => result_of(c, Step::Delivered, Outcome::Delivered),
                        1 => result_of(
                            c,
                            Step::Retry {
                                after: Duration::ZERO,
                            },
                            Outcome::Dns,
                        ),
                        _ => {
                            let mut r = result_of(
                                c,
                                Step::HandBack {
                                    after: Duration::ZERO,
                                },
                                Outcome::Dns,
                            );
                            r.attempt = None;
                            r
                        }
                    })
                    .collect();
                store.commit(&results).await.unwrap();
            }
        });
    }
    while let Some(done) = workers.join_next().await {
        done.unwrap();
    }

    assert_sound(&f.sql).await;
    assert_eq!(number(&f.sql, "SELECT count(DISTINCT request_id) FROM (SELECT request_id FROM deliveries UNION SELECT request_id FROM deliveries_waiting) x").await, 200);
}

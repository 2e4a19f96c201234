//! What a claim takes, and what it leaves.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use store::{ClaimLimits, Step};
use tests::wait::wait_until;
use webhook::{Outcome, Status};

use super::fixture::*;

#[tokio::test]
async fn a_claim_is_fair_and_within_every_limit() {
    let f = store().await;
    for id in ["hook-a", "hook-b", "hook-c"] {
        f.store.create(subscription(id)).await.unwrap();
    }
    let mut records: Vec<_> = (0..50)
        .map(|n| failed("hook-a", &format!("ev-{n}"), Duration::ZERO))
        .collect();
    records.extend((0..3).map(|n| failed("hook-b", &format!("ev-{n}"), Duration::ZERO)));
    records.extend((0..3).map(|n| failed("hook-c", &format!("ev-{n}"), Duration::ZERO)));
    f.store.commit(&records).await.unwrap();
    let slots: Vec<(Arc<str>, Arc<str>, u32)> = vec![
        (ENV.into(), "hook-a".into(), 4),
        (ENV.into(), "hook-c".into(), 0),
    ];
    let limits = |rows_max| ClaimLimits {
        rows_max,
        payload_bytes_max: 1 << 20,
        lease: LEASE,
        suspect: true,
        slots_default: 10,
        slots: &slots,
    };

    let count = |claimed: &[store::Claimed]| {
        let mut counts: HashMap<String, u32> = HashMap::new();
        for c in claimed {
            *counts.entry(c.delivery.webhook_id.to_string()).or_default() += 1;
        }
        let mut counts: Vec<_> = counts.into_iter().collect();
        counts.sort();
        counts
    };
    let first = f.store.claim_due(limits(4)).await.unwrap();
    assert_eq!(
        count(&first.claimed),
        [("hook-a".to_string(), 2), ("hook-b".into(), 2)]
    );
    assert_eq!(first.next_due_in, Some(Duration::ZERO));
    let second = f.store.claim_due(limits(100)).await.unwrap();
    assert_eq!(
        count(&second.claimed),
        [("hook-a".to_string(), 4), ("hook-b".into(), 1)]
    );
    let few_bytes = ClaimLimits {
        payload_bytes_max: 1,
        ..limits(100)
    };
    assert_eq!(f.store.claim_due(few_bytes).await.unwrap().claimed.len(), 1);
    let none = ClaimLimits {
        rows_max: 0,
        ..limits(0)
    };
    assert!(f.store.claim_due(none).await.unwrap().claimed.is_empty());
    assert_sound(&f.sql).await;
}

#[tokio::test]
async fn what_is_blocked_does_not_say_it_is_due() {
    let f = store().await;
    f.store.create(subscription("hook-a")).await.unwrap();
    f.store.create(subscription("hook-b")).await.unwrap();
    f.store
        .commit(&[
            failed("hook-a", "ev-1", Duration::ZERO),
            failed("hook-b", "ev-1", MINUTE),
        ])
        .await
        .unwrap();
    let slots: Vec<(Arc<str>, Arc<str>, u32)> = vec![(ENV.into(), "hook-a".into(), 0)];

    let claim = f.store.claim_due(limits(&slots)).await.unwrap();

    assert!(claim.claimed.is_empty());
    let next = claim.next_due_in.unwrap();
    assert!(next > Duration::from_secs(50) && next <= MINUTE, "{next:?}");
}

#[tokio::test]
async fn three_claims_without_an_outcome_make_it_lost() {
    let f = store().await;
    f.store.create(subscription("hook-a")).await.unwrap();
    f.store
        .commit(&[failed("hook-a", "ev-1", Duration::ZERO)])
        .await
        .unwrap();
    let brief = ClaimLimits {
        lease: Duration::ZERO,
        ..limits(&[])
    };

    let mut lost = Vec::new();
    for _ in 0..4 {
        let claimed = wait_until(MINUTE, "a claim", async || {
            f.store.claim_due(brief).await.unwrap().claimed.pop()
        });
        lost.push(claimed.await.lost);
    }

    assert_eq!(lost, [false, false, false, true]);
}

#[tokio::test]
async fn what_may_kill_a_worker_is_claimed_alone() {
    let f = store().await;
    f.store.create(subscription("hook-a")).await.unwrap();
    f.store.create(subscription("hook-b")).await.unwrap();
    f.store
        .commit(&[
            failed("hook-a", "killer", Duration::ZERO),
            failed("hook-a", "innocent", Duration::ZERO),
            failed("hook-b", "innocent", Duration::ZERO),
        ])
        .await
        .unwrap();
    let leases_end =
        "UPDATE deliveries_waiting SET due = now(); UPDATE subscription_due SET next_due = now()";
    for _ in 0..2 {
        // The worker is killed while it has all three.
        assert_eq!(
            f.store.claim_due(limits(&[])).await.unwrap().claimed.len(),
            3
        );
        f.sql.batch_execute(leases_end).await.unwrap();
    }
    f.store
        .commit(&[failed("hook-a", "fresh", Duration::ZERO)])
        .await
        .unwrap();

    let mut outcomes = Vec::new();
    for _ in 0..4 {
        let claim = f.store.claim_due(limits(&[])).await.unwrap();
        let suspects: Vec<_> = claim.claimed.iter().filter(|c| c.suspect).collect();
        assert_eq!(suspects.len(), 1);
        let suspect = suspects[0];
        outcomes.push((suspect.delivery.event_id.to_string(), suspect.lost));
        for claimed in &claim.claimed {
            if &*claimed.delivery.event_id != "killer" || claimed.lost {
                let result = result_of(claimed, Step::Delivered, Outcome::Delivered);
                f.store.commit(&[result]).await.unwrap();
            }
        }
        let none = ClaimLimits {
            suspect: false,
            ..limits(&[])
        };
        f.sql.batch_execute(leases_end).await.unwrap();
        assert!(f.store.claim_due(none).await.unwrap().claimed.is_empty());
        f.sql.batch_execute(leases_end).await.unwrap();
    }

    outcomes.sort();
    let killer = |lost| ("killer".to_owned(), lost);
    let innocent = || ("innocent".to_owned(), false);
    assert_eq!(
        outcomes,
        [innocent(), innocent(), killer(false), killer(true)]
    );
    assert_sound(&f.sql).await;
}

#[tokio::test]
async fn a_suspect_that_must_wait_does_not_hurry_the_claim() {
    let f = store().await;
    f.store.create(subscription("hook-a")).await.unwrap();
    f.store
        .commit(&[failed("hook-a", "ev-1", Duration::ZERO)])
        .await
        .unwrap();
    f.sql
        .batch_execute("UPDATE deliveries_waiting SET claims = 2")
        .await
        .unwrap();
    let none = ClaimLimits {
        suspect: false,
        ..limits(&[])
    };

    assert!(f.store.claim_due(none).await.unwrap().claimed.is_empty());
    let next = f.store.claim_due(none).await.unwrap().next_due_in.unwrap();

    assert!(next > Duration::from_millis(300), "{next:?}");
}

#[tokio::test]
async fn a_failure_that_is_committed_together_with_its_success_is_not_sent_again() {
    let f = store().await;
    f.store.create(subscription("hook-a")).await.unwrap();
    // Holds the success up between its look and its writing.
    f.sql
        .batch_execute("BEGIN; LOCK TABLE deliveries IN SHARE MODE")
        .await
        .unwrap();
    let other = store_at(&f.url, &[1]);
    let success = [delivered("hook-a", "ev-1")];
    let meanwhile = async {
        wait_until(MINUTE, "the success to stand at the lock", async || {
            let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'deliveries'::regclass";
            (number(&f.sql, waiting).await > 0).then_some(())
        })
        .await;
        let failure = [failed("hook-a", "ev-1", Duration::ZERO)];
        f.store.commit(&failure).await.unwrap();
        f.sql.batch_execute("COMMIT").await.unwrap();
    };
    let (succeeded, ()) = tokio::join!(other.commit(&success), meanwhile);
    succeeded.unwrap();
    assert_eq!(
        number(&f.sql, "SELECT count(*) FROM deliveries_waiting").await,
        1
    );

    let claim = f.store.claim_due(limits(&[])).await.unwrap();

    assert!(claim.claimed.is_empty());
    assert_eq!(
        number(&f.sql, "SELECT count(*) FROM deliveries_waiting").await,
        0
    );
    let id = delivered("hook-a", "ev-1").delivery.request_id;
    let view = f.store.delivery(ENV, id).await.unwrap().unwrap();
    assert_eq!(view.status, webhook::DeliveryStatus::Delivered);
    assert_eq!(view.attempts.len(), 2);
    assert_sound(&f.sql).await;
}

#[tokio::test]
async fn what_is_handed_back_is_due_again_and_not_counted() {
    let f = store().await;
    f.store.create(subscription("hook-a")).await.unwrap();
    f.store
        .commit(&[failed("hook-a", "ev-1", Duration::ZERO)])
        .await
        .unwrap();
    let mut listener = f.store.listen().await.unwrap();

    for _ in 0..6 {
        let claimed = f
            .store
            .claim_due(limits(&[]))
            .await
            .unwrap()
            .claimed
            .remove(0);
        assert!(!claimed.lost);
        let mut back = result_of(
            &claimed,
            Step::HandBack {
                after: Duration::ZERO,
            },
            Outcome::Dns,
        );
        back.attempt = None;
        f.store.commit(&[back]).await.unwrap();
    }

    let notice = tokio::time::timeout(Duration::from_secs(5), listener.next())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(notice, store::Notice::Due);
}

#[tokio::test]
async fn only_active_subscriptions_are_claimed() {
    let f = store().await;
    for id in ["hook-a", "hook-b", "hook-c"] {
        f.store.create(subscription(id)).await.unwrap();
        f.store
            .commit(&[failed(id, "ev-1", Duration::ZERO)])
            .await
            .unwrap();
    }
    f.store
        .set_status(ENV, "hook-a", Status::Paused, None)
        .await
        .unwrap();
    f.store
        .set_status(ENV, "hook-b", Status::Disabled, None)
        .await
        .unwrap();
    f.store.remove(ENV, "hook-c").await.unwrap();

    let claim = f.store.claim_due(limits(&[])).await.unwrap();

    assert!(claim.claimed.is_empty());
    assert_eq!(
        number(
            &f.sql,
            "SELECT count(*) FROM subscription_due WHERE next_sweep <= now()"
        )
        .await,
        3
    );
    assert_sound(&f.sql).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_claims_at_once_never_take_the_same() {
    let f = store().await;
    for hook in 0..10 {
        f.store
            .create(subscription(&format!("hook-{hook}")))
            .await
            .unwrap();
    }
    let records: Vec<_> = (0..1000)
        .map(|n| {
            failed(
                &format!("hook-{}", n % 10),
                &format!("ev-{n}"),
                Duration::ZERO,
            )
        })
        .collect();
    f.store.commit(&records).await.unwrap();
    let mut claimers = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let store = f.store.clone();
        claimers.spawn(async move {
            let mut ids = Vec::new();
            let mut empty = 0;
            while empty < 20 {
                let claim = store.claim_due(limits(&[])).await.unwrap();
                if claim.claimed.is_empty() {
                    empty += 1;
                }
                ids.extend(claim.claimed.iter().map(|c| c.delivery.request_id));
            }
            ids
        });
    }

    let mut ids = Vec::new();
    while let Some(done) = claimers.join_next().await {
        ids.extend(done.unwrap());
    }

    let all = ids.len();
    ids.sort();
    ids.dedup();
    assert_eq!((all, ids.len()), (1000, 1000));
    assert_sound(&f.sql).await;
}

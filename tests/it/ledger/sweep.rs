//! What waits follows its subscription's state.

use std::time::Duration;

use store::{Changed, Step};
use webhook::{DeliveryStatus, Outcome, Status};

use super::fixture::*;

#[tokio::test]
async fn what_waits_for_a_paused_subscription_is_held_and_released() {
    let f = store().await;
    f.store.create(subscription("hook-a")).await.unwrap();
    f.store
        .commit(&[failed("hook-a", "ev-1", Duration::ZERO)])
        .await
        .unwrap();
    f.store
        .set_status(ENV, "hook-a", Status::Paused, None)
        .await
        .unwrap();

    let written = f
        .store
        .commit(&[failed("hook-a", "ev-2", Duration::ZERO)])
        .await
        .unwrap();
    assert_eq!(written[0].status, DeliveryStatus::Held);
    assert_eq!(sweep_all(&f.store).await, 1);
    assert_eq!(f.store.gauges().await.unwrap().held, 2);
    assert_eq!(f.store.gauges().await.unwrap().subscriptions_paused, 1);
    assert_sound(&f.sql).await;
    assert!(
        f.store
            .claim_due(limits(&[]))
            .await
            .unwrap()
            .claimed
            .is_empty()
    );

    f.store
        .set_status(ENV, "hook-a", Status::Active, None)
        .await
        .unwrap();
    assert_eq!(sweep_all(&f.store).await, 2);

    let claimed = f.store.claim_due(limits(&[])).await.unwrap().claimed;
    assert_eq!(claimed.len(), 2);
    assert!(claimed.iter().all(|c| c.attempts == 1 && !c.lost));
    assert_sound(&f.sql).await;
}

#[tokio::test]
async fn what_waits_for_an_ended_subscription_is_cancelled_whatever_it_waits_for() {
    let f = store().await;
    for (id, remove) in [("hook-a", false), ("hook-b", true)] {
        f.store.create(subscription(id)).await.unwrap();
        f.store
            .commit(&[
                failed(id, "ev-1", MINUTE),
                failed(id, "ev-2", Duration::ZERO),
            ])
            .await
            .unwrap();
        f.store
            .set_status(ENV, id, Status::Paused, None)
            .await
            .unwrap();
        f.store.commit(&[failed(id, "ev-3", MINUTE)]).await.unwrap();
        if remove {
            f.store.remove(ENV, id).await.unwrap()
        } else {
            f.store
                .set_status(ENV, id, Status::Disabled, None)
                .await
                .unwrap()
        }
    }
    let late = f
        .store
        .commit(&[
            failed("hook-a", "ev-4", MINUTE),
            failed("hook-b", "ev-4", MINUTE),
        ])
        .await
        .unwrap();

    assert_eq!(sweep_all(&f.store).await, 6);

    assert!(late.iter().all(|w| w.status == DeliveryStatus::Cancelled));
    assert_eq!(
        number(
            &f.sql,
            "SELECT count(*) FROM deliveries WHERE status = 'cancelled'"
        )
        .await,
        8
    );
    assert_eq!(
        number(&f.sql, "SELECT count(*) FROM deliveries_waiting").await,
        0
    );
    assert_eq!(
        number(&f.sql, "SELECT count(*) FROM subscription_due").await,
        0
    );
    assert_sound(&f.sql).await;
}

#[tokio::test]
async fn a_sweep_leaves_what_is_under_way() {
    let f = store().await;
    f.store.create(subscription("hook-a")).await.unwrap();
    f.store
        .commit(&[failed("hook-a", "ev-1", Duration::ZERO)])
        .await
        .unwrap();
    let claimed = f
        .store
        .claim_due(limits(&[]))
        .await
        .unwrap()
        .claimed
        .remove(0);
    f.store
        .set_status(ENV, "hook-a", Status::Disabled, None)
        .await
        .unwrap();

    assert_eq!(sweep_all(&f.store).await, 0);
    let written = f
        .store
        .commit(&[result_of(&claimed, Step::Delivered, Outcome::Delivered)])
        .await
        .unwrap();

    assert_eq!(written[0].status, DeliveryStatus::Delivered);
    assert_sound(&f.sql).await;
}

#[tokio::test]
async fn a_changed_url_makes_what_waits_due() {
    let f = store().await;
    f.store.create(subscription("hook-a")).await.unwrap();
    let records: Vec<_> = (0..30)
        .map(|n| failed("hook-a", &format!("ev-{n}"), MINUTE))
        .collect();
    f.store.commit(&records).await.unwrap();
    assert!(
        f.store
            .claim_due(limits(&[]))
            .await
            .unwrap()
            .claimed
            .is_empty()
    );

    let mut moved = f.store.get(ENV, "hook-a").await.unwrap().unwrap();
    moved.subscription.url = "https://example.com/other".into();
    let changed = f.store.change(&moved.subscription, moved.updated, 1).await;
    assert_eq!(changed.unwrap(), Changed::Done);

    assert_eq!(
        f.store.claim_due(limits(&[])).await.unwrap().claimed.len(),
        10
    );
    assert_eq!(
        f.store
            .get(ENV, "hook-a")
            .await
            .unwrap()
            .unwrap()
            .subscription
            .url,
        "https://example.com/other"
    );
    assert_eq!(
        number(
            &f.sql,
            "SELECT count(*) FROM deliveries_waiting WHERE due > now() AND lease_id IS NULL"
        )
        .await,
        0
    );
}

#[tokio::test]
async fn a_long_backlog_is_swept_in_bounded_portions() {
    let f = store().await;
    f.store.create(subscription("hook-a")).await.unwrap();
    for part in 0..5 {
        let records: Vec<_> = (0..400)
            .map(|n| failed("hook-a", &format!("ev-{part}-{n}"), MINUTE))
            .collect();
        f.store.commit(&records).await.unwrap();
    }
    f.store.remove(ENV, "hook-a").await.unwrap();

    assert_eq!(f.store.sweep(300, HELD_MAX).await.unwrap().changed(), 300);
    assert_eq!(sweep_all(&f.store).await, 1700);

    assert_eq!(
        number(
            &f.sql,
            "SELECT count(*) FROM deliveries WHERE status = 'cancelled'"
        )
        .await,
        2000
    );
    assert_eq!(
        number(&f.sql, "SELECT count(*) FROM subscription_due").await,
        0
    );
    assert_sound(&f.sql).await;
}

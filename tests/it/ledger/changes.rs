//! Subscriptions and credentials as the API changes them.

use std::time::Duration;

use store::{Changed, Credential, Role, StoreError};
use webhook::{Secret, Status};

use super::fixture::*;

#[tokio::test]
async fn a_change_is_written_only_over_what_was_read() {
    let f = store().await;
    let read = f.store.create(subscription("hook-a")).await.unwrap();
    let mut changed = read.subscription.clone();
    changed.types = vec!["card-completed".into()];
    changed.status = Status::Paused;

    assert_eq!(
        f.store.change(&changed, read.updated, 100).await.unwrap(),
        Changed::Done
    );
    assert_eq!(
        f.store.change(&changed, read.updated, 100).await.unwrap(),
        Changed::Meanwhile
    );

    let now = f.store.get(ENV, "hook-a").await.unwrap().unwrap();
    assert_eq!(now.subscription, changed);
    assert!(now.updated > read.updated && now.status_changed > read.status_changed);
    changed.id = "hook-z".into();
    assert!(matches!(
        f.store.change(&changed, read.updated, 100).await,
        Err(StoreError::NotFound)
    ));
}

#[tokio::test]
async fn the_limit_holds_however_many_come_at_once_and_for_revivals() {
    let f = store().await;
    let mut creations = tokio::task::JoinSet::new();
    for n in 0..10 {
        let store = f.store.clone();
        creations.spawn(async move {
            store
                .create_within(subscription(&format!("hook-{n}")), 3)
                .await
                .unwrap()
                .is_some()
        });
    }
    let mut made = 0;
    while let Some(one) = creations.join_next().await {
        made += usize::from(one.unwrap());
    }
    assert_eq!(made, 3);

    let mut old = f.store.list(ENV).await.unwrap().remove(0);
    f.store
        .set_status(ENV, &old.subscription.id, Status::Disabled, None)
        .await
        .unwrap();
    assert!(
        f.store
            .create_within(subscription("hook-x"), 3)
            .await
            .unwrap()
            .is_some()
    );
    old = f
        .store
        .get(ENV, &old.subscription.id)
        .await
        .unwrap()
        .unwrap();
    old.subscription.status = Status::Active;
    assert_eq!(
        f.store
            .change(&old.subscription, old.updated, 3)
            .await
            .unwrap(),
        Changed::TooMany
    );
    assert_eq!(
        f.store
            .change(&old.subscription, old.updated, 4)
            .await
            .unwrap(),
        Changed::Done
    );
}

#[tokio::test]
async fn disabled_ones_are_limited_too() {
    let f = store().await;
    let make = async |n: u32| {
        let new = subscription(&format!("hook-{n}"));
        f.store.create_within(new, 1).await.unwrap().is_some()
    };
    for n in 0..10 {
        assert!(make(n).await);
        let id = format!("hook-{n}");
        let disabled = f.store.set_status(ENV, &id, Status::Disabled, None).await;
        disabled.unwrap();
    }

    assert!(!make(10).await);
    f.store.remove(ENV, "hook-0").await.unwrap();
    assert!(make(10).await);
}

#[tokio::test]
async fn a_rotated_secret_signs_beside_the_new_one_while_they_overlap() {
    let f = store().await;
    f.store.create(subscription("hook-a")).await.unwrap();
    let new = Secret::new("second".into());

    let rotated = f
        .store
        .rotate_secret(ENV, "hook-a", &new, MINUTE)
        .await
        .unwrap();
    let texts = |secrets: &[Secret]| {
        secrets
            .iter()
            .map(|s| s.as_str().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        texts(&rotated.subscription.secrets),
        ["second", "hush-secret"]
    );

    let third = Secret::new("third".into());
    let rotated = f
        .store
        .rotate_secret(ENV, "hook-a", &third, Duration::ZERO)
        .await
        .unwrap();
    assert_eq!(texts(&rotated.subscription.secrets), ["third"]);
    assert!(matches!(
        f.store.rotate_secret("env-2", "hook-a", &new, MINUTE).await,
        Err(StoreError::NotFound)
    ));
}

#[tokio::test]
async fn only_a_disabled_subscription_is_removed() {
    let f = store().await;
    f.store.create(subscription("hook-a")).await.unwrap();
    assert_eq!(
        f.store.remove_disabled(ENV, "hook-a").await.unwrap(),
        Changed::NotDisabled
    );
    f.store
        .set_status(ENV, "hook-a", Status::Disabled, None)
        .await
        .unwrap();

    assert_eq!(
        f.store.remove_disabled(ENV, "hook-a").await.unwrap(),
        Changed::Done
    );

    assert!(matches!(
        f.store.remove_disabled(ENV, "hook-a").await,
        Err(StoreError::NotFound)
    ));
}

#[tokio::test]
async fn a_credential_is_found_by_its_client_and_deleted_by_its_own_environment_only() {
    let f = store().await;
    let made = Credential {
        environment_id: ENV.into(),
        client_id: "client-1".into(),
        role: Role::Workbench,
        secret_hash: [7; 32],
    };
    f.store.create_credential(&made).await.unwrap();

    assert_eq!(
        f.store.credential("client-1").await.unwrap(),
        Some(made.clone())
    );
    assert!(matches!(
        f.store.create_credential(&made).await,
        Err(StoreError::Refused(_))
    ));
    assert!(matches!(
        f.store.delete_credential("env-2", "client-1").await,
        Err(StoreError::NotFound)
    ));
    f.store.delete_credential(ENV, "client-1").await.unwrap();
    assert_eq!(f.store.credential("client-1").await.unwrap(), None);
}

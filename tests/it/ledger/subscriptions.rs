//! Subscriptions as the database keeps them: read back whole, sealed, told to listeners.

use std::time::Duration;

use store::{Notice, StoreError};
use webhook::{Method, Status};

use super::fixture::*;

#[tokio::test]
async fn a_subscription_is_read_back_as_it_was_made_and_its_secrets_stand_nowhere() {
    let f = store().await;
    let mut listener = f.store.listen().await.unwrap();

    let made = f.store.create(subscription("hook-a")).await.unwrap();

    let notice = tokio::time::timeout(Duration::from_secs(5), listener.next())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(notice, Notice::SubscriptionsChanged(ENV.into()));
    let loaded = f.store.load_environment(ENV).await.unwrap();
    assert_eq!(loaded, [made.subscription]);
    let s = &loaded[0];
    assert_eq!(
        (
            s.method,
            s.status,
            s.secrets[0].as_str(),
            s.headers[0].1.as_str()
        ),
        (Method::Post, Status::Active, "hush-secret", "hush-header")
    );
    assert!(f.store.load_environment("env-2").await.unwrap().is_empty());
    assert!(f.store.get("env-2", "hook-a").await.unwrap().is_none());
    let text: String = f.sql.query_one("SELECT string_agg(s::text || encode(s.headers,'escape') || encode(k.secret,'escape'), '') FROM subscriptions s, subscription_secrets k", &[]).await.unwrap().get(0);
    assert!(!text.contains("hush"), "{text}");
    assert!(matches!(
        f.store.create(subscription("hook-a")).await,
        Err(StoreError::Refused(_))
    ));
}

#[tokio::test]
async fn a_moved_or_foreign_secret_fails_the_load() {
    let f = store().await;
    f.store.create(subscription("hook-a")).await.unwrap();
    assert!(matches!(
        store_at(&f.url, &[9]).load_environment(ENV).await,
        Err(StoreError::Unreadable { .. })
    ));
    assert_eq!(
        store_at(&f.url, &[9, 1])
            .load_environment(ENV)
            .await
            .unwrap()
            .len(),
        1
    );

    f.store.create(subscription("hook-b")).await.unwrap();
    f.sql.batch_execute("UPDATE subscriptions SET headers = (SELECT headers FROM subscriptions WHERE webhook_id = 'hook-a')").await.unwrap();

    assert!(matches!(
        f.store.load_environment(ENV).await,
        Err(StoreError::Unreadable { .. })
    ));
}

#[tokio::test]
async fn the_old_secret_signs_until_its_time() {
    let f = store().await;
    f.store.create(subscription("hook-a")).await.unwrap();
    f.sql.batch_execute("INSERT INTO subscription_secrets (environment_id, webhook_id, secret, signs_until) SELECT environment_id, webhook_id, secret, now() + '1 h' FROM subscription_secrets").await.unwrap();
    assert_eq!(
        f.store.load_environment(ENV).await.unwrap()[0]
            .secrets
            .len(),
        2
    );

    f.sql.batch_execute("UPDATE subscription_secrets SET signs_until = now() - interval '1 s' WHERE signs_until IS NOT NULL").await.unwrap();

    assert_eq!(
        f.store.load_environment(ENV).await.unwrap()[0]
            .secrets
            .len(),
        1
    );
}

#[tokio::test]
async fn changes_of_what_is_not_there_are_not_found() {
    let f = store().await;
    assert!(matches!(
        f.store.set_status(ENV, "nope", Status::Active, None).await,
        Err(StoreError::NotFound)
    ));
    assert!(matches!(
        f.store.remove(ENV, "nope").await,
        Err(StoreError::NotFound)
    ));
    let mut made = f.store.create(subscription("hook-a")).await.unwrap();
    made.subscription.id = "nope".into();
    made.subscription.url = "https://x".into();
    assert!(matches!(
        f.store.change(&made.subscription, made.updated, 1).await,
        Err(StoreError::NotFound)
    ));
}

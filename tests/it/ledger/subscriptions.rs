//! Subscriptions as the database keeps them: read back whole, sealed, told to listeners.

use std::time::Duration;

use store::{Notice, StoreError};
use webhook::{Method, Secret, Status};

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
    assert_eq!(loaded.len(), 1);
    assert!(loaded[0].unreadable.is_none());
    let s = &loaded[0].subscription;
    assert_eq!(*s, made.subscription);
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
async fn a_moved_or_foreign_secret_is_not_read_and_stops_nobody_else() {
    let f = store().await;
    f.store.create(subscription("hook-a")).await.unwrap();
    assert_eq!(
        readable(&store_at(&f.url, &[9])).await,
        [("hook-a".to_owned(), false)]
    );
    assert_eq!(
        readable(&store_at(&f.url, &[9, 1])).await,
        [("hook-a".to_owned(), true)]
    );

    f.store.create(subscription("hook-b")).await.unwrap();
    f.sql.batch_execute("UPDATE subscriptions SET headers = (SELECT headers FROM subscriptions WHERE webhook_id = 'hook-a')").await.unwrap();

    assert_eq!(
        readable(&f.store).await,
        [("hook-a".to_owned(), true), ("hook-b".to_owned(), false)]
    );
    assert!(matches!(
        f.store.list(ENV).await,
        Err(StoreError::Unreadable { .. })
    ));
}

/// Each subscription's id, and whether it can be sent to; nothing sealed of those that can't.
async fn readable(store: &store::Store) -> Vec<(String, bool)> {
    let loaded = store.load_environment(ENV).await.unwrap();
    let one = |loaded: store::LoadedSubscription| {
        let subscription = loaded.subscription;
        let readable = loaded.unreadable.is_none();
        assert_eq!(subscription.secrets.is_empty(), !readable);
        assert_eq!(subscription.headers.is_empty(), !readable);
        (subscription.id, readable)
    };
    loaded.into_iter().map(one).collect()
}

#[tokio::test]
async fn the_old_secret_signs_until_its_time() {
    let f = store().await;
    f.store.create(subscription("hook-a")).await.unwrap();
    f.sql.batch_execute("INSERT INTO subscription_secrets (environment_id, webhook_id, secret, signs_until) SELECT environment_id, webhook_id, secret, now() + '1 h' FROM subscription_secrets").await.unwrap();
    assert_eq!(
        f.store.load_environment(ENV).await.unwrap()[0]
            .subscription
            .secrets
            .len(),
        2
    );

    f.sql.batch_execute("UPDATE subscription_secrets SET signs_until = now() - interval '1 s' WHERE signs_until IS NOT NULL").await.unwrap();

    assert_eq!(
        f.store.load_environment(ENV).await.unwrap()[0]
            .subscription
            .secrets
            .len(),
        1
    );
}

#[tokio::test]
async fn at_most_five_secrets_sign_and_what_has_ended_is_removed() {
    const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);
    const KEPT: &str = "SELECT count(*) FROM subscription_secrets WHERE webhook_id = 'hook-a'";
    let f = store().await;
    f.store.create(subscription("hook-a")).await.unwrap();
    f.store.create(subscription("hook-b")).await.unwrap();
    let rotate = async |text: &str, overlap| {
        let secret = Secret::new(text.into());
        let rotated = f.store.rotate_secret(ENV, "hook-a", &secret, overlap);
        let secrets = rotated.await.unwrap().subscription.secrets;
        let texts = secrets.iter().map(Secret::as_str).collect::<Vec<_>>();
        texts.join(" ")
    };
    for text in ["1", "2", "3", "4"] {
        rotate(text, WEEK).await;
    }

    let sixth = rotate("5", WEEK).await;
    assert_eq!(sixth, "5 4 3 2 1");
    assert_eq!(number(&f.sql, KEPT).await, 5);
    f.sql
        .batch_execute(
            "UPDATE subscription_secrets SET signs_until = now() WHERE secret_id IN (SELECT secret_id \
                FROM subscription_secrets WHERE webhook_id = 'hook-a' ORDER BY secret_id LIMIT 2)",
        )
        .await
        .unwrap();
    let after_two_ended = rotate("6", WEEK).await;
    assert_eq!(after_two_ended, "6 5 4 3");
    assert_eq!(number(&f.sql, KEPT).await, 4);
    let at_once = rotate("7", Duration::ZERO).await;

    assert_eq!(at_once, "7");
    assert_eq!(number(&f.sql, KEPT).await, 1);
    let other = f.store.get(ENV, "hook-b").await.unwrap().unwrap();
    assert_eq!(other.subscription.secrets.len(), 1);
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

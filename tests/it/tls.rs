//! TLS towards RabbitMQ and Postgres, on servers of the test's own.

use std::time::Duration;

use store::{Keyring, PostgresSettings, Store};
use tests::postrider::Postrider;
use tests::publish::Broker;
use tests::receiver::Receiver;
use tests::servers::{Certificates, Postgres, PostgresOptions, RabbitMq, RabbitMqOptions};

use crate::world::{EXCHANGE, SOON, message, subscription};

#[tokio::test]
async fn a_worker_speaks_tls_to_both_and_refuses_servers_of_another_authority() {
    let (rabbitmq, postgres) = tokio::join!(
        RabbitMq::start(RabbitMqOptions {
            tls: true,
            ..RabbitMqOptions::default()
        }),
        Postgres::start(PostgresOptions {
            tls: true,
            ..PostgresOptions::default()
        })
    );
    let plain = postgres.create_database("tls").await;
    let keyring = Keyring::new(vec![[1; 32]]).unwrap();
    let settings = |sslmode: &str, ca_file: Option<std::path::PathBuf>| PostgresSettings {
        url: format!("{plain}?sslmode={sslmode}"),
        ca_file,
        pool_size: 2,
    };
    let ca_file = postgres.ca_file().to_owned();
    let store = Store::new(settings("verify-full", Some(ca_file.clone())), keyring).unwrap();
    store.migrate().await.unwrap();
    let receiver = Receiver::start();
    store
        .create(subscription(&receiver.url("/hook")))
        .await
        .unwrap();

    let other = tempfile::tempdir().unwrap();
    let other = Certificates::write(other.path())
        .ca_file
        .to_str()
        .unwrap()
        .to_owned();
    let (amqps_url, amqp_ca) = (
        rabbitmq.amqps_url(),
        rabbitmq.ca_file().to_str().unwrap().to_owned(),
    );
    let postgres_url = format!("{plain}?sslmode=verify-full");
    let environment = |amqp_ca: &str, postgres_ca: &str| {
        [
            ("POSTRIDER__AMQP__URL", amqps_url.clone()),
            ("POSTRIDER__AMQP__CA_FILE", amqp_ca.to_owned()),
            ("POSTRIDER__POSTGRES__URL", postgres_url.clone()),
            ("POSTRIDER__POSTGRES__CA_FILE", postgres_ca.to_owned()),
            (
                "POSTRIDER__SECRETS__KEYS",
                r#"["AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="]"#.to_owned(),
            ),
            ("POSTRIDER__EGRESS__ALLOW", r#"["127.0.0.0/8"]"#.to_owned()),
        ]
    };
    let own = ca_file.to_str().unwrap();
    for (amqp_ca, postgres_ca, part) in [
        (other.as_str(), own, "RabbitMQ"),
        (amqp_ca.as_str(), &other, "Postgres"),
    ] {
        let environment = environment(amqp_ca, postgres_ca);
        let environment: Vec<_> = environment
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        let checked = Postrider::run(&["check", "--throw-away"], &environment).await;
        assert_eq!(checked.status.code(), Some(1), "{part}: {}", checked.stdout);
        assert!(
            checked.stdout.contains(&format!("FAILED  {part}")),
            "{}",
            checked.stdout
        );
    }

    let environment = environment(&amqp_ca, own);
    let environment: Vec<_> = environment
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    let mut worker = Postrider::start(&["worker"], &environment);
    worker.wait_ready(SOON).await;
    let broker = Broker::connect(&rabbitmq.amqp_url()).await;
    broker
        .publish(
            EXCHANGE,
            "card-published",
            &message("card-published", "ev-1"),
        )
        .await;
    receiver.wait_for(1, "/hook", SOON).await;
    let encrypted: i64 = tests::servers::connect(&plain)
        .await
        .query_one("SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE ssl AND application_name = 'postrider'", &[])
        .await
        .unwrap()
        .get(0);
    assert!(
        encrypted >= 2,
        "{encrypted} sessions of the worker are encrypted"
    );

    // The store itself, by each way of verifying.
    for (sslmode, ca_file, works) in [
        ("disable", None, true),
        ("prefer", None, true),
        ("require", None, true),
        ("verify-ca", Some(ca_file.clone()), true),
        ("verify-full", Some(other.into()), false),
    ] {
        let store = Store::new(settings(sslmode, ca_file), Keyring::without_keys()).unwrap();
        let answered = tokio::time::timeout(Duration::from_secs(20), store.schema_state())
            .await
            .unwrap();
        assert_eq!(answered.is_ok(), works, "{sslmode}: {answered:?}");
    }
}

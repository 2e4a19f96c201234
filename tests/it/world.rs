//! The whole product on a stage of its own: real servers, the real binary as a worker, a receiver, and subscriptions
//! written through `store`, as they are until the API lands.

use std::time::Duration;

use store::{DeliveryView, Keyring, NewSubscription, PostgresSettings, Store};
use tests::postrider::Postrider;
use tests::publish::{Broker, Message};
use tests::receiver::{Received, Receiver};
use tests::servers::{Session, connect};
use tests::stage::Stage;
use tests::wait::wait_until;
use tokio::time::interval;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use webhook::{DeliveryStatus, Method, RequestId, Secret, SigningKey};

/// The tenant of most tests.
pub(crate) const ENV: &str = "env-1";
/// Limit on whatever should happen at once; wide, since machines are slow at times.
pub(crate) const SOON: Duration = Duration::from_secs(20);
/// The secret of every subscription here, the seed's.
pub(crate) const SECRET: &str = "0217309e-3c74-41b5-82e9-bd60e5db9bdb";
pub(crate) const EXCHANGE: &str = "analytics.events";
pub(crate) const EVENTS: &str = "postrider.events";
pub(crate) const DEAD_EVENTS: &str = "postrider.events.dead";
pub(crate) const DEAD_DELIVERIES: &str = "postrider.deliveries.dead";
/// What an API needs to be started.
pub(crate) const TOKEN_KEYS: (&str, &str) = (
    "POSTRIDER__AUTH__TOKEN_KEYS",
    r#"["AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI="]"#,
);

/// Retries after 100, 200, 400 ms, four attempts; loopback allowed.
const SETTINGS: [(&str, &str); 9] = [
    (
        "POSTRIDER__SECRETS__KEYS",
        r#"["AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="]"#,
    ),
    ("POSTRIDER__EGRESS__ALLOW", r#"["127.0.0.0/8","::1/128"]"#),
    ("POSTRIDER__EGRESS__REQUIRE_HTTPS", "false"),
    ("POSTRIDER__RETRY__DELAY_BASE", "100ms"),
    ("POSTRIDER__RETRY__FACTOR", "2"),
    ("POSTRIDER__RETRY__DELAY_MAX", "2s"),
    ("POSTRIDER__RETRY__JITTER", "0"),
    ("POSTRIDER__RETRY__ATTEMPTS_MAX", "4"),
    ("POSTRIDER__LOG__LEVEL", "info"),
];

/// Everything of one test. The worker isn't started: [`World::worker`] does.
pub(crate) struct World {
    pub(crate) store: Store,
    pub(crate) sql: Session,
    pub(crate) broker: Broker,
    pub(crate) receiver: Receiver,
    pub(crate) stage: Stage,
}

impl World {
    /// A migrated database, a broker with its topology declared, a receiver.
    pub(crate) async fn new(test: &str) -> Self {
        Self::with(test, Receiver::start()).await
    }

    /// The same for tens of thousands of requests: the receiver counts only.
    pub(crate) async fn counting(test: &str) -> Self {
        Self::with(test, Receiver::start_counting()).await
    }

    /// The same with a receiver of one's own.
    pub(crate) async fn with(test: &str, receiver: Receiver) -> Self {
        let stage = Stage::new(test).await;
        let store = store_at(&stage.postgres_url);
        store.migrate().await.unwrap();
        let sql = connect(&stage.postgres_url).await;
        let broker = stage.broker().await;
        declare(&broker, &stage.amqp_url).await;
        Self {
            store,
            sql,
            broker,
            receiver,
            stage,
        }
    }

    /// Starts a worker and waits until it is ready.
    pub(crate) async fn worker(&self) -> Postrider {
        self.worker_with(&[]).await
    }

    /// The same with settings that go before those of every test.
    pub(crate) async fn worker_with(&self, settings: &[(&str, &str)]) -> Postrider {
        let mut worker = Postrider::start(&["worker"], &self.environment(settings));
        worker.wait_ready(SOON).await;
        worker
    }

    /// The environment of a command on this stage.
    pub(crate) fn environment<'a>(
        &'a self,
        settings: &[(&'a str, &'a str)],
    ) -> Vec<(&'a str, &'a str)> {
        let servers = [
            ("POSTRIDER__AMQP__URL", self.stage.amqp_url.as_str()),
            ("POSTRIDER__POSTGRES__URL", self.stage.postgres_url.as_str()),
        ];
        servers
            .iter()
            .chain(&SETTINGS)
            .chain(settings)
            .copied()
            .collect()
    }

    /// A subscription to `card-published` that goes to that path of the receiver; returns its id.
    pub(crate) async fn subscribe(&self, path: &str) -> String {
        self.subscribe_with(path, |_| {}).await
    }

    /// The same, changed before it is made.
    pub(crate) async fn subscribe_with(
        &self,
        path: &str,
        change: impl FnOnce(&mut NewSubscription),
    ) -> String {
        let mut new = subscription(&self.receiver.url(path));
        change(&mut new);
        self.store.create(new).await.unwrap().subscription.id
    }

    /// Publishes an event of that type and id.
    pub(crate) async fn publish(&self, event_type: &str, id: &str) {
        self.publish_raw(&message(event_type, id)).await;
    }

    /// Publishes any bytes.
    pub(crate) async fn publish_raw(&self, body: &[u8]) {
        self.broker.publish(EXCHANGE, "card-published", body).await;
    }

    /// Waits until a delivery stands so in the ledger.
    pub(crate) async fn wait_status(
        &self,
        request_id: RequestId,
        status: DeliveryStatus,
    ) -> DeliveryView {
        let what = format!("{request_id} as {}", status.as_str());
        wait_until(SOON, &what, async || {
            let view = self.store.delivery(ENV, request_id).await.unwrap()?;
            (view.status == status).then_some(view)
        })
        .await
    }

    /// Waits until a queue has messages that can be taken, and takes the first.
    pub(crate) async fn take(&self, queue: &str) -> Message {
        wait_until(SOON, &format!("a message in {queue}"), async || {
            self.broker.take(queue).await
        })
        .await
    }

    /// Stops a worker gracefully and checks that nothing was given back to the broker: all is acked.
    pub(crate) async fn stop_with_all_acked(&self, worker: &mut Postrider) {
        worker.terminate();
        let status = worker.wait(SOON).await;
        assert!(status.success(), "the worker ended with {status}");
        assert_eq!(
            self.broker.depth(EVENTS).await,
            0,
            "messages that were given back"
        );
    }

    /// A number out of the database.
    pub(crate) async fn number(&self, query: &str) -> i64 {
        self.sql.query_one(query, &[]).await.unwrap().get(0)
    }
}

/// Publishes `ev-0`, `ev-1` and so on, so many a second, until it is enough; returns how many.
pub(crate) async fn steady_load(
    publisher: &Broker,
    per_second: u32,
    enough: &CancellationToken,
) -> usize {
    let mut ticks = interval(Duration::from_secs(1) / per_second);
    let mut sent = 0;
    while !enough.is_cancelled() {
        ticks.tick().await;
        let body = message("card-published", &format!("ev-{sent}"));
        publisher.publish(EXCHANGE, "card-published", &body).await;
        sent += 1;
    }
    sent
}

/// Declares what the product consumes and publishes to.
pub(crate) async fn declare(broker: &Broker, url: &str) {
    let settings = worker::AmqpSettings {
        url: url.into(),
        ca_file: None,
        exchange: EXCHANGE.into(),
        queues: vec![EVENTS.into()],
        declare: true,
        prefetch: 1,
        message_bytes_max: 1 << 20,
    };
    let channel = broker.channel().await;
    worker::topology::declare(&channel, &settings)
        .await
        .unwrap();
}

/// The environment of a worker between those servers, with the settings of every test.
pub(crate) fn test_settings<'a>(
    amqp_url: &'a str,
    postgres_url: &'a str,
) -> Vec<(&'a str, &'a str)> {
    let servers = [
        ("POSTRIDER__AMQP__URL", amqp_url),
        ("POSTRIDER__POSTGRES__URL", postgres_url),
    ];
    servers.into_iter().chain(SETTINGS).collect()
}

/// A store with the key of every test's worker.
pub(crate) fn store_at(url: &str) -> Store {
    let keyring = Keyring::new(vec![[1; 32]]).unwrap();
    Store::new(
        PostgresSettings {
            url: url.into(),
            ca_file: None,
            pool_size: 4,
        },
        keyring,
    )
    .unwrap()
}

/// A subscription to `card-published` in [`ENV`].
pub(crate) fn subscription(url: &str) -> NewSubscription {
    NewSubscription {
        environment_id: ENV.into(),
        id: webhook::new_webhook_id(*Uuid::new_v4().as_bytes()),
        name: None,
        types: vec!["card-published".into()],
        card_template_id: None,
        action_flow_config_id: None,
        url: url.into(),
        method: Method::Post,
        headers: vec![],
        batch: None,
        rate_limit: None,
        secret: Secret::new(SECRET.into()),
    }
}

/// A message's body, of [`ENV`].
pub(crate) fn message(event_type: &str, id: &str) -> Vec<u8> {
    message_of(&data(event_type, id))
}

/// A message's body around an event's bytes.
pub(crate) fn message_of(data: &str) -> Vec<u8> {
    format!(r#"{{"environmentId":"{ENV}","data":{data}}}"#).into_bytes()
}

/// An event's bytes.
pub(crate) fn data(event_type: &str, id: &str) -> String {
    format!(
        r#"{{"id":"{id}","analyticsEvent":"{event_type}","timestamp":"2026-03-01T12:00:00.000Z"}}"#
    )
}

/// The delivery's id.
pub(crate) fn request_id(webhook_id: &str, event_id: &str) -> RequestId {
    RequestId::of_event(webhook_id, "card-published", event_id)
}

/// Whether a request's signature is right, by our own verifier; the official ones have a test of their own.
pub(crate) fn is_signed(request: &Received) -> bool {
    is_signed_with(&SigningKey::from(&Secret::new(SECRET.into())), request)
}

/// The same with a key of one's own.
pub(crate) fn is_signed_with(key: &SigningKey, request: &Received) -> bool {
    let header = |name| request.header(name).unwrap_or("");
    let now = header("webhook-timestamp").parse().unwrap_or(0);
    webhook::verify(
        std::slice::from_ref(key),
        header("webhook-id"),
        header("webhook-timestamp"),
        header("webhook-signature"),
        &request.body,
        now,
        300,
    )
    .is_ok()
}

//! The servers, the ledgers and the receiver that all rounds share.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::{StreamExt as _, stream};
use hyper::Method as HttpMethod;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use store::{Keyring, NewSubscription, PostgresSettings, Store};
use tests::http_call::call;
use tests::postrider::Postrider;
use tests::publish::Broker;
use tests::servers::{Postgres, PostgresOptions, RabbitMq, RabbitMqOptions, Session, connect};
use tests::wait::wait_until;
use uuid::Uuid;
use webhook::{Method, Secret};

use crate::case::{Case, Ledger, SUBSCRIPTIONS_EACH};
use crate::child::Child;
use crate::event::message;
use crate::receiver::Seen;

pub(crate) const EXCHANGE: &str = "analytics.events";
pub(crate) const QUEUE: &str = "postrider.events";
pub(crate) const EVENT_TYPE: &str = "card-published";
const SECRET: &str = "0217309e-3c74-41b5-82e9-bd60e5db9bdb";
const START_LIMIT: Duration = Duration::from_secs(60);
/// Subscriptions are written by so many connections at once.
const WRITERS: usize = 8;
/// Endpoints that the waiting million is spread over.
const FAILING: u32 = 1000;
/// Rows that are written in one transaction.
const PORTION: u64 = 100_000;

/// How large the large ledgers are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    /// Settled deliveries of [`Ledger::History`].
    pub(crate) settled: u64,
    /// Waiting ones of [`Ledger::Backlog`].
    pub(crate) waiting: u64,
    /// Environments of [`Ledger::Many`] with [`SUBSCRIPTIONS_EACH`] each.
    pub(crate) environments: u32,
}

/// Everything but the senders.
pub(crate) struct Scene {
    pub(crate) rabbitmq: RabbitMq,
    pub(crate) postgres: Postgres,
    pub(crate) broker: Broker,
    receiver: Child,
    pub(crate) sizes: Sizes,
    ledgers: HashMap<Ledger, String>,
}

impl Scene {
    /// Starts servers with fsync, and a receiver.
    pub(crate) async fn set_up(sizes: Sizes) -> anyhow::Result<Self> {
        let settings = [
            ("shared_buffers", "1GB"),
            ("max_wal_size", "8GB"),
            ("maintenance_work_mem", "512MB"),
        ];
        let postgres = PostgresOptions {
            fsync: true,
            settings: settings
                .map(|(name, value)| (name, value.to_owned()))
                .into(),
            ..PostgresOptions::default()
        };
        let (rabbitmq, postgres) = tokio::join!(
            RabbitMq::start(RabbitMqOptions::default()),
            Postgres::start(postgres)
        );
        let broker = Broker::connect(&rabbitmq.amqp_url()).await;
        let receiver = Child::start("the receiver", &["receiver"]).await?;
        let mut scene = Self {
            rabbitmq,
            postgres,
            broker,
            receiver,
            sizes,
            ledgers: HashMap::new(),
        };
        let ledger = scene.ledger(Ledger::Empty).await?;
        // It declares exchanges and queues.
        let mut worker = scene.start_worker(&ledger).await;
        worker.terminate();
        worker.wait(START_LIMIT).await;
        Ok(scene)
    }

    /// The URL of a path of the receiver.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.receiver.word)
    }

    /// What came to the receiver since [`reset`](Self::reset).
    pub(crate) async fn seen(&self) -> anyhow::Result<Seen> {
        let answer = call(HttpMethod::GET, &self.url("/bench/seen")).await?;
        Ok(serde_json::from_slice(&answer.body)?)
    }

    /// Waits until the receiver has accepted so many.
    pub(crate) async fn wait_accepted(&self, count: u64, limit: Duration) -> anyhow::Result<()> {
        let what = format!("{count} accepted");
        wait_until(limit, &what, async || match self.seen().await {
            Ok(seen) => (seen.accepted >= count).then_some(Ok(())),
            Err(error) => Some(Err(error)),
        })
        .await
    }

    /// How long each of those took, microseconds.
    pub(crate) async fn latencies_us(&self) -> anyhow::Result<Vec<u32>> {
        let answer = call(HttpMethod::GET, &self.url("/bench/latencies")).await?;
        Ok(serde_json::from_slice(&answer.body)?)
    }

    /// Empties the queue and, where a case wants that, the ledger; the receiver forgets.
    pub(crate) async fn reset(&self, case: &Case, ledger: &str) -> anyhow::Result<()> {
        self.broker.purge(QUEUE).await;
        let session = connect(ledger).await;
        if case.ledger == Ledger::Empty {
            session
                .client
                .batch_execute(
                    "TRUNCATE deliveries, attempts, payloads, deliveries_waiting, attempts_waiting, payloads_waiting, \
                     subscription_due, outbox",
                )
                .await?;
        }
        if case.ledger == Ledger::Backlog {
            // What came due while others were measured isn't this case's.
            session
                .client
                .batch_execute(
                    "UPDATE deliveries_waiting SET due = now() + random() * interval '12 hours' \
                         WHERE due < now() + interval '1 minute'; \
                     UPDATE subscription_due h SET next_due = (SELECT min(due) FROM deliveries_waiting w \
                         WHERE w.environment_id = h.environment_id AND w.webhook_id = h.webhook_id)",
                )
                .await?;
        }
        session.client.batch_execute("CHECKPOINT").await?;
        self.forget().await
    }

    /// The receiver begins to count anew.
    pub(crate) async fn forget(&self) -> anyhow::Result<()> {
        call(HttpMethod::GET, &self.url("/bench/reset")).await?;
        Ok(())
    }

    /// Publishes all events of a case.
    pub(crate) async fn fill_queue(&self, case: &Case, events: u64) {
        let mut random = StdRng::seed_from_u64(1);
        let messages = (0..events).map(|n| {
            let addressee = case.load.addressee(n, self.sizes.environments, &mut random);
            (EVENT_TYPE, message(&addressee, n, case.bytes))
        });
        self.broker.publish_all(EXCHANGE, messages).await;
    }

    /// A worker that is ready, with the settings as they are delivered but for what a receiver on this machine needs.
    pub(crate) async fn start_worker(&self, ledger: &str) -> Postrider {
        let amqp_url = self.rabbitmq.amqp_url();
        let mut worker = Postrider::start(
            &["worker"],
            &[
                ("POSTRIDER__AMQP__URL", &amqp_url),
                ("POSTRIDER__POSTGRES__URL", ledger),
                (
                    "POSTRIDER__SECRETS__KEYS",
                    r#"["AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="]"#,
                ),
                ("POSTRIDER__EGRESS__ALLOW", r#"["127.0.0.0/8"]"#),
                ("POSTRIDER__EGRESS__REQUIRE_HTTPS", "false"),
            ],
        );
        worker.wait_ready(START_LIMIT).await;
        worker
    }

    /// The URL of a ledger, which is made and filled when it is asked for first.
    pub(crate) async fn ledger(&mut self, ledger: Ledger) -> anyhow::Result<String> {
        if let Some(url) = self.ledgers.get(&ledger) {
            return Ok(url.clone());
        }
        let name = format!("{ledger:?}").to_lowercase();
        let url = self.postgres.create_database(&name).await;
        let store = store_at(&url)?;
        store.migrate().await?;
        let sql = connect(&url).await;
        eprintln!("bench: making the ledger {name}");
        self.durable(false).await;
        let mut subscriptions = vec![self.subscription("one", "/ok/one", None)];
        for card in 0..10 {
            subscriptions.push(self.subscription("ten", &format!("/ok/ten-{card}"), None));
            let road = if card < 2 { "fail" } else { "ok" };
            subscriptions.push(self.subscription(
                "fifth",
                &format!("/{road}/fifth-{card}"),
                Some(card.to_string()),
            ));
        }
        subscribe(&store, subscriptions.into_iter()).await?;
        match ledger {
            Ledger::Empty => {}
            Ledger::Backlog => {
                let failing =
                    (0..FAILING).map(|n| self.subscription("backlog", &format!("/fail/{n}"), None));
                subscribe(&store, failing).await?;
                fill_backlog(&sql, self.sizes.waiting).await?;
            }
            Ledger::History => fill_history(&sql, self.sizes.settled).await?,
            Ledger::Many => {
                let many = (0..self.sizes.environments).flat_map(|environment| {
                    (0..SUBSCRIPTIONS_EACH).map(move |card| (environment, card))
                });
                let many = many.map(|(environment, card)| {
                    let environment_id = format!("many-{environment}");
                    self.subscription(&environment_id, "/ok/many", Some(card.to_string()))
                });
                subscribe(&store, many).await?;
            }
        }
        sql.client.batch_execute("VACUUM ANALYZE").await?;
        self.durable(true).await;
        sql.client.batch_execute("CHECKPOINT").await?;
        self.ledgers.insert(ledger, url.clone());
        Ok(url)
    }

    /// Off only while a ledger is made.
    async fn durable(&self, on: bool) {
        let databases = self.postgres.databases();
        let value = if on { "on" } else { "off" };
        databases
            .execute(&format!("ALTER SYSTEM SET fsync = {value}"))
            .await;
        databases.execute("SELECT pg_reload_conf()").await;
    }

    fn subscription(
        &self,
        environment_id: &str,
        path: &str,
        card_template_id: Option<String>,
    ) -> NewSubscription {
        NewSubscription {
            environment_id: environment_id.to_owned(),
            id: webhook::new_webhook_id(*Uuid::new_v4().as_bytes()),
            name: None,
            types: vec![EVENT_TYPE.to_owned()],
            card_template_id,
            action_flow_config_id: None,
            url: self.url(path),
            method: Method::Post,
            headers: Vec::new(),
            batch: None,
            rate_limit: None,
            secret: Secret::new(SECRET.to_owned()),
        }
    }
}

async fn subscribe(
    store: &Store,
    subscriptions: impl Iterator<Item = NewSubscription>,
) -> anyhow::Result<()> {
    let mut written =
        stream::iter(subscriptions.map(|new| store.create(new))).buffer_unordered(WRITERS);
    let mut count = 0u64;
    while let Some(result) = written.next().await {
        result.context("a subscription can't be written")?;
        count += 1;
        if count.is_multiple_of(100_000) {
            eprintln!("bench: {count} subscriptions");
        }
    }
    Ok(())
}

/// Deliveries that failed three times and are due within the next twelve hours, with small payloads.
async fn fill_backlog(sql: &Session, rows: u64) -> anyhow::Result<()> {
    for done in (0..rows).step_by(PORTION as usize) {
        let portion = PORTION.min(rows - done);
        sql.client
            .batch_execute(&format!(
                "WITH hooks AS (SELECT array_agg(webhook_id) AS ids FROM subscriptions WHERE environment_id = 'backlog'), \
                 made AS (INSERT INTO deliveries_waiting (environment_id, request_id, webhook_id, event_id, event_type, \
                        status, attempts, claims, created, due, payload_id, payload_bytes) \
                    SELECT 'backlog', gen_random_uuid(), ids[1 + n % cardinality(ids)], 'event-' || n, '{EVENT_TYPE}', \
                        'scheduled', 3, 0, now(), now() + random() * interval '12 hours', gen_random_uuid(), 200 \
                    FROM hooks, generate_series(1, {portion}) AS n RETURNING environment_id, payload_id, webhook_id, due), \
                 kept AS (INSERT INTO payloads_waiting SELECT environment_id, payload_id, \
                    convert_to('{{\"padding\":\"' || repeat('x', 186) || '\"}}', 'UTF8') FROM made) \
                 INSERT INTO subscription_due (environment_id, webhook_id, next_due) \
                    SELECT environment_id, webhook_id, min(due) FROM made GROUP BY 1, 2 \
                    ON CONFLICT (environment_id, webhook_id) DO UPDATE \
                    SET next_due = LEAST(subscription_due.next_due, EXCLUDED.next_due)"
            ))
            .await?;
    }
    Ok(())
}

/// Settled deliveries of a thousand environments, spread evenly over the last thirty days, without payloads.
async fn fill_history(sql: &Session, rows: u64) -> anyhow::Result<()> {
    const DAYS: u64 = 30;
    for ago in 1..=DAYS {
        eprintln!("bench: history, day {ago} of {DAYS}");
        sql.client
            .batch_execute(&format!(
                "DO $$ DECLARE d date := (now() AT TIME ZONE 'UTC')::date - {ago}; BEGIN \
                    EXECUTE format('CREATE TABLE %s PARTITION OF deliveries FOR VALUES FROM (%L) TO (%L)', \
                        'deliveries_' || to_char(d, 'YYYYMMDD'), d, d + 1); \
                 END $$; \
                 INSERT INTO deliveries (environment_id, request_id, webhook_id, event_id, event_type, status, reason, \
                        attempts, created, settled, payload_id, settled_on) \
                    SELECT 'env-' || n % 1000, gen_random_uuid(), 'hook' || n % 1000, 'event-' || n, '{EVENT_TYPE}', \
                        'delivered', NULL, 1, at, at, gen_random_uuid(), (now() AT TIME ZONE 'UTC')::date - {ago} \
                    FROM generate_series(1, {}) AS n, LATERAL (SELECT now() - interval '{ago} days' AS at) AS t",
                rows / DAYS
            ))
            .await?;
    }
    Ok(())
}

fn store_at(url: &str) -> anyhow::Result<Store> {
    let settings = PostgresSettings {
        url: url.to_owned(),
        ca_file: None,
        pool_size: WRITERS,
    };
    Ok(Store::new(settings, Keyring::new(vec![[1; 32]])?)?)
}

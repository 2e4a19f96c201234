//! The servers, the proxies in front of them and the two workers, and how each fault is done to them and mended.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use hyper::Method;
use serde_json::{Value, json};
use tests::http_call::call_with;
use tests::postrider::Postrider;
use tests::proxy::Proxy;
use tests::receiver::Receiver;
use tests::servers::{Postgres, RabbitMq, Servers, connect, free_port};
use tokio::time::sleep;

use crate::crew::Crew;
use crate::load::ENV;
use crate::plan::Fault;
use crate::witness::ROADS;

const DATABASE: &str = "chaos";
/// The role of the workers: no superuser, so that its connections can be limited.
const ROLE: &str = "postrider";
const TOKEN_KEYS: &str = r#"["AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI="]"#;
const START_LIMIT: Duration = Duration::from_secs(60);
/// RabbitMQ 3.10 brings a quorum queue that was declared within seconds of a kill back without a leader, for ever.
const DECLARED_BEFORE_KILL: Duration = Duration::from_secs(5);
/// What the node blocks publishers above, and what it has by the kit's default.
const ALARMING_MEBIBYTES: u32 = 1;
const USUAL_MEBIBYTES: u32 = 1024;

/// Everything that is broken and mended.
pub(crate) struct Scene {
    pub(crate) rabbitmq: RabbitMq,
    pub(crate) postgres: Postgres,
    to_rabbitmq: Proxy,
    to_postgres: Proxy,
    pub(crate) crew: Crew,
    /// The subscriptions' ids, in the order of [`ROADS`].
    pub(crate) webhook_ids: Vec<String>,
    declared: Instant,
}

impl Scene {
    /// Starts everything, subscribes the receiver by the API, and waits until both workers are ready.
    pub(crate) async fn set_up(
        receiver: &Receiver,
        logs: std::path::PathBuf,
    ) -> anyhow::Result<Self> {
        let (rabbitmq, postgres) = Servers::start_private().await;
        let admin = postgres.databases();
        admin.execute(&format!("CREATE ROLE {ROLE} LOGIN")).await;
        admin
            .execute(&format!("CREATE DATABASE {DATABASE} OWNER {ROLE}"))
            .await;
        let to_rabbitmq = Proxy::start(rabbitmq.amqp_address()).await;
        let to_postgres = Proxy::start(postgres.address()).await;
        let database = to_postgres
            .instead_in(&postgres.url(DATABASE))
            .replace("postgres@", &format!("{ROLE}@"));
        let settings = settings(&to_rabbitmq.instead_in(&rabbitmq.amqp_url()), &database);

        let migrated = Postrider::run(&["migrate"], &borrowed(&settings)).await;
        ensure!(migrated.status.success(), "{}", migrated.stderr);
        let webhook_ids = subscribe(receiver, &settings).await?;
        let mut crew = Crew::start(settings, logs);
        crew.wait_ready(START_LIMIT).await?;
        Ok(Self {
            rabbitmq,
            postgres,
            to_rabbitmq,
            to_postgres,
            crew,
            webhook_ids,
            declared: Instant::now(),
        })
    }

    /// The database's URL, past the proxy and as its superuser.
    pub(crate) fn database(&self) -> String {
        self.postgres.url(DATABASE)
    }

    /// Does it, lets it last, and mends it.
    pub(crate) async fn suffer(&mut self, fault: Fault) -> anyhow::Result<()> {
        match fault {
            Fault::KillWorker(worker) => {
                self.crew.kill(worker);
                self.crew.start_again(worker);
            }
            Fault::KillWorkers => {
                self.crew.kill(0);
                self.crew.kill(1);
                self.crew.start_again(0);
                self.crew.start_again(1);
            }
            Fault::RestartWorker(worker) => self.crew.restart(worker).await?,
            Fault::FreezeWorker(worker, lasts) => {
                self.crew.freeze(worker, true);
                sleep(lasts).await;
                self.crew.freeze(worker, false);
            }
            Fault::KillBroker => {
                self.wait_declared().await;
                self.rabbitmq.kill();
                self.rabbitmq.start_again().await;
            }
            Fault::KillBrokerAndWorker(worker) => {
                self.wait_declared().await;
                self.rabbitmq.kill();
                self.crew.kill(worker);
                self.crew.start_again(worker);
                self.rabbitmq.start_again().await;
            }
            Fault::RestartBroker => {
                self.wait_declared().await;
                self.rabbitmq.stop().await;
                self.rabbitmq.start_again().await;
            }
            Fault::FreezeBroker(lasts) => {
                self.rabbitmq.freeze();
                sleep(lasts).await;
                self.rabbitmq.thaw();
            }
            Fault::CutBroker => self.to_rabbitmq.cut().await,
            Fault::SilenceBroker(lasts) => silence(&self.to_rabbitmq, lasts).await,
            Fault::BlockPublishers(lasts) => {
                self.rabbitmq.set_memory_mebibytes(ALARMING_MEBIBYTES);
                sleep(lasts).await;
                self.rabbitmq.set_memory_mebibytes(USUAL_MEBIBYTES);
            }
            Fault::KillPostgres => {
                self.postgres.kill();
                self.postgres.start_again().await;
            }
            Fault::KillPostgresAndWorker(worker) => {
                self.postgres.kill();
                self.crew.kill(worker);
                self.crew.start_again(worker);
                self.postgres.start_again().await;
            }
            Fault::RestartPostgres => {
                self.postgres.stop().await;
                self.postgres.start_again().await;
            }
            Fault::FreezePostgres(lasts) => {
                self.postgres.freeze();
                sleep(lasts).await;
                self.postgres.thaw();
            }
            Fault::CutPostgres => self.to_postgres.cut().await,
            Fault::SilencePostgres(lasts) => silence(&self.to_postgres, lasts).await,
            Fault::SlowPostgres(lasts) => {
                self.to_postgres.delay(Duration::from_millis(100));
                sleep(lasts).await;
                self.to_postgres.delay(Duration::ZERO);
            }
            Fault::ReadOnlyPostgres(lasts) => {
                self.alter_system("SET default_transaction_read_only = on")
                    .await;
                sleep(lasts).await;
                self.alter_system("RESET default_transaction_read_only")
                    .await;
            }
            Fault::CrowdPostgres(lasts) => {
                self.limit_connections(1).await;
                sleep(lasts).await;
                self.limit_connections(-1).await;
            }
            Fault::LockLedger(lasts) => {
                let locker = connect(&self.database()).await;
                locker
                    .batch_execute("BEGIN; LOCK TABLE deliveries IN EXCLUSIVE MODE")
                    .await?;
                sleep(lasts).await;
                locker.batch_execute("ROLLBACK").await?;
            }
        }
        Ok(())
    }

    async fn wait_declared(&self) {
        sleep(DECLARED_BEFORE_KILL.saturating_sub(self.declared.elapsed())).await;
    }

    async fn alter_system(&self, change: &str) {
        let databases = self.postgres.databases();
        databases.execute(&format!("ALTER SYSTEM {change}")).await;
        databases.execute("SELECT pg_reload_conf()").await;
    }

    /// From now on the workers have so many connections at most (-1: any number); those that they have are ended.
    async fn limit_connections(&self, count: i32) {
        let databases = self.postgres.databases();
        databases
            .execute(&format!("ALTER ROLE {ROLE} CONNECTION LIMIT {count}"))
            .await;
        if count >= 0 {
            databases
                .execute(&format!(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{ROLE}'"
                ))
                .await;
        }
    }
}

async fn silence(proxy: &Proxy, lasts: Duration) {
    proxy.freeze(true);
    sleep(lasts).await;
    proxy.freeze(false);
}

/// The workers' settings: a lease of 25 s, short retries that never end, one probe a second of a circuit that is open;
/// attempts aren't logged, so that what is logged is what the faults cause.
fn settings(amqp_url: &str, postgres_url: &str) -> Vec<(&'static str, String)> {
    [
        ("POSTRIDER__AMQP__URL", amqp_url),
        ("POSTRIDER__POSTGRES__URL", postgres_url),
        (
            "POSTRIDER__SECRETS__KEYS",
            r#"["AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="]"#,
        ),
        ("POSTRIDER__EGRESS__ALLOW", r#"["127.0.0.0/8"]"#),
        ("POSTRIDER__EGRESS__REQUIRE_HTTPS", "false"),
        ("POSTRIDER__DELIVERY__TIMEOUT", "5s"),
        ("POSTRIDER__RETRY__DELAY_BASE", "200ms"),
        ("POSTRIDER__RETRY__FACTOR", "2"),
        ("POSTRIDER__RETRY__DELAY_MAX", "5s"),
        ("POSTRIDER__RETRY__ATTEMPTS_MAX", "1000"),
        ("POSTRIDER__CIRCUIT__PROBE_INTERVAL", "1s"),
        ("POSTRIDER__LOG__LEVEL", "info,postrider::attempt=off"),
    ]
    .map(|(name, value)| (name, value.to_owned()))
    .into()
}

pub(crate) fn borrowed<'a>(settings: &'a [(&'static str, String)]) -> Vec<(&'a str, &'a str)> {
    settings
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect()
}

/// One subscription a road, by the API, as a tenant makes them.
async fn subscribe(
    receiver: &Receiver,
    settings: &[(&'static str, String)],
) -> anyhow::Result<Vec<String>> {
    let listen = format!("127.0.0.1:{}", free_port());
    let mut environment = borrowed(settings);
    environment.push(("POSTRIDER__API__LISTEN", &listen));
    environment.push(("POSTRIDER__AUTH__TOKEN_KEYS", TOKEN_KEYS));
    let mut api = Postrider::start(&["api"], &environment);
    api.wait_ready(START_LIMIT).await;
    let create = [
        "credentials",
        "create",
        "--environment",
        ENV,
        "--role",
        "workbench",
    ];
    let made = Postrider::run(&create, &environment).await;
    ensure!(made.status.success(), "{}", made.stderr);
    let credential: Value = serde_json::from_str(&made.stdout)?;
    let word = |name: &str| credential[name].as_str().unwrap_or_default().to_owned();
    let form = format!(
        "client_id={}&client_secret={}",
        word("clientId"),
        word("clientSecret")
    );
    let kind = ("content-type", "application/x-www-form-urlencoded");
    let url = format!("http://{listen}/oauth2/token?grant_type=client_credentials");
    let granted = call_with(Method::POST, &url, &[kind], form).await?;
    let token = granted.json()["access_token"]
        .as_str()
        .context("no token")?
        .to_owned();

    let mut ids = Vec::with_capacity(ROADS.len());
    for (path, types) in ROADS {
        let bearer = format!("Bearer {token}");
        let headers = [
            ("authorization", bearer.as_str()),
            ("content-type", "application/json"),
        ];
        let body = json!({"types": types, "url": receiver.url(path)}).to_string();
        let url = format!("http://{listen}/v1/{ENV}/webhook");
        let made = call_with(Method::POST, &url, &headers, body).await?;
        ensure!(made.status == 201, "{}", made.text());
        let id = made.json()["data"]["id"]
            .as_str()
            .context("no id")?
            .to_owned();
        ids.push(id);
    }
    Ok(ids)
}

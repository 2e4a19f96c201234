//! One round of one case: the queue is filled, the senders start, and from the end of the warm part to the last delivery
//! everything is measured.

use std::time::{Duration, Instant};

use anyhow::ensure;
use tests::postrider::Postrider;
use tests::servers::{Session, connect};
use tests::wait::wait_until;

use crate::case::{Case, Runner};
use crate::child::Child;
use crate::scene::{QUEUE, Scene};

const LIMIT: Duration = Duration::from_secs(300);
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// What a round came to; all but the first and the memory are per delivery.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub(crate) struct Figures {
    pub(crate) deliveries_per_second: f64,
    /// Processor time of the senders, of Postgres and of RabbitMQ, microseconds.
    pub(crate) sender_us: f64,
    pub(crate) postgres_us: f64,
    pub(crate) rabbitmq_us: f64,
    /// The most that one sender had resident, MiB.
    pub(crate) peak_mib: f64,
    pub(crate) wal_bytes: f64,
    pub(crate) database_bytes: f64,
}

/// Those who send.
pub(crate) enum Senders {
    Bare(Child),
    Workers(Vec<Postrider>),
}

/// What has been used at one moment.
struct Sample {
    at: Instant,
    accepted: u64,
    senders: Duration,
    postgres: Duration,
    rabbitmq: Duration,
    wal_bytes: i64,
}

/// Measures a case once.
pub(crate) async fn run(scene: &mut Scene, case: &Case) -> anyhow::Result<Figures> {
    let ledger = scene.ledger(case.ledger).await?;
    scene.reset(case, &ledger).await?;
    scene.fill_queue(case, case.events).await;
    measure(scene, case, &ledger).await
}

/// Measures the delivery of a case's events, which are in the queue, perhaps with others behind them.
pub(crate) async fn measure(scene: &Scene, case: &Case, ledger: &str) -> anyhow::Result<Figures> {
    let sql = connect(ledger).await;
    let size_before = number(&sql, "SELECT pg_database_size(current_database())").await?;
    let senders = Senders::start(scene, case.runner, ledger).await?;
    let fan_out = case.load.fan_out();
    let warm = (case.warm - case.load.failing(case.warm)) * fan_out;
    let all = (case.events - case.load.failing(case.events)) * fan_out;

    scene.wait_accepted(warm, LIMIT).await?;
    let from = sample(scene, &senders, &sql).await?;
    ensure!(from.accepted < all, "too fast for its warm part: {case:?}");
    scene.wait_accepted(all, LIMIT).await?;
    senders.wait_committed(all).await;
    let to = sample(scene, &senders, &sql).await?;

    let peak_bytes = senders.peak_memory_bytes();
    let size = number(&sql, "SELECT pg_database_size(current_database())").await? - size_before;
    senders.stop().await;
    // Where some of them fail, the others stand for all.
    let share = all as f64 / (case.events * fan_out) as f64;
    let deliveries = (to.accepted - from.accepted) as f64 / share;
    let each_us = |from: Duration, to: Duration| (to - from).as_secs_f64() * 1e6 / deliveries;
    Ok(Figures {
        deliveries_per_second: deliveries / (to.at - from.at).as_secs_f64(),
        sender_us: each_us(from.senders, to.senders),
        postgres_us: each_us(from.postgres, to.postgres),
        rabbitmq_us: each_us(from.rabbitmq, to.rabbitmq),
        peak_mib: peak_bytes as f64 / f64::from(1 << 20),
        wal_bytes: (to.wal_bytes - from.wal_bytes) as f64 / deliveries,
        database_bytes: size as f64 / (case.events * fan_out) as f64,
    })
}

async fn sample(scene: &Scene, senders: &Senders, sql: &Session) -> anyhow::Result<Sample> {
    let wal = "SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint";
    Ok(Sample {
        at: Instant::now(),
        accepted: scene.seen().await?.accepted,
        senders: senders.cpu_time(),
        postgres: scene.postgres.cpu_time(),
        rabbitmq: scene.rabbitmq.cpu_time(),
        wal_bytes: number(sql, wal).await?,
    })
}

async fn number(sql: &Session, query: &str) -> anyhow::Result<i64> {
    Ok(sql.client.query_one(query, &[]).await?.get(0))
}

impl Senders {
    /// Starts them and waits until they are ready.
    pub(crate) async fn start(scene: &Scene, runner: Runner, ledger: &str) -> anyhow::Result<Self> {
        match runner {
            Runner::Bare => {
                let (amqp_url, target) = (scene.rabbitmq.amqp_url(), scene.url("/ok/bare"));
                let args = ["bare", &amqp_url, QUEUE, &target];
                Ok(Self::Bare(Child::start("the bare loop", &args).await?))
            }
            Runner::Workers(count) => {
                let started = (0..count).map(|_| scene.start_worker(ledger));
                Ok(Self::Workers(futures_util::future::join_all(started).await))
            }
        }
    }

    /// Waits until workers have so many in their ledger as delivered.
    async fn wait_committed(&self, count: u64) {
        let Self::Workers(workers) = self else { return };
        wait_until(LIMIT, "all committed", async || {
            let mut delivered = 0.0;
            for worker in workers {
                let labels = [("settlement", "delivered")];
                delivered += worker.metric("postrider_deliveries_total", &labels).await;
            }
            (delivered >= count as f64).then_some(())
        })
        .await;
    }

    fn cpu_time(&self) -> Duration {
        match self {
            Self::Bare(child) => child.process.cpu_time(),
            Self::Workers(workers) => workers.iter().map(Postrider::cpu_time).sum(),
        }
    }

    fn peak_memory_bytes(&self) -> u64 {
        match self {
            Self::Bare(child) => child.process.peak_memory_bytes(),
            Self::Workers(workers) => {
                let each = workers.iter().map(Postrider::peak_memory_bytes);
                each.max().unwrap_or_default()
            }
        }
    }

    /// In order, where there is an order.
    pub(crate) async fn stop(self) {
        if let Self::Workers(mut workers) = self {
            for worker in &workers {
                worker.terminate();
            }
            for worker in &mut workers {
                worker.wait(STOP_LIMIT).await;
            }
        }
    }
}

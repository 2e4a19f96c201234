//! What has to happen now and then, whoever does it: partitions made ahead and dropped after their time, held and
//! cancelled deliveries swept, the gauges of the whole ledger and of the queues.

use std::sync::Arc;
use std::time::Duration;

use store::{Store, StoreError, Unavailable};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::commit::Gate;
use crate::metrics::Metrics;
use crate::publisher::Publisher;
use crate::readiness::Readiness;
use crate::settings::RetentionSettings;
use crate::subscriptions::Subscriptions;
use crate::topology::{DEAD_DELIVERIES_QUEUE, DEAD_EVENTS_QUEUE};

const SWEEP_EVERY: Duration = Duration::from_secs(1);
const SWEEP_ROWS: u32 = 500;
const GAUGES_EVERY: Duration = Duration::from_secs(2);
const PARTITIONS_EVERY: Duration = Duration::from_secs(600);
const PARTITIONS_AHEAD_DAYS: u32 = 7;

/// One per worker; the database's locks share the work out.
pub(crate) struct Upkeep {
    pub(crate) store: Store,
    pub(crate) publisher: Arc<Publisher>,
    pub(crate) subscriptions: Arc<Subscriptions>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) readiness: Readiness,
    pub(crate) queues: Vec<String>,
    pub(crate) retention: RetentionSettings,
}

impl Upkeep {
    /// Goes on for ever. Each part has its own rhythm, and none waits for another's database work.
    pub(crate) async fn run(self) {
        tokio::join!(
            self.keep_partitions(),
            self.keep_swept(),
            self.keep_gauges()
        );
    }

    async fn keep_partitions(&self) {
        let mut ticks = every(PARTITIONS_EVERY);
        loop {
            ticks.tick().await;
            if let Err(error) = self.partitions().await {
                tracing::warn!(%error, "the ledger's partitions can't be seen to; trying again");
                ticks.reset_after(SWEEP_EVERY * 10);
            }
        }
    }

    async fn partitions(&self) -> Result<(), StoreError> {
        self.store.ensure_partitions(PARTITIONS_AHEAD_DAYS).await?;
        let dropped = self
            .store
            .drop_partitions(self.retention.deliveries, self.retention.payloads)
            .await?;
        if dropped > 0 {
            tracing::info!(dropped, "dropped partitions past their retention");
        }
        Ok(())
    }

    async fn keep_swept(&self) {
        let mut ticks = every(SWEEP_EVERY);
        loop {
            ticks.tick().await;
            if let Err(error) = self.sweep().await {
                tracing::debug!(%error, "the sweep was broken off; what is left comes again");
            }
        }
    }

    async fn sweep(&self) -> Result<(), StoreError> {
        while self.store.sweep(SWEEP_ROWS).await? >= u64::from(SWEEP_ROWS) {}
        Ok(())
    }

    async fn keep_gauges(&self) {
        let mut ticks = every(GAUGES_EVERY);
        let mut answered = true;
        loop {
            ticks.tick().await;
            let gauges = self.store.gauges().await;
            let answers = !gauges.as_ref().is_err_and(is_silence);
            match &gauges {
                Ok(gauges) => self.metrics.ledger(gauges),
                Err(error) if !answers && answered => {
                    tracing::error!(%error, "Postgres doesn't answer; no new attempt starts until it does");
                    self.readiness
                        .not_ready("postgres", "Postgres doesn't answer");
                }
                Err(error) => tracing::debug!(%error, "the ledger's gauges can't be read"),
            }
            if answers && !answered {
                tracing::info!("Postgres answers again");
                self.readiness.ready("postgres");
            }
            answered = answers;
            self.gate.postgres_answers(answered);
            self.metrics.postgres_connected(answered);
            let consumed = self.queues.iter().all(|queue| self.readiness.works(queue));
            self.metrics.amqp_connected(consumed);
            self.subscriptions.report(&self.metrics);
            self.queue_depths().await;
        }
    }

    async fn queue_depths(&self) {
        let dead = [DEAD_EVENTS_QUEUE, DEAD_DELIVERIES_QUEUE];
        let queues: Vec<&str> = self.queues.iter().map(String::as_str).chain(dead).collect();
        if let Some(depths) = self.publisher.depths(&queues).await {
            for (queue, depth) in queues.iter().zip(depths) {
                self.metrics.queue_messages(queue, depth);
            }
        }
    }
}

/// No answer at all. An answer that says no is met by who asked.
fn is_silence(error: &StoreError) -> bool {
    matches!(
        error,
        StoreError::Unavailable(Unavailable::Connect(_) | Unavailable::TimedOut(_))
    )
}

fn every(period: Duration) -> tokio::time::Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.reset_at(Instant::now());
    ticks
}

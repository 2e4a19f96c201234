//! What has to happen now and then, whoever does it: partitions made ahead and dropped after their time, held and
//! cancelled deliveries swept, the dead of a span brought back, the gauges of the whole ledger and of the queues; and
//! whether Postgres answers at all.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use store::{Store, StoreError};
use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::commit::Gate;
use crate::ledger_watch;
use crate::metrics::Metrics;
use crate::publisher::Publisher;
use crate::readiness::{Part, Readiness};
use crate::settings::RetentionSettings;
use crate::subscriptions::Subscriptions;
use crate::topology::{DEAD_DELIVERIES_QUEUE, DEAD_EVENTS_QUEUE};

const SWEEP_EVERY: Duration = Duration::from_secs(1);
const SWEEP_ROWS: u32 = 500;
/// What waits for its turn by a rate limit is given up so long before `retry.age_max`, or a quarter of that. Several
/// times as long as from one sweep to the next: what is claimed meanwhile must still be young enough to be sent.
const OVERDUE_EARLY_MAX: Duration = Duration::from_secs(10);
const REDELIVER_EVERY: Duration = Duration::from_secs(1);
/// Redeliveries that ended can be read for so long.
const REDELIVERIES_KEPT: Duration = Duration::from_secs(7 * 24 * 3600);
/// How far a rate-limited subscription has come is forgotten when it has had no turn for so long.
const PACES_KEPT: Duration = Duration::from_secs(600);
const GAUGES_EVERY: Duration = Duration::from_secs(2);
const PARTITIONS_EVERY: Duration = Duration::from_secs(600);
/// After that again, if somebody else was at it.
const PARTITIONS_AGAIN: Duration = Duration::from_secs(2);
const PARTITIONS_AHEAD_DAYS: u32 = 7;

/// One per worker; the database's locks share the work out.
pub(crate) struct Upkeep {
    pub(crate) store: Store,
    pub(crate) publisher: Arc<Publisher>,
    pub(crate) subscriptions: Arc<Subscriptions>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) outbox_filled: Arc<Notify>,
    pub(crate) readiness: Readiness,
    pub(crate) queues: Vec<String>,
    pub(crate) retention: RetentionSettings,
    /// `retry.age_max`.
    pub(crate) age_max: Duration,
}

impl Upkeep {
    /// Goes on for ever. Each part has its own rhythm, and none waits for another's database work.
    pub(crate) async fn run(self) {
        tokio::join!(
            self.keep_probing(),
            self.keep_partitions(),
            self.keep_swept(),
            self.keep_redelivered(),
            self.keep_gauges()
        );
    }

    async fn keep_partitions(&self) {
        let mut ticks = every(PARTITIONS_EVERY);
        loop {
            ticks.tick().await;
            match self.partitions().await {
                Ok(true) => {}
                Ok(false) => ticks.reset_after(PARTITIONS_AGAIN),
                Err(error) => {
                    tracing::warn!(%error, "the ledger's partitions can't be seen to; trying again");
                    ticks.reset_after(SWEEP_EVERY * 10);
                }
            }
        }
    }

    /// Whether all is done.
    async fn partitions(&self) -> Result<bool, StoreError> {
        self.store.ensure_partitions(PARTITIONS_AHEAD_DAYS).await?;
        let dropped = self
            .store
            .drop_partitions(self.retention.deliveries, self.retention.payloads)
            .await?;
        self.store.forget_redeliveries(REDELIVERIES_KEPT).await?;
        self.store.forget_paces(PACES_KEPT).await?;
        if let Some(dropped @ 1..) = dropped {
            tracing::info!(dropped, "dropped partitions past their retention");
        }
        Ok(dropped.is_some())
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

    async fn keep_redelivered(&self) {
        let mut ticks = every(REDELIVER_EVERY);
        loop {
            ticks.tick().await;
            // A portion's redelivery has its next turn a second later, so this ends.
            loop {
                match self.store.redeliver_portion().await {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(error) => {
                        tracing::debug!(%error, "a redelivery was broken off; its portion comes again");
                        break;
                    }
                }
            }
        }
    }

    async fn sweep(&self) -> Result<(), StoreError> {
        loop {
            let swept = self.store.sweep(SWEEP_ROWS, self.retention.held).await?;
            self.metrics.swept(&swept);
            if swept.gone + swept.held_too_long > 0 {
                self.outbox_filled.notify_one();
            }
            if swept.changed() < SWEEP_ROWS {
                break;
            }
        }
        let waited = self.age_max - (self.age_max / 4).min(OVERDUE_EARLY_MAX);
        loop {
            let given_up = self.store.give_up_overdue(waited, SWEEP_ROWS).await?;
            self.metrics.overdue(given_up);
            if given_up > 0 {
                self.outbox_filled.notify_one();
            }
            if given_up < SWEEP_ROWS {
                return Ok(());
            }
        }
    }

    async fn keep_probing(&self) -> Infallible {
        let meanwhile = "no new attempt starts until it does";
        ledger_watch::probe(&self.store, &self.readiness, meanwhile, |answers| {
            self.gate.postgres_answers(answers);
            self.metrics.postgres_connected(answers);
        })
        .await
    }

    async fn keep_gauges(&self) {
        let mut ticks = every(GAUGES_EVERY);
        loop {
            ticks.tick().await;
            match self.store.gauges().await {
                Ok(gauges) => self.metrics.ledger(&gauges),
                Err(error) => tracing::debug!(%error, "the ledger's gauges can't be read"),
            }
            let consumed = self
                .queues
                .iter()
                .all(|queue| self.readiness.works(&Part::queue(queue)));
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

pub(crate) fn every(period: Duration) -> tokio::time::Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.reset_at(Instant::now());
    ticks
}

//! What is to go in batches waits in the ledger, event by event, and is put together there when its time has come. A
//! batch then is a delivery that is due: the claim is told.

use std::sync::Arc;
use std::time::{Duration, Instant};

use store::{BatchMade, Store};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use webhook::{DeadReason, DeliveryStatus};

use crate::claim::DueSignal;
use crate::commit::Gate;
use crate::metrics::{Metrics, Settled};
use crate::pauses;

/// Without a word from anyone the ledger is looked at after so long.
const IDLE_PAUSE: Duration = Duration::from_secs(1);
/// After a round that made nothing although something is ripe: another worker is at it.
const BUSY_PAUSE: Duration = Duration::from_millis(50);
/// Between two rounds, so that another worker's may be over.
const ROUND_PAUSE: Duration = Duration::from_millis(5);

/// The loop that puts batches together.
pub(crate) struct Batcher {
    pub(crate) store: Store,
    pub(crate) gate: Arc<Gate>,
    /// When looking is worth it.
    pub(crate) ripe: Arc<DueSignal>,
    pub(crate) due: Arc<DueSignal>,
    /// Told when a batch left something in the outbox.
    pub(crate) outbox: Arc<Notify>,
    pub(crate) metrics: Arc<Metrics>,
    /// Nothing is put together after this.
    pub(crate) stop: CancellationToken,
}

impl Batcher {
    /// Goes on until the worker stops; what isn't put together by then is another worker's.
    pub(crate) async fn run(self) {
        let mut latest = Instant::now();
        let mut waits = pauses::reconnect();
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                () = async { self.ripe.wait(latest).await; self.gate.wait_open().await } => {}
            }
            let pause = match self.store.make_batches().await {
                Ok(batches) => {
                    waits = pauses::reconnect();
                    if !batches.made.is_empty() {
                        self.due.now();
                    }
                    batches.made.iter().for_each(|made| self.tell(made));
                    let least = if batches.made.is_empty() {
                        BUSY_PAUSE
                    } else {
                        ROUND_PAUSE
                    };
                    batches.next_in.unwrap_or(IDLE_PAUSE).max(least)
                }
                Err(error) => {
                    tracing::warn!(%error, "batches can't be put together; trying again");
                    waits.next().unwrap_or(IDLE_PAUSE)
                }
            };
            latest = Instant::now() + pause.min(IDLE_PAUSE);
            tokio::time::sleep(ROUND_PAUSE).await;
        }
    }
}

impl Batcher {
    /// The one line of a batch.
    fn tell(&self, made: &BatchMade) {
        let delivery = &made.delivery;
        tracing::info!(
            target: "postrider::batch",
            request = %delivery.request_id,
            webhook = %delivery.webhook_id,
            environment = %delivery.environment_id,
            event = %delivery.event_id,
            events = made.events,
            status = made.written.status.as_str(),
            "batch"
        );
        match made.written.status {
            DeliveryStatus::Held => self.metrics.settled(Settled::Held),
            DeliveryStatus::Cancelled => self.metrics.settled(Settled::Cancelled),
            DeliveryStatus::Dead => {
                self.metrics.settled(Settled::Dead);
                self.metrics.dead_letter(DeadReason::Gone.as_str());
                self.outbox.notify_one();
            }
            DeliveryStatus::Scheduled | DeliveryStatus::Delivered => {}
        }
    }
}

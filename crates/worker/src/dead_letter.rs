//! What can't be an event: republished to `postrider.events.dead`, body unchanged, with its reason, and confirmed
//! before the original is acked. Never dropped, never looped: while the queue is full or the broker away, the original
//! stays unacked and is tried again with a delay.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use webhook::NoEventReason;

use crate::message::Hold;
use crate::metrics::{Metrics, Published};
use crate::pauses;
use crate::publisher::{Publication, Publisher};
use crate::topology::{DEAD_EVENTS_KEY, DEAD_EXCHANGE};

/// Carries messages to the dead letters. One per worker.
pub(crate) struct DeadLetters {
    pub(crate) publisher: Arc<Publisher>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) stop: CancellationToken,
}

impl DeadLetters {
    /// Takes as long as it must; if the worker stops first, the message goes back to the broker.
    pub(crate) async fn no_event(&self, hold: Hold, reason: NoEventReason, detail: &str) {
        let publication = Publication {
            what: Published::NoEvent,
            exchange: DEAD_EXCHANGE,
            routing_key: DEAD_EVENTS_KEY,
            mandatory: true,
            message_id: None,
            headers: vec![
                ("x-postrider-reason", reason.as_str().to_owned()),
                ("x-postrider-detail", detail.to_owned()),
            ],
            body: hold.body(),
        };
        let mut waits = pauses::reconnect();
        loop {
            match self.publisher.publish(&publication).await {
                Ok(()) => break,
                Err(error) => {
                    tracing::warn!(%error, reason = reason.as_str(), "a message that is no event can't be dead-lettered; it stays unacked");
                }
            }
            let Some(wait) = waits.next() else { return };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.stop.cancelled() => return,
            }
        }
        tracing::warn!(
            reason = reason.as_str(),
            detail,
            bytes = hold.body().len(),
            "a message that is no event was dead-lettered"
        );
        self.metrics.dead_letter(reason.as_str());
        hold.settle();
    }
}

//! What is published in consequence of a settlement: dead copies and notices. They are rows of the settlement's own
//! transaction; here they are published with confirms, and removed only after the confirm.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use store::{OutboxKind, OutboxMessage, Store, StoreError};
use tokio::sync::Notify;
use webhook::Envelope;

use crate::metrics::Published;
use crate::pauses;
use crate::publisher::{Publication, PublishError, Publisher};
use crate::topology::{DEAD_DELIVERIES_KEY, DEAD_EXCHANGE, NOTICES_EXCHANGE};

const BATCH_ROWS: u32 = 64;
/// A row taken by a worker that then died is taken again after so long.
const LEASE: Duration = Duration::from_secs(60);
const IDLE_PAUSE: Duration = Duration::from_secs(2);
/// In place of a payload that is past its retention: the copy stays JSON.
const NO_DATA: Bytes = Bytes::from_static(b"null");

/// Empties the outbox. One per worker; rows are shared out by leases.
pub(crate) struct Outbox {
    pub(crate) store: Store,
    pub(crate) publisher: Arc<Publisher>,
    /// Told when this worker's commits put something in.
    pub(crate) filled: Arc<Notify>,
}

impl Outbox {
    /// Publishes for ever.
    pub(crate) async fn run(self) {
        let mut waits = pauses::reconnect();
        loop {
            match self.publish_batch().await {
                Ok(0) => {
                    waits = pauses::reconnect();
                    // Either will do: told, or the time has come to see what other workers left.
                    drop(tokio::time::timeout(IDLE_PAUSE, self.filled.notified()).await);
                }
                Ok(_) => waits = pauses::reconnect(),
                Err(error) => {
                    tracing::warn!(%error, "the outbox can't be emptied; trying again");
                    tokio::time::sleep(waits.next().unwrap_or(IDLE_PAUSE)).await;
                }
            }
        }
    }

    async fn publish_batch(&self) -> Result<usize, OutboxError> {
        let messages = self.store.take_outbox(BATCH_ROWS, LEASE).await?;
        for message in &messages {
            self.publish(message).await?;
            self.store.remove_outbox(&[message.id]).await?;
        }
        Ok(messages.len())
    }

    async fn publish(&self, message: &OutboxMessage) -> Result<(), PublishError> {
        match &message.kind {
            OutboxKind::Dead {
                environment_id,
                webhook_id,
                request_id,
                reason,
                attempts,
                data,
            } => {
                let data = if data.is_empty() {
                    NO_DATA
                } else {
                    data.clone()
                };
                let envelope = Envelope::new(*request_id, environment_id, webhook_id, data);
                let publication = Publication {
                    what: Published::DeadDelivery,
                    exchange: DEAD_EXCHANGE,
                    routing_key: DEAD_DELIVERIES_KEY,
                    mandatory: true,
                    message_id: Some(message.message_id.clone()),
                    headers: vec![
                        ("x-postrider-request-id", request_id.to_string()),
                        ("x-postrider-webhook-id", webhook_id.clone()),
                        ("x-postrider-environment-id", environment_id.clone()),
                        ("x-postrider-reason", reason.as_str().to_owned()),
                        ("x-postrider-attempts", attempts.to_string()),
                    ],
                    body: &envelope.to_bytes(),
                };
                self.publisher.publish(&publication).await
            }
            OutboxKind::Notice { routing_key, body } => {
                let publication = Publication {
                    what: Published::Notice,
                    exchange: NOTICES_EXCHANGE,
                    routing_key,
                    mandatory: false,
                    message_id: Some(message.message_id.clone()),
                    headers: Vec::new(),
                    body: body.as_bytes(),
                };
                self.publisher.publish(&publication).await
            }
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum OutboxError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Publish(#[from] PublishError),
}

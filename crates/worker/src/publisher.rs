//! Publishing with confirms, over a connection of its own (a broker that blocks publishers must not stop consuming).
//! Persistent and `mandatory`; a returned message counts as refused. The connection is kept by [`Publisher::keep`].

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation};
use tokio::sync::{Notify, watch};

use crate::broker::{answered, connect};
use crate::metrics::{Metrics, Published, Publishing};
use crate::pauses;
use crate::settings::AmqpSettings;
use crate::topology;

/// How long a publish waits for a connection, and then for its confirm.
const CHANNEL_WAIT: Duration = Duration::from_secs(5);
const CONFIRM_LIMIT: Duration = Duration::from_secs(15);

/// What is published.
#[derive(Debug)]
pub(crate) struct Publication<'a> {
    pub(crate) what: Published,
    pub(crate) exchange: &'static str,
    pub(crate) routing_key: &'a str,
    /// Whether an unroutable message counts as refused.
    pub(crate) mandatory: bool,
    /// Stable over repeats, so that a consumer can tell a duplicate.
    pub(crate) message_id: Option<String>,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: &'a [u8],
}

/// Why a message isn't known to be with the broker. All of it may pass: try again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PublishError {
    #[error("there is no connection to the broker")]
    NoConnection,
    #[error("the broker didn't confirm in time")]
    NotConfirmed,
    #[error("the broker refused the message (its queue is full, or it is unroutable)")]
    Refused,
    #[error("the connection to the broker failed: {0}")]
    Broker(#[from] lapin::Error),
}

/// Publishes for the whole worker.
pub(crate) struct Publisher {
    channel: watch::Sender<Option<Channel>>,
    failed: Notify,
    metrics: Arc<Metrics>,
}

impl Publisher {
    /// A publisher without a connection; [`Publisher::keep`] makes it.
    pub(crate) fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            metrics,
            channel: watch::Sender::new(None),
            failed: Notify::new(),
        }
    }

    /// Publishes and waits for the confirm, at most 20 s in all.
    ///
    /// # Errors
    /// See [`PublishError`]; the message may have arrived all the same.
    pub(crate) async fn publish(&self, publication: &Publication<'_>) -> Result<(), PublishError> {
        let began = Instant::now();
        let published = self.try_publish(publication).await;
        let result = match &published {
            Ok(()) => Publishing::Confirmed,
            Err(PublishError::Refused) => Publishing::Refused,
            Err(_) => Publishing::Failed,
        };
        self.metrics
            .publication(publication.what, result, began.elapsed());
        published
    }

    async fn try_publish(&self, publication: &Publication<'_>) -> Result<(), PublishError> {
        let channel = self.channel().await?;
        let published = tokio::time::timeout(CONFIRM_LIMIT, confirmed(&channel, publication)).await;
        let published = published.unwrap_or(Err(PublishError::NotConfirmed));
        if let Err(PublishError::NotConfirmed | PublishError::Broker(_)) = &published {
            self.failed.notify_one();
        }
        published
    }

    /// How many messages are ready in each of `queues`; none where there is no connection.
    pub(crate) async fn depths(&self, queues: &[&str]) -> Option<Vec<u32>> {
        let channel = self.channel.borrow().clone()?;
        let ask = async {
            let mut depths = Vec::new();
            for queue in queues {
                depths.push(topology::depth(&channel, queue).await?);
            }
            Ok::<_, lapin::Error>(depths)
        };
        match tokio::time::timeout(CHANNEL_WAIT, ask).await {
            Ok(Ok(depths)) => Some(depths),
            Ok(Err(_)) | Err(_) => {
                self.failed.notify_one();
                None
            }
        }
    }

    /// Keeps a connection, for ever.
    pub(crate) async fn keep(&self, settings: &AmqpSettings) {
        let mut waits = pauses::reconnect();
        loop {
            match self.session(settings).await {
                Ok(()) => waits = pauses::reconnect(),
                Err(error) => tracing::debug!(%error, "no connection for publishing"),
            }
            self.channel.send_replace(None);
            tokio::time::sleep(waits.next().unwrap_or(CHANNEL_WAIT)).await;
        }
    }

    /// One connection, until something on it fails.
    async fn session(&self, settings: &AmqpSettings) -> Result<(), crate::broker::ConnectError> {
        let connection = connect(settings, "postrider publisher").await?;
        let channel = answered(async {
            let channel = connection.create_channel().await?;
            topology::ensure(&channel, settings).await?;
            channel
                .confirm_select(ConfirmSelectOptions::default())
                .await?;
            Ok::<_, lapin::Error>(channel)
        })
        .await?;
        self.channel.send_replace(Some(channel));
        self.failed.notified().await;
        // Dropped rather than closed: a broker that failed may never answer.
        drop(connection);
        Ok(())
    }

    async fn channel(&self) -> Result<Channel, PublishError> {
        let mut channels = self.channel.subscribe();
        let wait = channels.wait_for(Option::is_some);
        match tokio::time::timeout(CHANNEL_WAIT, wait).await {
            Ok(Ok(channel)) => channel.clone().ok_or(PublishError::NoConnection),
            Ok(Err(_)) | Err(_) => Err(PublishError::NoConnection),
        }
    }
}

async fn confirmed(channel: &Channel, publication: &Publication<'_>) -> Result<(), PublishError> {
    let mut headers = FieldTable::default();
    for (name, value) in &publication.headers {
        headers.insert((*name).into(), AMQPValue::LongString(value.as_str().into()));
    }
    let mut properties = BasicProperties::default()
        .with_delivery_mode(2)
        .with_content_type("application/json".into())
        .with_timestamp(now_seconds())
        .with_headers(headers);
    if let Some(id) = &publication.message_id {
        properties = properties.with_message_id(id.as_str().into());
    }
    let options = BasicPublishOptions {
        mandatory: publication.mandatory,
        ..BasicPublishOptions::default()
    };
    let confirm = channel
        .basic_publish(
            publication.exchange.into(),
            publication.routing_key.into(),
            options,
            publication.body,
            properties,
        )
        .await?;
    match confirm.await? {
        Confirmation::Ack(None) => Ok(()),
        Confirmation::Ack(Some(_)) | Confirmation::Nack(_) | Confirmation::NotRequested => {
            Err(PublishError::Refused)
        }
    }
}

/// Since 1970, as AMQP has it.
fn now_seconds() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

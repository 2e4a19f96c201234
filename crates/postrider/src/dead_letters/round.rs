//! Once around `postrider.events.dead`, one message in hand at a time. What is kept goes to the queue's end as a new message,
//! confirmed before the original is acked: so a kill at any moment loses none, the order stays, and no message comes nearer to
//! the delivery limit that RabbitMQ gives such queues (20 from 4.0 on) however often it is looked at (decision 0018).

use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use lapin::message::{BasicGetMessage, Delivery};
use lapin::options::{
    BasicAckOptions, BasicGetOptions, BasicNackOptions, BasicPublishOptions, ConfirmSelectOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection};
use uuid::Uuid;
use worker::topology::{self, DEAD_EVENTS_QUEUE};
use worker::{AmqpSettings, broker};

/// Names the round in its marker and in what it has put back.
const ROUND: &str = "x-postrider-round";
/// The producer's user: RabbitMQ takes the property from that user alone.
const USER_ID: &str = "x-postrider-user-id";
/// The broker's count of the original, and what would lead a copy to other queues as well.
const NOT_COPIED: [&str; 4] = ["x-delivery-count", "x-acquired-count", "CC", "BCC"];
const PERSISTENT: u8 = 2;
/// Of a confirm and of each answer: a broker that blocks publishers (memory, disk) gives none.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// By a queue with `reject-publish`.
#[derive(Debug, thiserror::Error)]
#[error("RabbitMQ refused a message: a queue that it goes to is full")]
struct Refused;

/// A round that has begun.
pub(super) struct Round {
    id: String,
    channel: Channel,
    /// Messages at its beginning, for whoever shows the progress.
    pub(super) messages: u32,
    /// So many more without a marker.
    left: Option<u32>,
    // Closed when dropped, and the channel with it.
    _connection: Connection,
}

impl Round {
    /// Puts a marker at the queue's end: the round ends where it comes. A queue that is full refuses it before anything
    /// was touched; where all are to leave the queue, the round then ends after as many as there were.
    ///
    /// # Errors
    /// RabbitMQ can't be reached, has no such queue, or refuses.
    pub(super) async fn begin(settings: &AmqpSettings, all_leave: bool) -> anyhow::Result<Self> {
        let connection = broker::connect(settings, "postrider dead-letters").await?;
        let channel = connection.create_channel().await?;
        let messages = answered(topology::depth(&channel, DEAD_EVENTS_QUEUE))
            .await
            .with_context(|| {
                format!("{DEAD_EVENTS_QUEUE} isn't there; has a worker run on this virtual host?")
            })?;
        answered(channel.confirm_select(ConfirmSelectOptions::default())).await?;
        let mut round = Self {
            id: Uuid::new_v4().to_string(),
            channel,
            messages,
            left: None,
            _connection: connection,
        };
        let mut marked = FieldTable::default();
        marked.insert(ROUND.into(), text(&round.id));
        marked.insert("x-postrider-reason".into(), text("marker"));
        let marker = BasicProperties::default().with_headers(marked);
        match round.publish("", DEAD_EVENTS_QUEUE, marker, b"").await {
            Ok(()) => {}
            Err(error) if all_leave && error.is::<Refused>() => round.left = Some(messages),
            Err(error) => {
                return Err(error.context(
                    "nothing was touched; if the queue is full, `dead-letters replay --events --all` or a purge makes room",
                ));
            }
        }
        Ok(round)
    }

    /// The next message, in hand until [`put_back`](Self::put_back) or [`publish_and_remove`](Self::publish_and_remove);
    /// none once it was around.
    ///
    /// # Errors
    /// The connection broke.
    pub(super) async fn next(&mut self) -> anyhow::Result<Option<Delivery>> {
        loop {
            self.left = match self.left {
                Some(0) => return Ok(None),
                left => left.map(|left| left - 1),
            };
            let get = self
                .channel
                .basic_get(DEAD_EVENTS_QUEUE.into(), BasicGetOptions::default());
            let Some(BasicGetMessage { delivery, .. }) = answered(get).await? else {
                return Ok(None);
            };
            match mark(&delivery) {
                Some(Mark::Marker(id)) => {
                    ack(&delivery).await?;
                    if id == self.id {
                        return Ok(None);
                    }
                    // Of a round that was broken off.
                }
                Some(Mark::PutBack(id)) if id == self.id => {
                    // Somebody else has taken the marker.
                    self.put_back(&delivery).await?;
                    eprintln!(
                        "postrider: somebody else reads {DEAD_EVENTS_QUEUE} too: this may not be all of it, and not in order"
                    );
                    return Ok(None);
                }
                Some(Mark::PutBack(_)) | None => return Ok(Some(delivery)),
            }
        }
    }

    /// Puts it behind all others, unchanged but for what RabbitMQ counts of it.
    ///
    /// # Errors
    /// RabbitMQ refuses, or the connection broke; the message stays where it was.
    pub(super) async fn put_back(&self, delivery: &Delivery) -> anyhow::Result<()> {
        let copied = copied(&delivery.properties, &self.id);
        self.move_to("", DEAD_EVENTS_QUEUE, copied, delivery).await
    }

    /// Publishes its body as a producer would, and takes it out of the queue.
    ///
    /// # Errors
    /// RabbitMQ refuses, no queue takes it, or the connection broke; the message stays where it was.
    pub(super) async fn publish_and_remove(
        &self,
        exchange: &str,
        routing_key: &str,
        delivery: &Delivery,
    ) -> anyhow::Result<()> {
        let fresh = BasicProperties::default().with_content_type("application/json".into());
        self.move_to(exchange, routing_key, fresh, delivery).await
    }

    async fn move_to(
        &self,
        exchange: &str,
        routing_key: &str,
        properties: BasicProperties,
        delivery: &Delivery,
    ) -> anyhow::Result<()> {
        let sent = self.publish(exchange, routing_key, properties, &delivery.data);
        if let Err(error) = sent.await {
            let requeue = BasicNackOptions {
                requeue: true,
                ..BasicNackOptions::default()
            };
            // Without an answer the end of the channel does the same.
            drop(answered(delivery.nack(requeue)).await);
            return Err(error);
        }
        ack(delivery).await
    }

    async fn publish(
        &self,
        exchange: &str,
        routing_key: &str,
        properties: BasicProperties,
        body: &[u8],
    ) -> anyhow::Result<()> {
        let mandatory = BasicPublishOptions {
            mandatory: true,
            ..BasicPublishOptions::default()
        };
        let properties = properties.with_delivery_mode(PERSISTENT);
        let publishing = self.channel.basic_publish(
            exchange.into(),
            routing_key.into(),
            mandatory,
            body,
            properties,
        );
        let confirmation = answered(async { publishing.await?.await }).await?;
        if !confirmation.is_ack() {
            bail!(Refused);
        }
        match confirmation.take_message() {
            Some(returned) => bail!("no queue took a message: {}", returned.reply_text),
            None => Ok(()),
        }
    }
}

enum Mark {
    Marker(String),
    PutBack(String),
}

fn mark(delivery: &Delivery) -> Option<Mark> {
    let headers = delivery.properties.headers().as_ref()?;
    let AMQPValue::LongString(id) = headers.inner().get(ROUND)? else {
        return None;
    };
    let id = String::from_utf8_lossy(id.as_bytes()).into_owned();
    let marker = headers.inner().get("x-postrider-reason") == Some(&text("marker"));
    Some(if marker && delivery.data.is_empty() {
        Mark::Marker(id)
    } else {
        Mark::PutBack(id)
    })
}

/// All properties and headers but those that RabbitMQ would refuse, or follow, or count by.
fn copied(properties: &BasicProperties, round: &str) -> BasicProperties {
    let mut headers = FieldTable::default();
    if let Some(old) = properties.headers() {
        for (name, value) in old.inner() {
            if !NOT_COPIED.contains(&name.as_str()) {
                headers.insert(name.clone(), value.clone());
            }
        }
    }
    headers.insert(ROUND.into(), text(round));
    if let Some(user_id) = properties.user_id() {
        headers.insert(USER_ID.into(), text(user_id.as_str()));
    }
    let mut copy = BasicProperties::default().with_headers(headers);
    macro_rules! keep {
        ($($get:ident $with:ident),*) => {
            $(if let Some(value) = properties.$get().clone() {
                copy = copy.$with(value);
            })*
        };
    }
    keep!(
        content_type with_content_type,
        content_encoding with_content_encoding,
        priority with_priority,
        correlation_id with_correlation_id,
        reply_to with_reply_to,
        expiration with_expiration,
        message_id with_message_id,
        timestamp with_timestamp,
        kind with_type,
        app_id with_app_id,
        cluster_id with_cluster_id
    );
    copy
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

async fn ack(delivery: &Delivery) -> anyhow::Result<()> {
    answered(delivery.ack(BasicAckOptions::default())).await?;
    Ok(())
}

async fn answered<T>(answer: impl Future<Output = Result<T, lapin::Error>>) -> anyhow::Result<T> {
    match tokio::time::timeout(ANSWER_LIMIT, answer).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(anyhow!(
            "RabbitMQ gave no answer for {} s; does it block publishers (memory, disk)?",
            ANSWER_LIMIT.as_secs()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_the_original_but_for_what_the_broker_would_refuse_follow_or_count_by() {
        let mut headers = FieldTable::default();
        for name in ["x-postrider-reason", "x-delivery-count", "CC", ROUND] {
            headers.insert(name.into(), text("was"));
        }
        let original = BasicProperties::default()
            .with_headers(headers)
            .with_user_id("producer".into())
            .with_correlation_id("c".into())
            .with_timestamp(7);

        let copy = copied(&original, "this");

        let mut expected = FieldTable::default();
        expected.insert("x-postrider-reason".into(), text("was"));
        expected.insert(ROUND.into(), text("this"));
        expected.insert(USER_ID.into(), text("producer"));
        let expected = BasicProperties::default()
            .with_headers(expected)
            .with_correlation_id("c".into())
            .with_timestamp(7);
        assert_eq!(copy, expected);
        // Once more it is the same: the producer isn't forgotten.
        assert_eq!(copied(&copy, "this"), expected);
    }
}

//! Publishes events as any producer would: persistent, mandatory, confirmed, many at a time.

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::{Context as _, bail};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel, Connection, PublisherConfirm};
use uuid::Uuid;
use worker::{AmqpSettings, broker, topology};

/// Confirms outstanding at a time.
const WINDOW: usize = 500;
/// A broker that blocks publishers (a memory or disk alarm) confirms nothing.
const CONFIRM_LIMIT: Duration = Duration::from_secs(30);
const PERSISTENT: u8 = 2;
/// Of a routing key and of a message's id, by AMQP (a short string). An event's type and id may have one byte more.
const SHORT_STRING_BYTES_MAX: usize = 255;

/// A connection to the exchange of the events.
pub(crate) struct EventPublisher {
    exchange: String,
    channel: Channel,
    outstanding: VecDeque<PublisherConfirm>,
    confirmed: u64,
    // Closed when dropped, and the channel with it.
    _connection: Connection,
}

impl EventPublisher {
    /// Connects, and declares or checks what is published to.
    ///
    /// # Errors
    /// RabbitMQ can't be reached, or has the names with other arguments.
    pub(crate) async fn connect(settings: &AmqpSettings) -> anyhow::Result<Self> {
        let connection = broker::connect(settings, "postrider events publish").await?;
        let channel = connection.create_channel().await?;
        topology::ensure(&channel, settings).await?;
        channel
            .confirm_select(ConfirmSelectOptions::default())
            .await?;
        Ok(Self {
            exchange: settings.exchange.clone(),
            channel,
            outstanding: VecDeque::with_capacity(WINDOW),
            confirmed: 0,
            _connection: connection,
        })
    }

    /// How many RabbitMQ has taken.
    pub(crate) fn confirmed(&self) -> u64 {
        self.confirmed
    }

    /// Publishes one, under its event's id as the message's; waits for an earlier confirm where too many are outstanding.
    ///
    /// # Errors
    /// The connection broke, or RabbitMQ refused an earlier one.
    pub(crate) async fn publish(
        &mut self,
        event_type: &str,
        event_id: &str,
        body: &[u8],
    ) -> anyhow::Result<()> {
        while self.outstanding.len() >= WINDOW {
            self.await_oldest().await?;
        }
        let options = BasicPublishOptions {
            mandatory: true,
            ..BasicPublishOptions::default()
        };
        let properties = BasicProperties::default()
            .with_delivery_mode(PERSISTENT)
            .with_content_type("application/json".into())
            .with_message_id(message_id(event_id));
        let publishing = self.channel.basic_publish(
            self.exchange.as_str().into(),
            routing_key(event_type).into(),
            options,
            body,
            properties,
        );
        self.outstanding.push_back(publishing.await?);
        Ok(())
    }

    /// Waits for all confirms that are outstanding.
    ///
    /// # Errors
    /// As for [`EventPublisher::publish`].
    pub(crate) async fn finish(&mut self) -> anyhow::Result<()> {
        while !self.outstanding.is_empty() {
            self.await_oldest().await?;
        }
        Ok(())
    }

    async fn await_oldest(&mut self) -> anyhow::Result<()> {
        let Some(oldest) = self.outstanding.pop_front() else {
            return Ok(());
        };
        let confirmation = tokio::time::timeout(CONFIRM_LIMIT, oldest)
            .await
            .with_context(|| {
                let seconds = CONFIRM_LIMIT.as_secs();
                format!("RabbitMQ confirmed nothing for {seconds} s; does it block publishers (memory, disk)?")
            })??;
        if !confirmation.is_ack() {
            bail!("RabbitMQ refused an event; is the queue full?");
        }
        if let Some(returned) = confirmation.take_message() {
            bail!("no queue took an event: {}", returned.reply_text);
        }
        self.confirmed += 1;
        Ok(())
    }
}

/// The type, cut where a routing key must end: no queue of ours is bound by it.
pub(crate) fn routing_key(event_type: &str) -> &str {
    &event_type[..event_type.floor_char_boundary(SHORT_STRING_BYTES_MAX)]
}

/// The event's id. One that is too long becomes a UUID made of it, the same each time: cut, it could be another event's.
fn message_id(event_id: &str) -> ShortString {
    if event_id.len() <= SHORT_STRING_BYTES_MAX {
        event_id.into()
    } else {
        Uuid::new_v5(&Uuid::NAMESPACE_OID, event_id.as_bytes())
            .to_string()
            .into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_type_is_cut_to_a_routing_key() {
        assert_eq!(routing_key("card-published"), "card-published");
        assert_eq!(routing_key(&"t".repeat(256)).len(), 255);
        assert_eq!(routing_key(&"é".repeat(128)).len(), 254);
    }

    #[test]
    fn an_id_that_is_too_long_for_a_message_has_one_of_its_own() {
        let long = |last: &str| message_id(&format!("{}{last}", "e".repeat(255)));

        assert_eq!(message_id("ev-1").as_str(), "ev-1");
        assert_eq!(message_id(&"e".repeat(255)).as_str(), "e".repeat(255));
        assert_eq!(long("1"), long("1"));
        assert_ne!(long("1"), long("2"));
    }
}

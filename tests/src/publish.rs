//! The broker as a test sees it: confirmed publishing of any bytes, and a look into queues. Nothing is declared here:
//! exchanges and queues are the product's to make.

use std::collections::VecDeque;
use std::time::Duration;

use lapin::message::BasicGetMessage;
use lapin::options::{
    BasicAckOptions, BasicGetOptions, BasicNackOptions, BasicPublishOptions, ConfirmSelectOptions,
    QueueBindOptions, QueueDeclareOptions, QueuePurgeOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, PublisherConfirm};

use crate::wait::wait_until;

/// Between a message's return and its next delivery.
const GIVE_BACK_LIMIT: Duration = Duration::from_secs(10);
/// Publishings that may await their confirm at one time.
const WINDOW: usize = 500;

/// One connection and one channel in confirm mode. A fault of the channel panics: the test is over then.
#[derive(Debug)]
pub struct Broker {
    connection: Connection,
    channel: Channel,
}

/// A message taken from a queue.
#[derive(Debug, Clone)]
pub struct Message {
    /// The body, unchanged.
    pub body: Vec<u8>,
    /// The exchange that it came by.
    pub exchange: String,
    /// Its routing key.
    pub routing_key: String,
    /// All its properties.
    pub properties: BasicProperties,
    /// Whether the broker has handed it out before.
    pub redelivered: bool,
}

impl Message {
    /// A header's value as text; numbers and booleans in their usual writing, nothing for tables and arrays.
    pub fn header(&self, name: &str) -> Option<String> {
        let headers = self.properties.headers().as_ref()?;
        match headers.inner().get(name)? {
            AMQPValue::LongString(text) => Some(String::from_utf8_lossy(text.as_bytes()).into()),
            AMQPValue::ShortString(text) => Some(text.to_string()),
            AMQPValue::Boolean(value) => Some(value.to_string()),
            AMQPValue::ShortShortInt(value) => Some(value.to_string()),
            AMQPValue::ShortInt(value) => Some(value.to_string()),
            AMQPValue::LongInt(value) => Some(value.to_string()),
            AMQPValue::LongLongInt(value) => Some(value.to_string()),
            _ => None,
        }
    }

    /// A header as it came, for `x-death` and the like.
    pub fn raw_header(&self, name: &str) -> Option<&AMQPValue> {
        self.properties.headers().as_ref()?.inner().get(name)
    }
}

impl Broker {
    /// Connects by `amqp://`.
    ///
    /// # Panics
    /// If the broker refuses.
    pub async fn connect(url: &str) -> Self {
        let properties = ConnectionProperties::default().with_connection_name("test".into());
        let connection = Connection::connect(url, properties)
            .await
            .unwrap_or_else(|error| panic!("the broker refused: {error}"));
        let channel = confirming_channel(&connection).await;
        Self {
            connection,
            channel,
        }
    }

    /// A channel of its own in confirm mode, for what this type doesn't do.
    ///
    /// # Panics
    /// If the broker refuses.
    pub async fn channel(&self) -> Channel {
        confirming_channel(&self.connection).await
    }

    /// Publishes one persistent message, mandatory, and waits for its confirm.
    ///
    /// # Panics
    /// If the broker refuses it or no queue takes it.
    pub async fn publish(&self, exchange: &str, routing_key: &str, body: &[u8]) {
        self.publish_with(exchange, routing_key, body, BasicProperties::default())
            .await;
    }

    /// The same with properties; the delivery mode becomes persistent unless they name one.
    ///
    /// # Panics
    /// If the broker refuses it or no queue takes it.
    pub async fn publish_with(
        &self,
        exchange: &str,
        routing_key: &str,
        body: &[u8],
        properties: BasicProperties,
    ) {
        let sent = self.send(exchange, routing_key, body, properties).await;
        confirmed(sent).await;
    }

    /// Publishes many, each `(routing key, body)`, with up to 500 confirms outstanding; returns when all are
    /// confirmed.
    ///
    /// # Panics
    /// If the broker refuses one or no queue takes it.
    pub async fn publish_all<K: AsRef<str>, B: AsRef<[u8]>>(
        &self,
        exchange: &str,
        messages: impl IntoIterator<Item = (K, B)>,
    ) {
        let mut outstanding = VecDeque::with_capacity(WINDOW);
        for (routing_key, body) in messages {
            if outstanding.len() == WINDOW
                && let Some(oldest) = outstanding.pop_front()
            {
                confirmed(oldest).await;
            }
            let properties = BasicProperties::default();
            let sent = self
                .send(exchange, routing_key.as_ref(), body.as_ref(), properties)
                .await;
            outstanding.push_back(sent);
        }
        for sent in outstanding {
            confirmed(sent).await;
        }
    }

    /// A queue of this connection's own that gets what an exchange routes from now on; returns its name.
    ///
    /// # Panics
    /// If the exchange doesn't exist.
    pub async fn listen_to(&self, exchange: &str, routing_key: &str) -> String {
        let exclusive = QueueDeclareOptions {
            exclusive: true,
            ..QueueDeclareOptions::default()
        };
        let queue = self
            .channel
            .queue_declare("".into(), exclusive, FieldTable::default())
            .await
            .expect("the broker names it");
        let (name, bind) = (queue.name().clone(), QueueBindOptions::default());
        self.channel
            .queue_bind(
                name.clone(),
                exchange.into(),
                routing_key.into(),
                bind,
                FieldTable::default(),
            )
            .await
            .unwrap_or_else(|error| panic!("{exchange} can't be listened to: {error}"));
        name.to_string()
    }

    /// Takes the first message off a queue.
    ///
    /// # Panics
    /// If the queue doesn't exist.
    pub async fn take(&self, queue: &str) -> Option<Message> {
        let got = self.get(queue, BasicGetOptions::default()).await?;
        got.ack(BasicAckOptions::default())
            .await
            .expect("the channel that brought it is open");
        Some(message(got))
    }

    /// Takes the first message off a queue and gives it back, so many times, as consumers do that can't handle it.
    ///
    /// # Panics
    /// If the queue doesn't exist, or is empty for longer than 10 s meanwhile.
    pub async fn give_back(&self, queue: &str, times: u32) {
        let requeue = BasicNackOptions {
            requeue: true,
            ..BasicNackOptions::default()
        };
        for _ in 0..times {
            let got = wait_until(GIVE_BACK_LIMIT, "the message to come back", async || {
                self.get(queue, BasicGetOptions::default()).await
            })
            .await;
            got.nack(requeue)
                .await
                .expect("the channel that brought it is open");
        }
    }

    /// Takes all messages that are ready in a queue now.
    ///
    /// # Panics
    /// If the queue doesn't exist.
    pub async fn take_all(&self, queue: &str) -> Vec<Message> {
        let mut all = Vec::new();
        while let Some(next) = self.take(queue).await {
            all.push(next);
        }
        all
    }

    /// Messages of a queue that are ready; what a consumer holds unacked isn't counted.
    ///
    /// # Panics
    /// If the queue doesn't exist.
    pub async fn depth(&self, queue: &str) -> u32 {
        self.find_depth(queue)
            .await
            .unwrap_or_else(|| panic!("there is no queue {queue}"))
    }

    /// The same; nothing if the queue doesn't exist. For waiting until the product has declared it.
    pub async fn find_depth(&self, queue: &str) -> Option<u32> {
        // A channel of its own: asking for a queue that isn't there closes it.
        let channel = self.connection.create_channel().await.ok()?;
        let passive = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        let declared = channel
            .queue_declare(queue.into(), passive, FieldTable::default())
            .await
            .ok()?;
        drop(channel.close(200, "seen".into()).await);
        Some(declared.message_count())
    }

    /// Deletes what is ready in a queue; says how many that were.
    ///
    /// # Panics
    /// If the queue doesn't exist.
    pub async fn purge(&self, queue: &str) -> u32 {
        self.channel
            .queue_purge(queue.into(), QueuePurgeOptions::default())
            .await
            .unwrap_or_else(|error| panic!("{queue} can't be purged: {error}"))
    }

    async fn send(
        &self,
        exchange: &str,
        routing_key: &str,
        body: &[u8],
        properties: BasicProperties,
    ) -> PublisherConfirm {
        let mandatory = BasicPublishOptions {
            mandatory: true,
            ..BasicPublishOptions::default()
        };
        let properties = match properties.delivery_mode() {
            Some(_) => properties,
            None => properties.with_delivery_mode(2),
        };
        self.channel
            .basic_publish(
                exchange.into(),
                routing_key.into(),
                mandatory,
                body,
                properties,
            )
            .await
            .unwrap_or_else(|error| panic!("publishing to {exchange} failed: {error}"))
    }

    async fn get(&self, queue: &str, options: BasicGetOptions) -> Option<BasicGetMessage> {
        self.channel
            .basic_get(queue.into(), options)
            .await
            .unwrap_or_else(|error| panic!("{queue} can't be read: {error}"))
    }
}

async fn confirming_channel(connection: &Connection) -> Channel {
    let channel = connection
        .create_channel()
        .await
        .expect("a fresh connection has channels");
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await
        .expect("RabbitMQ confirms");
    channel
}

async fn confirmed(sent: PublisherConfirm) {
    let confirmation = sent
        .await
        .unwrap_or_else(|error| panic!("no confirm: {error}"));
    assert!(confirmation.is_ack(), "the broker refused a message");
    let returned = confirmation.take_message();
    assert!(
        returned.is_none(),
        "no queue took a message: {}",
        returned.map_or(String::new(), |message| message.reply_text.to_string())
    );
}

fn message(got: BasicGetMessage) -> Message {
    let delivery = got.delivery;
    Message {
        body: delivery.data,
        exchange: delivery.exchange.to_string(),
        routing_key: delivery.routing_key.to_string(),
        properties: delivery.properties,
        redelivered: delivery.redelivered,
    }
}

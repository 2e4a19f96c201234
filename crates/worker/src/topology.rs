//! The exchanges and queues of the contract (section 1): names and arguments never change under one name. Every
//! publisher and consumer declares what it uses, or only checks it when `amqp.declare` is off.

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, ErrorKind, ExchangeKind};

use crate::settings::AmqpSettings;

/// Direct exchange in front of both dead-letter queues.
pub const DEAD_EXCHANGE: &str = "postrider.dead";
/// What is no event, and what the broker gave up.
pub const DEAD_EVENTS_QUEUE: &str = "postrider.events.dead";
/// A copy of each delivery given up: a feed for others, the ledger is the record.
pub const DEAD_DELIVERIES_QUEUE: &str = "postrider.deliveries.dead";
/// Topic exchange of what happens to subscriptions.
pub const NOTICES_EXCHANGE: &str = "postrider.notices";
/// Routing key of [`DEAD_EVENTS_QUEUE`].
pub const DEAD_EVENTS_KEY: &str = "events";
/// Routing key of [`DEAD_DELIVERIES_QUEUE`].
pub const DEAD_DELIVERIES_KEY: &str = "deliveries";

const GIB: i64 = 1 << 30;
const WEEK_MS: i64 = 7 * 24 * 3600 * 1000;
/// Redeliveries before the broker gives a message up: a guard against what kills workers, never a retry counter.
pub(crate) const DELIVERY_LIMIT: i64 = 50;

/// Declares (idempotent) all that is published to or consumed from, or checks that it is there.
///
/// With more than one queue nothing is bound to them: the operator puts a consistent-hash exchange in front.
///
/// # Errors
/// The broker's: 406 where a name exists with other arguments, 404 where only checking and it is absent. Either closes
/// the channel.
pub async fn ensure(channel: &Channel, settings: &AmqpSettings) -> Result<(), lapin::Error> {
    if settings.declare {
        declare(channel, settings).await
    } else {
        check(channel, settings).await
    }
}

/// Declares everything. See [`ensure`].
///
/// # Errors
/// 406 where a name exists with other arguments.
pub async fn declare(channel: &Channel, settings: &AmqpSettings) -> Result<(), lapin::Error> {
    for (name, kind) in exchanges(settings) {
        exchange(channel, name, kind, false).await?;
    }
    for (name, arguments) in queues(settings) {
        queue(channel, name, arguments, false).await?;
    }
    bind(channel, DEAD_EVENTS_QUEUE, DEAD_EXCHANGE, DEAD_EVENTS_KEY).await?;
    bind(
        channel,
        DEAD_DELIVERIES_QUEUE,
        DEAD_EXCHANGE,
        DEAD_DELIVERIES_KEY,
    )
    .await?;
    if let [queue] = settings.queues.as_slice() {
        bind(channel, queue, &settings.exchange, "#").await?;
    }
    Ok(())
}

/// Checks that everything is there, without a look at the arguments.
///
/// # Errors
/// 404 for the first that is absent.
pub async fn check(channel: &Channel, settings: &AmqpSettings) -> Result<(), lapin::Error> {
    for (name, kind) in exchanges(settings) {
        exchange(channel, name, kind, true).await?;
    }
    for (name, arguments) in queues(settings) {
        queue(channel, name, arguments, true).await?;
    }
    Ok(())
}

/// What would make [`declare`] fail: of all that is there, the names that can't be declared again, with the broker's
/// answer. Nothing is made or bound.
///
/// # Errors
/// The connection's.
pub async fn conflicts(
    connection: &Connection,
    settings: &AmqpSettings,
) -> Result<Vec<(String, lapin::Error)>, lapin::Error> {
    let mut conflicts = Vec::new();
    let mut note = |name: &str, declared: Result<(), lapin::Error>| match declared {
        Err(error) if !is_refused(&error, AMQPSoftError::NOTFOUND) => {
            conflicts.push((name.to_owned(), error));
        }
        Ok(()) | Err(_) => {}
    };
    // Each on a channel of its own, which a refusal closes; what is absent is refused when passive, and not made.
    for (name, kind) in exchanges(settings) {
        let channel = connection.create_channel().await?;
        let declared = match exchange(&channel, name, kind.clone(), true).await {
            Ok(()) => exchange(&channel, name, kind, false).await,
            absent => absent,
        };
        note(name, declared);
    }
    for (name, arguments) in queues(settings) {
        let channel = connection.create_channel().await?;
        let declared = match queue(&channel, name, arguments.clone(), true).await {
            Ok(()) => queue(&channel, name, arguments, false).await,
            absent => absent,
        };
        note(name, declared);
    }
    Ok(conflicts)
}

/// Whether the broker answered so.
pub fn is_refused(error: &lapin::Error, code: AMQPSoftError) -> bool {
    matches!(error.kind(), ErrorKind::ProtocolError(error)
        if *error.kind() == AMQPErrorKind::Soft(code))
}

/// How many messages are ready in `queue`.
///
/// # Errors
/// 404 where it is absent.
pub async fn depth(channel: &Channel, queue: &str) -> Result<u32, lapin::Error> {
    let options = QueueDeclareOptions {
        passive: true,
        ..QueueDeclareOptions::default()
    };
    let queue = channel
        .queue_declare(queue.into(), options, FieldTable::default())
        .await?;
    Ok(queue.message_count())
}

fn exchanges(settings: &AmqpSettings) -> [(&str, ExchangeKind); 3] {
    [
        (&settings.exchange, ExchangeKind::Topic),
        (DEAD_EXCHANGE, ExchangeKind::Direct),
        (NOTICES_EXCHANGE, ExchangeKind::Topic),
    ]
}

fn queues(settings: &AmqpSettings) -> Vec<(&str, FieldTable)> {
    let mut queues = vec![
        (DEAD_EVENTS_QUEUE, dead_events_arguments()),
        (DEAD_DELIVERIES_QUEUE, dead_deliveries_arguments()),
    ];
    let events = settings.queues.iter();
    queues.extend(events.map(|queue| (queue.as_str(), events_arguments())));
    queues
}

/// Passive: asks only whether it is there; the broker ignores the kind then.
async fn exchange(
    channel: &Channel,
    name: &str,
    kind: ExchangeKind,
    passive: bool,
) -> Result<(), lapin::Error> {
    let options = ExchangeDeclareOptions {
        durable: true,
        passive,
        ..ExchangeDeclareOptions::default()
    };
    channel
        .exchange_declare(name.into(), kind, options, FieldTable::default())
        .await
}

async fn queue(
    channel: &Channel,
    name: &str,
    arguments: FieldTable,
    passive: bool,
) -> Result<(), lapin::Error> {
    let options = QueueDeclareOptions {
        durable: true,
        passive,
        ..QueueDeclareOptions::default()
    };
    channel
        .queue_declare(name.into(), options, arguments)
        .await?;
    Ok(())
}

async fn bind(
    channel: &Channel,
    queue: &str,
    exchange: &str,
    key: &str,
) -> Result<(), lapin::Error> {
    channel
        .queue_bind(
            queue.into(),
            exchange.into(),
            key.into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        )
        .await
}

fn events_arguments() -> FieldTable {
    table(&[
        ("x-queue-type", text("quorum")),
        ("x-dead-letter-exchange", text(DEAD_EXCHANGE)),
        ("x-dead-letter-routing-key", text(DEAD_EVENTS_KEY)),
        ("x-dead-letter-strategy", text("at-least-once")),
        ("x-overflow", text("reject-publish")),
        ("x-delivery-limit", AMQPValue::LongLongInt(DELIVERY_LIMIT)),
    ])
}

fn dead_events_arguments() -> FieldTable {
    table(&[
        ("x-queue-type", text("quorum")),
        ("x-max-length-bytes", AMQPValue::LongLongInt(GIB)),
        ("x-overflow", text("reject-publish")),
    ])
}

fn dead_deliveries_arguments() -> FieldTable {
    table(&[
        ("x-queue-type", text("quorum")),
        ("x-message-ttl", AMQPValue::LongLongInt(WEEK_MS)),
        ("x-max-length-bytes", AMQPValue::LongLongInt(GIB)),
        ("x-overflow", text("drop-head")),
    ])
}

fn table(entries: &[(&str, AMQPValue)]) -> FieldTable {
    let mut table = FieldTable::default();
    for (key, value) in entries {
        table.insert((*key).into(), value.clone());
    }
    table
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

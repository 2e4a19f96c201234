//! One queue: connect, declare, consume, ack; and on any error or end of the stream drop the connection, back off, and
//! begin anew, for as long as it takes. A settle that comes for a channel that is gone is dropped, never carried over.
//!
//! A process starts with prefetch 1 and widens at once after a message that wasn't redelivered three times. While all
//! that come were, it widens twofold for each windowful that was settled: in a crash loop the message that kills the
//! process is soon alone in the window, so that only it climbs to the broker's delivery limit; and a window that was
//! redelivered because the broker was cut off three times is not taken one by one for hours. A connection that ends
//! under a living process halves the prefetch only, for the same reason.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, Consumer};
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;
use webhook::{NoEventReason, TraceParent};

use crate::ack::AckWindow;
use crate::broker::{ConnectError, answered, connect};
use crate::dead_letter::DeadLetters;
use crate::ingest::{Incoming, Ingest};
use crate::message::{Hold, Verdict, Verdicts};
use crate::pauses::{self, Pauses};
use crate::readiness::{Part, Readiness};
use crate::run::Stop;
use crate::settings::AmqpSettings;
use crate::topology;

/// Redelivered as often as this, a message is suspected of killing workers.
const SUSPECT_COUNT: i64 = 3;
const CLOSE_LIMIT: Duration = Duration::from_secs(2);
/// A message given back at once would come back at once: a panic must not become a hot loop.
const GIVE_BACK_PAUSE: Duration = Duration::from_secs(1);
const REFUSED_DETAIL: &str = "Postgres refuses this event's record for its data";

/// Consumes one queue.
pub(crate) struct QueueConsumer {
    pub(crate) queue: String,
    pub(crate) settings: AmqpSettings,
    pub(crate) ingest: Arc<Ingest>,
    pub(crate) dead_letters: Arc<DeadLetters>,
    pub(crate) tracker: TaskTracker,
    pub(crate) readiness: Readiness,
    pub(crate) stop: Stop,
}

/// One channel's life.
struct Session {
    channel: Channel,
    consumer: Consumer,
    window: AckWindow,
    verdicts: Verdicts,
    heard: mpsc::UnboundedReceiver<Verdict>,
    /// What the consumer was told.
    prefetch: u16,
    /// Messages settled since it was.
    settled: u16,
    /// Tags whose message the broker gives up if it comes back once more.
    last_chances: HashSet<u64>,
    /// Given back while stopping: closing the channel returns them.
    left: u64,
}

impl QueueConsumer {
    /// Consumes until the worker stops and what it holds is settled or given up. Returns how many messages were left
    /// to the broker.
    pub(crate) async fn run(self) -> u64 {
        let mut waits = pauses::reconnect();
        let mut prefetch = 1;
        loop {
            self.not_consumed("connecting");
            let error = match self.session(&mut waits, &mut prefetch).await {
                Ok(left) => return left,
                Err(error) => error,
            };
            if self.stop.intake.is_cancelled() {
                return 0;
            }
            let wait = waits.next().unwrap_or(CLOSE_LIMIT);
            tracing::warn!(%error, queue = self.queue, retry_in_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX), "not consuming; will connect again. {}", advice(&error));
            self.not_consumed(&error.to_string());
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.stop.intake.cancelled() => return 0,
            }
        }
    }

    fn not_consumed(&self, reason: &str) {
        let sentence = format!("queue {} is not consumed: {reason}", self.queue);
        self.readiness.not_ready(Part::queue(&self.queue), sentence);
    }

    /// One connection from its making to its end, begun with `prefetch`, which then is what to begin the next one with.
    /// `Ok` only after a stop.
    async fn session(&self, waits: &mut Pauses, prefetch: &mut u16) -> Result<u64, ConnectError> {
        // May be cancelled: nothing was taken in yet, and what is dropped half made is the broker's to clean up.
        let (connection, channel, consumer) = tokio::select! {
            begun = self.begin(*prefetch) => begun?,
            () = self.stop.intake.cancelled() => return Ok(0),
        };
        self.readiness.ready(&Part::queue(&self.queue));
        tracing::info!(queue = self.queue, "consuming");
        let (verdicts, heard) = mpsc::unbounded_channel();
        let mut session = Session {
            channel,
            consumer,
            window: AckWindow::new(self.settings.prefetch),
            verdicts,
            heard,
            prefetch: *prefetch,
            settled: 0,
            last_chances: HashSet::new(),
            left: 0,
        };

        *waits = pauses::reconnect();
        let taken_in = self.take_in(&mut session).await;
        *prefetch = (session.prefetch / 2).max(1);
        taken_in?;
        let left = self.drain(&mut session).await?;
        // At best a courtesy: what isn't acked is the broker's either way.
        drop(tokio::time::timeout(CLOSE_LIMIT, connection.close(200, "bye".into())).await);
        Ok(left)
    }

    async fn begin(&self, prefetch: u16) -> Result<(Connection, Channel, Consumer), ConnectError> {
        let name = format!("postrider worker {}", self.queue);
        let connection = connect(&self.settings, &name).await?;
        let (channel, consumer) = answered(async {
            let channel = connection.create_channel().await?;
            topology::ensure(&channel, &self.settings).await?;
            let consumer = self.consume(&channel, prefetch).await?;
            Ok::<_, lapin::Error>((channel, consumer))
        })
        .await?;
        Ok((connection, channel, consumer))
    }

    async fn consume(&self, channel: &Channel, prefetch: u16) -> Result<Consumer, lapin::Error> {
        channel
            .basic_qos(prefetch, BasicQosOptions::default())
            .await?;
        let tag = format!("postrider-{prefetch}");
        channel
            .basic_consume(
                self.queue.as_str().into(),
                tag.into(),
                BasicConsumeOptions::default(),
                FieldTable::default(),
            )
            .await
    }

    /// Takes messages in and acks what is settled, until intake stops.
    async fn take_in(&self, session: &mut Session) -> Result<(), ConnectError> {
        loop {
            let look_again = session.window.look_again().unwrap_or(Duration::MAX);
            // All branches are cancel-safe: streams and channels lose nothing when a `next` is dropped.
            tokio::select! {
                biased;
                () = self.stop.intake.cancelled() => return Ok(()),
                verdict = session.heard.recv() => {
                    if let Some(verdict) = verdict {
                        self.hear(session, verdict).await?;
                    }
                }
                delivery = session.consumer.next() => match delivery {
                    Some(delivery) => {
                        let delivery = delivery?;
                        let suspected = delivery_count(&delivery) >= SUSPECT_COUNT;
                        self.take(session, delivery);
                        if !suspected {
                            self.widen(session, self.settings.prefetch).await?;
                        }
                    }
                    None => return Err(ConnectError::Cancelled),
                },
                () = tokio::time::sleep(look_again.min(Duration::from_secs(3600))) => {}
            }
            self.ack(session).await?;
            if session.settled >= session.prefetch {
                self.widen(session, session.prefetch.saturating_mul(2))
                    .await?;
            }
        }
    }

    /// After the stop: no new messages, but those in hand are acked as they are settled.
    async fn drain(&self, session: &mut Session) -> Result<u64, ConnectError> {
        let tag = session.consumer.tag();
        let options = BasicCancelOptions::default();
        // May be given up: the consumer ends with its connection.
        tokio::select! {
            cancelled = answered(session.channel.basic_cancel(tag, options)) => cancelled?,
            () = self.stop.abort.cancelled() => return Ok(session.window.unacked() as u64),
        }
        while session.window.unacked() as u64 > session.left {
            let look_again = session.window.look_again().unwrap_or(CLOSE_LIMIT);
            tokio::select! {
                biased;
                verdict = session.heard.recv() => {
                    if let Some(verdict) = verdict {
                        self.hear(session, verdict).await?;
                    }
                }
                () = self.stop.abort.cancelled() => break,
                () = tokio::time::sleep(look_again) => {}
            }
            self.ack(session).await?;
        }
        Ok(session.window.unacked() as u64)
    }

    /// Consumes with a larger prefetch, at most the configured one.
    async fn widen(&self, session: &mut Session, prefetch: u16) -> Result<(), ConnectError> {
        session.settled = 0;
        let prefetch = prefetch.min(self.settings.prefetch);
        if prefetch <= session.prefetch {
            return Ok(());
        }
        let narrow = session.consumer.tag();
        let options = BasicCancelOptions::default();
        answered(session.channel.basic_cancel(narrow, options)).await?;
        // What was on its way to the narrow consumer; its stream ends behind that.
        while let Some(delivery) = session.consumer.next().await {
            self.take(session, delivery?);
        }
        session.consumer = answered(self.consume(&session.channel, prefetch)).await?;
        session.prefetch = prefetch;
        Ok(())
    }

    fn take(&self, session: &mut Session, delivery: Delivery) {
        let tag = delivery.delivery_tag;
        session.window.received(tag);
        if delivery_count(&delivery) >= topology::DELIVERY_LIMIT {
            session.last_chances.insert(tag);
        }
        let trace = trace_parent(&delivery.properties);
        let body = Bytes::from(delivery.data);
        let incoming = Incoming {
            hold: Hold::new(tag, body, session.verdicts.clone()),
            redelivered: delivery.redelivered,
            timestamp: *delivery.properties.timestamp(),
            trace,
        };
        self.ingest.take(incoming, &self.queue);
    }

    async fn hear(&self, session: &mut Session, verdict: Verdict) -> Result<(), lapin::Error> {
        match verdict {
            Verdict::Settled(tag) => {
                session.last_chances.remove(&tag);
                session.settled = session.settled.saturating_add(1);
                session.window.settled(tag, Instant::now());
            }
            Verdict::Refused(hold) => {
                let dead_letters = Arc::clone(&self.dead_letters);
                self.tracker.spawn(async move {
                    dead_letters
                        .no_event(*hold, NoEventReason::LedgerRefused, REFUSED_DETAIL)
                        .await;
                });
            }
            Verdict::Dropped(tag) => {
                // It stays in the window until the broker has it back: no `multiple` may go over it.
                if self.stop.intake.is_cancelled() {
                    session.left += 1;
                } else {
                    self.give_back(session.verdicts.clone(), tag);
                }
            }
            Verdict::GiveBack(tag) => {
                let options = BasicNackOptions {
                    requeue: true,
                    ..BasicNackOptions::default()
                };
                session.channel.basic_nack(tag, options).await?;
                session.window.given_back(tag);
                if session.last_chances.remove(&tag) {
                    tracing::error!(
                        queue = self.queue,
                        "a message was given back once too often: the broker dead-letters it; the panics before this tell why"
                    );
                    self.dead_letters.metrics.dead_letter("delivery_limit");
                }
            }
        }
        Ok(())
    }

    fn give_back(&self, verdicts: Verdicts, tag: u64) {
        self.tracker.spawn(async move {
            tokio::time::sleep(GIVE_BACK_PAUSE).await;
            // On a dead channel the broker has it back already.
            drop(verdicts.send(Verdict::GiveBack(tag)));
        });
    }

    /// Acks everything that is settled, after hearing all verdicts that are there: fewer, larger frames.
    async fn ack(&self, session: &mut Session) -> Result<(), lapin::Error> {
        while let Ok(verdict) = session.heard.try_recv() {
            self.hear(session, verdict).await?;
        }
        for frame in session.window.frames(Instant::now()) {
            let options = BasicAckOptions {
                multiple: frame.multiple,
            };
            session.channel.basic_ack(frame.tag, options).await?;
        }
        Ok(())
    }
}

fn delivery_count(delivery: &Delivery) -> i64 {
    let headers = delivery.properties.headers().as_ref();
    let count = headers.and_then(|headers| headers.inner().get("x-delivery-count"));
    match count {
        Some(AMQPValue::LongLongInt(count)) => *count,
        Some(AMQPValue::LongInt(count)) => i64::from(*count),
        Some(AMQPValue::LongUInt(count)) => i64::from(*count),
        Some(AMQPValue::ShortInt(count)) => i64::from(*count),
        Some(AMQPValue::ShortShortInt(count)) => i64::from(*count),
        _ => 0,
    }
}

/// As OpenTelemetry's instrumentations of AMQP clients write it.
fn trace_parent(properties: &BasicProperties) -> Option<TraceParent> {
    let headers = properties.headers().as_ref()?;
    match headers.inner().get("traceparent")? {
        AMQPValue::LongString(value) => TraceParent::parse(value.as_bytes()),
        AMQPValue::ShortString(value) => TraceParent::parse(value.as_str().as_bytes()),
        AMQPValue::ByteArray(value) => TraceParent::parse(value.as_slice()),
        _ => None,
    }
}

/// What the one who reads the log can do about it.
fn advice(error: &ConnectError) -> &'static str {
    match error {
        ConnectError::Url | ConnectError::CaFile(_) => "Mend the setting and restart.",
        ConnectError::Cancelled => "The queue was deleted or moved.",
        ConnectError::TimedOut => "Check that RabbitMQ runs and amqp.url names it.",
        ConnectError::Broker(_) => {
            "Check that RabbitMQ runs, that amqp.url is right, and that nobody declared these names with other arguments."
        }
    }
}

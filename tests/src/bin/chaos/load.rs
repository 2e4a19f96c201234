//! A producer that publishes at a steady rate for as long as the broker lets it, and knows which of its events were
//! confirmed. Each is published once: what was sent but not confirmed when a connection ended may have arrived or not.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

pub(crate) const ENV: &str = "env-1";
pub(crate) const PUBLISHED: &str = "card-published";
pub(crate) const SCANNED: &str = "card-scanned";
pub(crate) const COMPLETED: &str = "card-completed";
const EXCHANGE: &str = "analytics.events";

/// One event in so many is a scan, and of the others one in so many a completion.
const SCANNED_EVERY: u32 = 20;
const COMPLETED_EVERY: u32 = 6;
/// Five each 50 ms: 100 a second.
const BATCH: usize = 5;
const TICK: Duration = Duration::from_millis(50);
/// Unconfirmed at a time.
const WINDOW: usize = 500;
/// Connecting, and any publishing.
const LIMIT: Duration = Duration::from_secs(10);
/// Without a single confirm the connection is given up.
const CONFIRM_LIMIT: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(200);

/// What was published.
#[derive(Clone, Default)]
pub(crate) struct Load(Arc<Mutex<Published>>);

#[derive(Default)]
struct Published {
    next: u32,
    confirmed: Vec<u32>,
    unroutable: u64,
}

impl Load {
    /// The numbers of the events that the broker has taken over.
    pub(crate) fn confirmed(&self) -> Vec<u32> {
        self.published().confirmed.clone()
    }

    /// How many those are.
    pub(crate) fn confirmed_count(&self) -> usize {
        self.published().confirmed.len()
    }

    /// How many were sent without a word from the broker.
    pub(crate) fn unconfirmed_count(&self) -> usize {
        let published = self.published();
        published.next as usize - published.confirmed.len()
    }

    /// How many no queue took.
    pub(crate) fn unroutable_count(&self) -> u64 {
        self.published().unroutable
    }

    /// Publishes until it is told to stop, then waits for what is outstanding.
    pub(crate) async fn run(self, url: String, stop: CancellationToken) {
        // An error is the fault at work: what it concerned stays unconfirmed.
        while self.session(&url, &stop).await.is_err() && !stop.is_cancelled() {
            sleep(PAUSE).await;
        }
    }

    async fn session(&self, url: &str, stop: &CancellationToken) -> anyhow::Result<()> {
        let properties = ConnectionProperties::default().with_connection_name("producer".into());
        let connection = timeout(LIMIT, Connection::connect(url, properties)).await??;
        let channel = timeout(LIMIT, connection.create_channel()).await??;
        timeout(
            LIMIT,
            channel.confirm_select(ConfirmSelectOptions::default()),
        )
        .await??;

        let mut outstanding = FuturesUnordered::new();
        let mut heard = Instant::now();
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let stopping = stop.is_cancelled();
            if stopping && outstanding.is_empty() {
                return Ok(());
            }
            // All branches are cancel-safe: ticks, streams and sleeps.
            tokio::select! {
                _ = ticks.tick() => {
                    if outstanding.is_empty() {
                        heard = Instant::now();
                    }
                    if !stopping && outstanding.len() < WINDOW {
                        for _ in 0..BATCH {
                            let event = self.next();
                            let sent = timeout(LIMIT, publish(&channel, event)).await??;
                            outstanding.push(async move { (event, sent.await) });
                        }
                    }
                }
                Some((event, confirmation)) = outstanding.next() => {
                    heard = Instant::now();
                    self.note(event, &confirmation?);
                }
                () = sleep_until(heard + CONFIRM_LIMIT) => anyhow::bail!("no confirms"),
            }
        }
    }

    fn next(&self) -> u32 {
        let mut published = self.published();
        published.next += 1;
        published.next
    }

    fn note(&self, event: u32, confirmation: &Confirmation) {
        let mut published = self.published();
        match confirmation {
            Confirmation::Ack(None) => published.confirmed.push(event),
            Confirmation::Ack(Some(_)) => published.unroutable += 1,
            Confirmation::Nack(_) | Confirmation::NotRequested => {}
        }
    }

    fn published(&self) -> MutexGuard<'_, Published> {
        self.0.lock().expect("no panic while it is held")
    }
}

/// The type of the event of that number.
pub(crate) fn event_type(event: u32) -> &'static str {
    if event.is_multiple_of(SCANNED_EVERY) {
        SCANNED
    } else if event.is_multiple_of(COMPLETED_EVERY) {
        COMPLETED
    } else {
        PUBLISHED
    }
}

async fn publish(channel: &Channel, event: u32) -> Result<lapin::PublisherConfirm, lapin::Error> {
    let kind = event_type(event);
    let body = format!(
        r#"{{"environmentId":"{ENV}","data":{{"id":"ev-{event}","analyticsEvent":"{kind}","timestamp":"2026-03-01T12:00:00.000Z"}}}}"#
    );
    let options = BasicPublishOptions {
        mandatory: true,
        ..BasicPublishOptions::default()
    };
    let persistent = BasicProperties::default().with_delivery_mode(2);
    channel
        .basic_publish(
            EXCHANGE.into(),
            kind.into(),
            options,
            body.as_bytes(),
            persistent,
        )
        .await
}

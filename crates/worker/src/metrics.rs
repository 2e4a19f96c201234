//! All of the metrics: one function each; what they are called and tell stands in the catalogue. Labels are closed sets
//! (no tenant, URL, host or id), and every series is there at 0 from the start.
//!
//! Handles are registered once, so that counting on the path is one atomic addition.

mod catalogue;

use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use webhook::{DeadReason, Outcome};

pub use catalogue::{CATALOGUE, Kind, Label, Metric, PROCESS, Values};
use catalogue::{EVENTS, PARTS, PUBLISHED, PUBLISHING, SETTLEMENTS, dead_reasons, describe};

use crate::topology::{DEAD_DELIVERIES_QUEUE, DEAD_EVENTS_QUEUE};

/// Buckets of all `*_seconds` histograms: 1 ms to 60 s.
pub const SECONDS_BUCKETS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 30.0, 60.0,
];

/// Buckets of `postrider_ledger_commit_rows`.
pub const ROWS_BUCKETS: &[f64] = &[1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0];

/// What became of an event, as a label.
#[derive(Clone, Copy, Debug)]
pub(crate) enum EventOutcome {
    Matched,
    Unmatched,
    Dead,
}

/// The settlement words of the contract, as labels.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Settled {
    Delivered,
    Retry,
    Dead,
    Held,
    Cancelled,
}

/// What is published to RabbitMQ, as a label.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Published {
    NoEvent,
    DeadDelivery,
    Notice,
}

/// How a publication ended, as a label.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Publishing {
    Confirmed,
    Refused,
    Failed,
}

/// Registers and describes every series, so that all are exposed at 0. Call it after the recorder is installed.
///
/// `queues` are the configured ones, `version` is what runs.
pub fn describe_and_zero(queues: &[String], version: &'static str) {
    describe();
    let metrics = Metrics::register();
    metrics.zero(queues);
    serves(false, false);
    ready(false);
    gauge!("postrider_build_info", "version" => version).set(1.0);
}

/// Tells which parts this process runs.
pub fn serves(worker: bool, api: bool) {
    for (part, runs) in PARTS.into_iter().zip([worker, api]) {
        gauge!("postrider_serves", "part" => part).set(f64::from(u8::from(runs)));
    }
}

/// Tells whether this process is ready.
pub fn ready(ready: bool) {
    gauge!("postrider_ready").set(f64::from(u8::from(ready)));
}

/// The handles. One per worker.
pub(crate) struct Metrics {
    events: [Counter; 3],
    event_age: Histogram,
    deliveries: [Counter; 5],
    attempts: Vec<Counter>,
    attempt_duration: Histogram,
    first_attempt_lag: Histogram,
    delivery_lag: Histogram,
    in_flight: Gauge,
    due: Gauge,
    held: Gauge,
    rate_limited: Gauge,
    oldest_due: Gauge,
    commit_duration: Histogram,
    commit_rows: Histogram,
    partitions_ahead: Gauge,
    outbox: Gauge,
    publications: [[Counter; 3]; 3],
    publication_duration: Histogram,
    circuits_open: Gauge,
    cached: Gauge,
    paused: Gauge,
    amqp: Gauge,
    postgres: Gauge,
}

impl Metrics {
    /// Registers the handles with the recorder that is installed.
    pub(crate) fn register() -> Self {
        let event =
            |word: &'static str| counter!("postrider_events_consumed_total", "outcome" => word);
        let delivery =
            |word: &'static str| counter!("postrider_deliveries_total", "settlement" => word);
        let publication = |what: &'static str, result: &'static str| counter!("postrider_publications_total", "what" => what, "result" => result);
        Self {
            events: EVENTS.map(event),
            event_age: histogram!("postrider_event_age_seconds"),
            deliveries: SETTLEMENTS.map(delivery),
            attempts: Outcome::ALL
                .iter()
                .map(|outcome| counter!("postrider_attempts_total", "outcome" => outcome.as_str()))
                .collect(),
            attempt_duration: histogram!("postrider_attempt_duration_seconds"),
            first_attempt_lag: histogram!("postrider_first_attempt_lag_seconds"),
            delivery_lag: histogram!("postrider_delivery_lag_seconds"),
            in_flight: gauge!("postrider_attempts_in_flight"),
            due: gauge!("postrider_ledger_due"),
            held: gauge!("postrider_ledger_held"),
            rate_limited: gauge!("postrider_ledger_rate_limited"),
            oldest_due: gauge!("postrider_ledger_oldest_due_seconds"),
            commit_duration: histogram!("postrider_ledger_commit_duration_seconds"),
            commit_rows: histogram!("postrider_ledger_commit_rows"),
            partitions_ahead: gauge!("postrider_ledger_partitions_ahead"),
            outbox: gauge!("postrider_outbox_pending"),
            publications: PUBLISHED.map(|what| PUBLISHING.map(|result| publication(what, result))),
            publication_duration: histogram!("postrider_publication_duration_seconds"),
            circuits_open: gauge!("postrider_circuits_open"),
            cached: gauge!("postrider_subscriptions_cached"),
            paused: gauge!("postrider_subscriptions_paused"),
            amqp: gauge!("postrider_amqp_connected"),
            postgres: gauge!("postrider_postgres_connected"),
        }
    }

    fn zero(&self, queues: &[String]) {
        for gauge in [
            &self.in_flight,
            &self.due,
            &self.held,
            &self.rate_limited,
            &self.oldest_due,
            &self.partitions_ahead,
            &self.outbox,
            &self.circuits_open,
            &self.cached,
            &self.paused,
            &self.amqp,
            &self.postgres,
        ] {
            gauge.set(0.0);
        }
        for reason in dead_reasons() {
            dead_letters(reason).absolute(0);
        }
        let dead = [DEAD_EVENTS_QUEUE, DEAD_DELIVERIES_QUEUE];
        for queue in queues.iter().map(String::as_str).chain(dead) {
            self.queue_messages(queue, 0);
        }
    }

    pub(crate) fn event(&self, outcome: EventOutcome) {
        self.events[outcome as usize].increment(1);
    }

    pub(crate) fn event_age(&self, seconds: f64) {
        self.event_age.record(seconds.max(0.0));
    }

    pub(crate) fn settled(&self, settled: Settled) {
        self.deliveries[settled as usize].increment(1);
    }

    /// What the standing sweep did.
    pub(crate) fn swept(&self, swept: &store::Swept) {
        self.deliveries[Settled::Held as usize].increment(u64::from(swept.held));
        self.deliveries[Settled::Cancelled as usize].increment(u64::from(swept.cancelled));
        for (reason, dead) in [
            (DeadReason::Gone, swept.gone),
            (DeadReason::HeldTooLong, swept.held_too_long),
        ] {
            self.deliveries[Settled::Dead as usize].increment(u64::from(dead));
            dead_letters(reason.as_str()).increment(u64::from(dead));
        }
    }

    /// What waited for its turn for too long, by a rate limit.
    pub(crate) fn overdue(&self, dead: u32) {
        self.deliveries[Settled::Dead as usize].increment(u64::from(dead));
        dead_letters(DeadReason::TooOld.as_str()).increment(u64::from(dead));
    }

    pub(crate) fn attempt_begins(&self) {
        self.in_flight.increment(1.0);
    }

    pub(crate) fn attempt_left(&self) {
        self.in_flight.decrement(1.0);
    }

    pub(crate) fn attempt(&self, outcome: Outcome, duration: Duration) {
        if let Some(at) = Outcome::ALL.iter().position(|other| *other == outcome) {
            self.attempts[at].increment(1);
        }
        self.attempt_duration.record(duration);
    }

    pub(crate) fn first_attempt_lag(&self, lag: Duration) {
        self.first_attempt_lag.record(lag);
    }

    pub(crate) fn delivery_lag(&self, lag: Duration) {
        self.delivery_lag.record(lag);
    }

    pub(crate) fn commit(&self, rows: usize, duration: Duration) {
        self.commit_duration.record(duration);
        #[expect(clippy::cast_precision_loss, reason = "some hundred rows")]
        self.commit_rows.record(rows as f64);
    }

    pub(crate) fn publication(&self, what: Published, result: Publishing, duration: Duration) {
        self.publications[what as usize][result as usize].increment(1);
        if let Publishing::Confirmed = result {
            self.publication_duration.record(duration);
        }
    }

    pub(crate) fn dead_letter(&self, reason: &'static str) {
        dead_letters(reason).increment(1);
    }

    pub(crate) fn subscriptions_cached(&self, count: u64) {
        self.cached.set(float(count));
    }

    pub(crate) fn circuits_open(&self, count: u64) {
        self.circuits_open.set(float(count));
    }

    pub(crate) fn amqp_connected(&self, connected: bool) {
        self.amqp.set(f64::from(u8::from(connected)));
    }

    pub(crate) fn postgres_connected(&self, connected: bool) {
        self.postgres.set(f64::from(u8::from(connected)));
    }

    pub(crate) fn ledger(&self, gauges: &store::LedgerGauges) {
        self.due.set(float(gauges.due));
        self.rate_limited.set(float(gauges.rate_limited));
        self.held.set(float(gauges.held));
        self.oldest_due.set(gauges.oldest_due_seconds);
        self.partitions_ahead
            .set(f64::from(gauges.partitions_ahead_days));
        self.outbox.set(float(gauges.outbox_pending));
        self.paused.set(float(gauges.subscriptions_paused));
    }

    /// `queue` is one of the configured ones or one of the two dead ones.
    pub(crate) fn queue_messages(&self, queue: &str, messages: u32) {
        gauge!("postrider_queue_messages", "queue" => queue.to_owned()).set(f64::from(messages));
    }
}

fn dead_letters(reason: &'static str) -> Counter {
    counter!("postrider_dead_letters_total", "reason" => reason)
}

#[expect(clippy::cast_precision_loss, reason = "a gauge; exact to 2^53")]
fn float(count: u64) -> f64 {
    count as f64
}

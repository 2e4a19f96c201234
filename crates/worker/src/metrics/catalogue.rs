//! What each metric is called, what it counts and what it tells: the recorder's help texts and docs/metrics.md are both
//! made of this. Labels are closed sets.

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};
use webhook::{DeadReason, NoEventReason, Outcome};

/// One metric.
#[derive(Debug)]
pub struct Metric {
    /// In full.
    pub name: &'static str,
    /// What Prometheus calls its type.
    pub kind: Kind,
    /// Of its value.
    pub unit: Unit,
    /// All that it has.
    pub labels: &'static [Label],
    /// What it counts or measures: the text of `# HELP`.
    pub help: &'static str,
    /// What an operator sees by it.
    pub tells: &'static str,
}

/// What Prometheus calls a metric's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows; starts anew with the process.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by size.
    Histogram,
}

impl Kind {
    /// As in `# TYPE`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A label and all that it may say.
#[derive(Debug)]
pub struct Label {
    /// Its name.
    pub name: &'static str,
    /// Its values.
    pub values: Values,
}

/// A label's values.
#[derive(Debug)]
pub enum Values {
    /// These words.
    Words(fn() -> Vec<&'static str>),
    /// As many as the configuration or the build says, in this sense.
    Named(&'static str),
}

/// What became of an event.
pub(super) const EVENTS: [&str; 3] = ["matched", "unmatched", "dead"];
/// The settlement words of the contract.
pub(super) const SETTLEMENTS: [&str; 5] = ["delivered", "retry", "dead", "held", "cancelled"];
/// What is published.
pub(super) const PUBLISHED: [&str; 3] = ["no_event", "dead_delivery", "notice"];
/// How that ended.
pub(super) const PUBLISHING: [&str; 3] = ["confirmed", "refused", "failed"];
/// What a process may do.
pub(super) const PARTS: [&str; 2] = ["worker", "api"];

/// Why something is a dead letter: what is no event, what was given up, and what the broker dead-lettered itself.
pub(super) fn dead_reasons() -> Vec<&'static str> {
    let events = NoEventReason::ALL.iter().map(|reason| reason.as_str());
    let deliveries = DeadReason::ALL.iter().map(|reason| reason.as_str());
    events.chain(deliveries).chain(["delivery_limit"]).collect()
}

fn outcomes() -> Vec<&'static str> {
    Outcome::ALL
        .iter()
        .map(|outcome| outcome.as_str())
        .collect()
}

const fn words(name: &'static str, words: fn() -> Vec<&'static str>) -> Label {
    Label {
        name,
        values: Values::Words(words),
    }
}

macro_rules! catalogue {
    ($($kind:ident $name:literal $unit:ident [$($label:expr),*] $help:literal, $tells:literal;)*) => {
        /// All of this process's metrics but those of the operating system's view of it.
        pub const CATALOGUE: &[Metric] = &[$(Metric {
            name: concat!("postrider_", $name),
            kind: Kind::$kind,
            unit: Unit::$unit,
            labels: &[$($label),*],
            help: $help,
            tells: $tells,
        }),*];
    };
}

catalogue! {
    Counter "events_consumed_total" Count [words("outcome", || EVENTS.to_vec())]
        "Messages read from the queues, by what became of the event",
        "How much comes in. Much `unmatched` is work for nobody; `dead` is a producer that sends what is no event";
    Histogram "event_age_seconds" Seconds []
        "From the event's time (the AMQP timestamp, else data.timestamp) to its consumption",
        "How late events already are when they arrive: a backlog in RabbitMQ, or a producer whose clock is wrong";
    Counter "deliveries_total" Count [words("settlement", || SETTLEMENTS.to_vec())]
        "Settlements written to the ledger",
        "What follows from attempts. One delivery may be a `retry` many times, and is one of the others once";
    Counter "attempts_total" Count [words("outcome", outcomes)]
        "HTTP requests that ended, by outcome",
        "What receivers answer, and why attempts fail. `refused_address` and `tls` are the subscription's own fault as a rule";
    Histogram "attempt_duration_seconds" Seconds []
        "From the start of an attempt to its outcome",
        "How slow receivers are. It ends at delivery.timeout";
    Histogram "first_attempt_lag_seconds" Seconds []
        "From an event's consumption to the start of a delivery's first request; a batch counts from when it was put together",
        "How long this worker lets an event wait, whatever its receivers do; the promise that is worth an alert. Rate-limited subscriptions don't count";
    Histogram "delivery_lag_seconds" Seconds []
        "From an event's consumption to its delivery; a batch counts from when it was put together",
        "What receivers see, retries included: above 60 s it was one of those";
    Gauge "attempts_in_flight" Count []
        "HTTP requests under way in this worker",
        "Near delivery.in_flight_max the worker is full: add workers, or see who is slow";
    Gauge "ledger_due" Count []
        "Deliveries in the whole ledger whose next attempt is due, but for those that wait for their turn by a rate limit; exact to 10,000, estimated above",
        "What workers should be doing now. It grows when there are too few, or when subscriptions are slow";
    Gauge "ledger_rate_limited" Count []
        "Deliveries in the whole ledger that wait for nothing but their turn by their subscription's rate limit; exact to 10,000, estimated above",
        "What more workers wouldn't hurry. Where it only grows, a limit is below what is asked of it";
    Gauge "ledger_held" Count []
        "Deliveries in the whole ledger that are held; exact to 10,000, estimated above",
        "What waits for a paused subscription to be resumed";
    Gauge "ledger_oldest_due_seconds" Seconds []
        "How long the oldest due delivery has been due, or events that are to be put into a batch; what waits for its turn by a rate limit isn't",
        "How late retries are. An open circuit lets its deliveries wait too";
    Gauge "ledger_partitions_ahead" Count []
        "Days after today for which history has its partitions, without a gap, at most 7",
        "Below 7 for hours: the maintenance fails. At 0 the first commit of the new day has to make its own";
    Histogram "ledger_commit_duration_seconds" Seconds []
        "Time of one group commit",
        "How fast Postgres is. Acks wait for it, first attempts don't";
    Histogram "ledger_commit_rows" Count []
        "Records in one group commit",
        "How well commits are shared: more records in one are less work for Postgres";
    Gauge "outbox_pending" Count []
        "Dead copies and notices that are not yet published",
        "Above 0 for long: RabbitMQ takes no dead copies or notices. The ledger has them all";
    Counter "publications_total" Count [
        words("what", || PUBLISHED.to_vec()),
        words("result", || PUBLISHING.to_vec())
    ]
        "What this worker published to RabbitMQ, by how that ended",
        "`no_event` and `refused`: postrider.events.dead is full, and such messages stay unacked. `failed`: no connection, or no confirm in time";
    Histogram "publication_duration_seconds" Seconds []
        "From the publishing of a message to RabbitMQ's confirm",
        "How fast RabbitMQ writes";
    Counter "dead_letters_total" Count [words("reason", dead_reasons)]
        "Messages that are no event, and deliveries given up, by reason",
        "What will not be delivered unless somebody does something";
    Gauge "circuits_open" Count []
        "Subscriptions whose circuit is open in this worker",
        "How many receivers are down. Many at once are more likely our own network than theirs";
    Gauge "subscriptions_cached" Count []
        "Subscriptions in this worker's memory",
        "At match.subscriptions_cached_max environments are loaded again and again";
    Gauge "subscriptions_paused" Count []
        "Subscriptions that are paused, in the whole database",
        "Whose deliveries are held until somebody resumes them";
    Gauge "queue_messages" Count [Label {
        name: "queue",
        values: Values::Named("those of amqp.queues, `postrider.events.dead`, `postrider.deliveries.dead`"),
    }]
        "Messages that are ready in a queue",
        "The backlog in RabbitMQ; in `postrider.events.dead` what is to be looked at";
    Gauge "amqp_connected" Count []
        "1 while every configured queue is consumed, else 0",
        "Whether this worker takes events in; always 0 where only the API runs";
    Gauge "postgres_connected" Count []
        "1 while Postgres answers, else 0",
        "While it is 0 no attempt starts and nothing is acked; always 0 where only the API runs";
    Gauge "ready" Count []
        "1 while /readyz answers 200, else 0",
        "Whether this process does its work; /readyz says why not";
    Gauge "serves" Count [words("part", || PARTS.to_vec())]
        "1 for each part that this process runs, else 0",
        "Tells workers from APIs, since both expose every series";
    Gauge "build_info" Count [Label {
        name: "version",
        values: Values::Named("the one that runs"),
    }]
        "1; its label tells the version",
        "Which versions run side by side";
}

/// What the operating system says of the process, described by the crate `metrics-process`: name, type, help, what it tells.
pub const PROCESS: &[(&str, Kind, &str, &str)] = &[
    (
        "process_cpu_seconds_total",
        Kind::Counter,
        "Total user and system CPU time spent in seconds.",
        "What it costs; whole seconds, so look at a minute or more",
    ),
    (
        "process_open_fds",
        Kind::Gauge,
        "Number of open file descriptors.",
        "Connections, in the main",
    ),
    (
        "process_max_fds",
        Kind::Gauge,
        "Maximum number of open file descriptors.",
        "Where the former ends; the log warns at the start if it is too low",
    ),
    (
        "process_virtual_memory_bytes",
        Kind::Gauge,
        "Virtual memory size in bytes.",
        "Little; look at the resident memory",
    ),
    (
        "process_virtual_memory_max_bytes",
        Kind::Gauge,
        "Maximum amount of virtual memory available in bytes.",
        "Nothing, as a rule",
    ),
    (
        "process_resident_memory_bytes",
        Kind::Gauge,
        "Resident memory size in bytes.",
        "What it costs; bounded by amqp.bytes_unacked_max, not by any backlog",
    ),
    (
        "process_start_time_seconds",
        Kind::Gauge,
        "Start time of the process since unix epoch in seconds.",
        "Restarts",
    ),
    (
        "process_threads",
        Kind::Gauge,
        "Number of OS threads in the process.",
        "One a processor, and a few",
    ),
];

/// Gives the recorder its help texts.
pub(super) fn describe() {
    for metric in CATALOGUE {
        let (name, unit, help) = (metric.name, metric.unit, metric.help);
        match metric.kind {
            Kind::Counter => describe_counter!(name, unit, help),
            Kind::Gauge => describe_gauge!(name, unit, help),
            Kind::Histogram => describe_histogram!(name, unit, help),
        }
    }
}

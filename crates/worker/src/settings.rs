//! What the worker is told from outside: limits, timeouts and addresses, already checked by whoever read them.
//! Defaults, units and reasons of each stand in `config/postrider.toml`.

use std::path::PathBuf;
use std::time::Duration;

use http::Uri;
use ipnet::IpNet;
use webhook::RetryPolicy;

/// Everything that the worker needs to know besides the [`store::Store`].
#[derive(Clone, Debug)]
pub struct Settings {
    /// The broker and the queues.
    pub amqp: AmqpSettings,
    /// Limits of attempts.
    pub delivery: DeliverySettings,
    /// When a failed attempt is repeated.
    pub retry: RetryPolicy,
    /// When a subscription gets probes only.
    pub circuit: CircuitSettings,
    /// Whom attempts may reach.
    pub egress: EgressSettings,
    /// How long settled deliveries are kept.
    pub retention: RetentionSettings,
    /// Where spans go.
    pub traces: TracesSettings,
    /// At most so many subscriptions are held in memory.
    pub subscriptions_cached_max: u64,
    /// From the first signal to the end of the process.
    pub shutdown_grace: Duration,
}

/// Where events come from.
#[derive(Clone)]
pub struct AmqpSettings {
    /// `amqp://` or `amqps://`; holds a password: never shown.
    pub url: String,
    /// PEM file of a private authority, beside the system's roots.
    pub ca_file: Option<PathBuf>,
    /// Producers publish here.
    pub exchange: String,
    /// The worker consumes all of these; with more than one it binds none.
    pub queues: Vec<String>,
    /// Whether to declare the topology, or only to check it.
    pub declare: bool,
    /// Messages unacked at a time, per queue.
    pub prefetch: u16,
    /// Larger messages are dead-lettered as `too_large`.
    pub message_bytes_max: usize,
}

impl std::fmt::Debug for AmqpSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AmqpSettings")
            .field("exchange", &self.exchange)
            .field("queues", &self.queues)
            .field("declare", &self.declare)
            .field("prefetch", &self.prefetch)
            .finish_non_exhaustive()
    }
}

/// Limits of attempts.
#[derive(Clone, Debug)]
pub struct DeliverySettings {
    /// The whole attempt: name, connect, TLS, head and body.
    pub timeout: Duration,
    /// Name, connect and TLS; cut by `timeout`.
    pub connect_timeout: Duration,
    /// An attempt that takes longer has its delivery written to the ledger, so that its message can be acked.
    pub handoff_after: Duration,
    /// Attempts at a time in this process.
    pub in_flight_max: usize,
    /// Attempts at a time for one subscription; what is above it waits in the ledger.
    pub in_flight_per_subscription_max: usize,
    /// At most so much of a response's body is read.
    pub response_bytes_max: usize,
}

/// When a circuit opens, and how often it is probed.
#[derive(Clone, Copy, Debug)]
pub struct CircuitSettings {
    /// Failed attempts in a row after which it opens.
    pub failures: u64,
    /// Between two probes.
    pub probe_interval: Duration,
}

impl DeliverySettings {
    /// Files that a worker may have open at worst: for each attempt at a time its connection and the two of a look-up
    /// (IPv4 and IPv6), two kept connections, and what broker, database and probes need.
    #[must_use]
    pub fn open_files_max(&self) -> u64 {
        let attempts = u64::try_from(self.in_flight_max).unwrap_or(u64::MAX);
        attempts.saturating_mul(5).saturating_add(200)
    }
}

/// Whom attempts may reach.
#[derive(Clone, Debug, Default)]
pub struct EgressSettings {
    /// Exceptions from what the guard refuses.
    pub allow: Vec<IpNet>,
    /// Refused besides. Where an address stands in both lists, the longer prefix counts, and of equal ones `deny`.
    pub deny: Vec<IpNet>,
    /// PEM file of a private authority, beside the system's roots.
    pub ca_file: Option<PathBuf>,
}

/// How long settled deliveries are kept.
#[derive(Clone, Debug)]
pub struct RetentionSettings {
    /// Deliveries and their attempts, from the day of settlement.
    pub deliveries: Duration,
    /// Bodies of settled deliveries.
    pub payloads: Duration,
    /// Held longer than this, a delivery is dead.
    pub held: Duration,
}

/// Where spans go, and how many.
#[derive(Clone, Debug, Default)]
pub struct TracesSettings {
    /// Of an OTLP collector, see [`TracesSettings::endpoint`]. Without one nothing is recorded.
    pub endpoint: Option<Uri>,
    /// The part of the events without a producer's decision that are recorded, from 0 to 1.
    pub ratio: f64,
}

impl TracesSettings {
    /// Reads a collector's URL; where it has no path, it gets OTLP's.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn endpoint(text: &str) -> Result<Uri, &'static str> {
        let uri: Uri = text.parse().map_err(|_| "can't be read as a URL")?;
        let authority = uri.authority().ok_or("names no host")?;
        if authority.as_str().contains('@') {
            return Err("must not hold a user or a password");
        }
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let path = if path == "/" { "/v1/traces" } else { path };
        let scheme = match uri.scheme_str() {
            Some(scheme @ ("http" | "https")) => scheme,
            _ => return Err("must begin with http:// or https://"),
        };
        Uri::builder()
            .scheme(scheme)
            .authority(authority.clone())
            .path_and_query(path)
            .build()
            .map_err(|_| "can't be read as a URL")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collector_s_url_gets_otlp_s_path_where_it_has_none() {
        for (text, read) in [
            (
                "http://127.0.0.1:4318",
                Ok("http://127.0.0.1:4318/v1/traces"),
            ),
            ("http://otel/", Ok("http://otel/v1/traces")),
            (
                "https://otel:4318/otlp/v1/traces",
                Ok("https://otel:4318/otlp/v1/traces"),
            ),
            ("otel:4318", Err("must begin with http:// or https://")),
            ("/v1/traces", Err("names no host")),
            (
                "grpc://otel:4317",
                Err("must begin with http:// or https://"),
            ),
            (
                "http://me:hush@otel",
                Err("must not hold a user or a password"),
            ),
            ("http://otel:4318/a b", Err("can't be read as a URL")),
        ] {
            let uri = TracesSettings::endpoint(text).map(|uri| uri.to_string());

            assert_eq!(uri.as_deref().map_err(|error| *error), read, "{text}");
        }
    }
}

//! What the operator says: the embedded defaults, a file over them, the environment over both; read once, all faults
//! told at once, and never a value in them that may be secret.

mod layers;
mod reader;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::GeneralPurpose;
use base64::engine::general_purpose::GeneralPurposeConfig;
use base64::{alphabet, engine::DecodePaddingMode};
use lapin::uri::AMQPUri;
use store::{Keyring, PostgresSettings, Store};
use webhook::RetryPolicy;

use reader::{NAME_BYTES_MAX, Reader};

/// `config/postrider.toml`: every key there is, with its default.
pub(crate) const DEFAULTS: &str = include_str!("../../../config/postrider.toml");
/// `config/development.toml`, for the demo.
pub(crate) const DEVELOPMENT: &str = include_str!("../../../config/development.toml");

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);
const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(24 * 3600);
const YEARS: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// RabbitMQ's own limit on a message, unless it is told otherwise.
const AMQP_MESSAGE_BYTES_MAX: u64 = 128 << 20;

/// Where the environment comes from; a parameter, so that tests need none.
pub(crate) type Environment = Vec<(OsString, OsString)>;

/// All settings, checked.
pub(crate) struct Config {
    pub(crate) worker: worker::Settings,
    pub(crate) postgres: PostgresSettings,
    /// Empty where none is set: whatever touches subscriptions then refuses to start, see [`Config::store`].
    secret_keys: Vec<[u8; 32]>,
    pub(crate) api: api::ApiSettings,
    pub(crate) api_listen: SocketAddr,
    pub(crate) admin_listen: SocketAddr,
    pub(crate) log: LogSettings,
}

/// How to log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LogSettings {
    pub(crate) json: bool,
    /// A directive of `tracing_subscriber::EnvFilter`.
    pub(crate) level: String,
}

/// Everything that is wrong, one sentence each, each naming its key.
#[derive(Debug, thiserror::Error)]
#[error("the configuration can't be used:\n  {}", .0.join("\n  "))]
pub(crate) struct ConfigError(pub(crate) Vec<String>);

impl Config {
    /// Reads the layers: the defaults, `under` (the demo's), the file of `--config`, the environment.
    ///
    /// # Errors
    /// All faults of all layers and values at once.
    pub(crate) fn load(
        under: Option<&str>,
        file: Option<&Path>,
        environment: &Environment,
    ) -> Result<Self, ConfigError> {
        let mut faults = Vec::new();
        let values = layers::merge(under, file, environment, &mut faults);
        let mut reader = Reader::new(&values, &mut faults);
        let config = read(&mut reader);
        if faults.is_empty() {
            Ok(config)
        } else {
            Err(ConfigError(faults))
        }
    }

    /// The store with the keys that open subscriptions.
    ///
    /// # Errors
    /// No keys are set, or Postgres's settings can't work.
    pub(crate) fn store(&self) -> Result<Store, ConfigError> {
        let keyring = Keyring::new(self.secret_keys.clone()).map_err(|_| {
            ConfigError(vec![
                "secrets.keys: none is set; make one with `openssl rand -base64 32` and keep it safe"
                    .into(),
            ])
        })?;
        self.store_with(keyring)
    }

    /// The store for migrations and checks, which open no secrets.
    ///
    /// # Errors
    /// Postgres's settings can't work.
    pub(crate) fn store_without_keys(&self) -> Result<Store, ConfigError> {
        self.store_with(Keyring::without_keys())
    }

    /// The API, with what takes its events to RabbitMQ.
    ///
    /// # Errors
    /// No keys are set that a token could be verified with.
    pub(crate) fn api(
        &self,
        store: Store,
        publisher: tokio::sync::mpsc::Sender<api::Publication>,
    ) -> Result<api::Api, ConfigError> {
        api::Api::new(self.api.clone(), store, publisher).ok_or_else(|| {
            ConfigError(vec![
                "auth.token_keys: none is set, and no auth.jwks_file; make one with `openssl rand -base64 32`"
                    .into(),
            ])
        })
    }

    fn store_with(&self, keyring: Keyring) -> Result<Store, ConfigError> {
        Store::new(self.postgres.clone(), keyring)
            .map_err(|error| ConfigError(vec![error.to_string()]))
    }
}

fn read(r: &mut Reader<'_>) -> Config {
    let egress = egress(r);
    let amqp = amqp(r);
    let delivery = delivery(r);
    let grace = r.duration("shutdown.grace", SECOND, DAY);
    let config = Config {
        api: api(r, &egress, amqp.message_bytes_max, delivery.timeout, grace),
        api_listen: r.address("api.listen"),
        worker: worker::Settings {
            amqp,
            delivery,
            retry: retry(r),
            circuit: worker::CircuitSettings {
                failures: r.integer("circuit.failures", 1, 1 << 32),
                probe_interval: r.duration("circuit.probe_interval", Duration::from_millis(1), DAY),
            },
            egress,
            retention: worker::RetentionSettings {
                deliveries: r.duration("retention.deliveries", DAY, YEARS),
                payloads: r.duration("retention.payloads", DAY, YEARS),
                held: r.duration("retention.held", SECOND, YEARS),
            },
            traces: traces(r),
            subscriptions_cached_max: r.integer("match.subscriptions_cached_max", 1, 1 << 32),
            shutdown_grace: grace,
        },
        postgres: PostgresSettings {
            url: r.text("postgres.url"),
            ca_file: r.authorities("postgres.ca_file"),
            pool_size: r.integer("postgres.pool_size", 1, 1000),
        },
        secret_keys: keys(r, "secrets.keys", |bytes| bytes.len() == 32, "32 bytes")
            .into_iter()
            .filter_map(|key| key.try_into().ok())
            .collect(),
        admin_listen: r.address("admin.listen"),
        log: log(r),
    };
    check_postgres(r, &config.postgres);
    check_unacked(r, &config.worker.amqp);
    config
}

fn amqp(r: &mut Reader<'_>) -> worker::AmqpSettings {
    let url = r.text("amqp.url");
    match url.parse::<AMQPUri>() {
        Ok(uri) if uri.vhost.len() > NAME_BYTES_MAX => {
            let what = format!("the virtual host's name has at most {NAME_BYTES_MAX} bytes");
            r.fault("amqp.url", &what);
        }
        Ok(_) => {}
        Err(_) => r.fault(
            "amqp.url",
            "expected amqp://user:password@host:port/vhost or amqps://…",
        ),
    }
    worker::AmqpSettings {
        url,
        ca_file: r.authorities("amqp.ca_file"),
        exchange: r.name("amqp.exchange"),
        queues: r.names("amqp.queues"),
        declare: r.boolean("amqp.declare"),
        prefetch: r.integer("amqp.prefetch", 1, u64::from(u16::MAX)),
        message_bytes_max: r.integer("amqp.message_bytes_max", 1, AMQP_MESSAGE_BYTES_MAX),
    }
}

fn delivery(r: &mut Reader<'_>) -> worker::DeliverySettings {
    let instant = Duration::from_millis(1);
    worker::DeliverySettings {
        timeout: r.duration("delivery.timeout", instant, SECOND * 600),
        connect_timeout: r.duration("delivery.connect_timeout", instant, SECOND * 600),
        handoff_after: r.duration("delivery.handoff_after", instant, SECOND * 600),
        in_flight_max: r.integer("delivery.in_flight_max", 1, 100_000),
        in_flight_per_subscription_max: r.integer(
            "delivery.in_flight_per_subscription_max",
            1,
            100_000,
        ),
        response_bytes_max: r.integer("delivery.response_bytes_max", 1, 16 << 20),
    }
}

fn retry(r: &mut Reader<'_>) -> RetryPolicy {
    let policy = RetryPolicy {
        delay_base: r.duration("retry.delay_base", Duration::from_millis(1), YEARS),
        factor: r.number("retry.factor", 1.0, 1000.0),
        delay_max: r.duration("retry.delay_max", Duration::from_millis(1), YEARS),
        jitter: r.number("retry.jitter", 0.0, 1.0),
        attempts_max: r.integer("retry.attempts_max", 1, 1000),
        age_max: r.duration("retry.age_max", Duration::from_millis(1), YEARS),
    };
    if policy.delay_max < policy.delay_base {
        r.fault("retry.delay_max", "must not be below retry.delay_base");
    }
    policy
}

fn egress(r: &mut Reader<'_>) -> worker::EgressSettings {
    worker::EgressSettings {
        allow: r.networks("egress.allow"),
        deny: r.networks("egress.deny"),
        ca_file: r.authorities("egress.ca_file"),
    }
}

fn traces(r: &mut Reader<'_>) -> worker::TracesSettings {
    const KEY: &str = "traces.endpoint";
    let given = r.text(KEY);
    let endpoint = match given.as_str() {
        "" => None,
        text => worker::TracesSettings::endpoint(text)
            .map_err(|what| r.fault(KEY, &format!("{what}; expected http://HOST:4318")))
            .ok(),
    };
    worker::TracesSettings {
        endpoint,
        ratio: r.number("traces.ratio", 0.0, 1.0),
    }
}

fn api(
    r: &mut Reader<'_>,
    egress: &worker::EgressSettings,
    message_bytes_max: usize,
    attempt_max: Duration,
    grace: Duration,
) -> api::ApiSettings {
    api::ApiSettings {
        jwks_file: jwks_file(r),
        token_keys: keys(
            r,
            "auth.token_keys",
            |bytes| bytes.len() >= 32,
            "at least 32 bytes",
        ),
        body_bytes_max: r.integer("api.body_bytes_max", 1, 1 << 30),
        subscriptions_per_environment_max: r.integer(
            "api.subscriptions_per_environment_max",
            1,
            1 << 31,
        ),
        require_https: r.boolean("egress.require_https"),
        allow: egress.allow.clone(),
        deny: egress.deny.clone(),
        attempt_max,
        grace,
        message_bytes_max,
    }
}

fn jwks_file(r: &mut Reader<'_>) -> Option<Arc<api::JwksFile>> {
    const KEY: &str = "auth.jwks_file";
    let path = PathBuf::from(r.text(KEY));
    if path.as_os_str().is_empty() {
        return None;
    }
    match api::JwksFile::open(path) {
        Ok(file) => Some(Arc::new(file)),
        Err(faults) => {
            for fault in faults {
                r.fault(KEY, &fault);
            }
            None
        }
    }
}

fn log(r: &mut Reader<'_>) -> LogSettings {
    let format = r.text("log.format");
    if !matches!(format.as_str(), "text" | "json") {
        r.fault("log.format", "expected text or json");
    }
    let level = r.text("log.level");
    if !is_level(&level) {
        r.fault(
            "log.level",
            "expected error, warn, info, debug or trace, also by target: info,worker=debug",
        );
    }
    LogSettings {
        json: format == "json",
        level,
    }
}

/// A word alone must be a level: as the name of a target it would silence everything else.
fn is_level(text: &str) -> bool {
    const WORDS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    text.split(',')
        .all(|part| part.contains('=') || WORDS.contains(&part))
        && tracing_subscriber::EnvFilter::try_new(text).is_ok()
}

fn check_postgres(r: &mut Reader<'_>, postgres: &PostgresSettings) {
    // Made and thrown away: it connects only when it is first asked.
    if let Err(error) = Store::new(postgres.clone(), Keyring::without_keys()) {
        r.say(error.to_string());
    }
}

/// What a worker holds in memory at worst.
fn check_unacked(r: &mut Reader<'_>, amqp: &worker::AmqpSettings) {
    let limit: u64 = r.integer("amqp.bytes_unacked_max", 1, 1 << 50);
    let unacked = [amqp.message_bytes_max, amqp.queues.len()]
        .iter()
        .fold(u64::from(amqp.prefetch), |product, factor| {
            product.saturating_mul(u64::try_from(*factor).unwrap_or(u64::MAX))
        });
    if unacked > limit {
        r.say(format!(
            "amqp.bytes_unacked_max: amqp.prefetch ({}) x amqp.message_bytes_max ({}) x {} queues is {unacked}, above \
             {limit}; lower one of them or raise the limit",
            amqp.prefetch,
            amqp.message_bytes_max,
            amqp.queues.len()
        ));
    }
}

fn keys(
    r: &mut Reader<'_>,
    key: &str,
    is_right: impl Fn(&[u8]) -> bool,
    size: &str,
) -> Vec<Vec<u8>> {
    let decoded: Vec<Option<Vec<u8>>> = r
        .texts(key)
        .iter()
        .map(|text| BASE64.decode(text).ok().filter(|bytes| is_right(bytes)))
        .collect();
    if let Some(position) = decoded.iter().position(Option::is_none) {
        let nth = position + 1;
        r.fault(
            key,
            &format!("key {nth} isn't base64 of {size}; make one with `openssl rand -base64 32`"),
        );
    }
    decoded.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests;

//! The servers of a test run: RabbitMQ and Postgres, private instances or whatever the environment names.
//!
//! Tests that only use servers share one pair ([`Servers::shared`]) and take a virtual host and a database of it
//! ([`Stage`](crate::stage::Stage)); tests that break servers start their own ([`RabbitMq`], [`Postgres`]).

mod certificates;
mod databases;
mod management;
mod ports;
mod postgres;
mod rabbitmq;

use std::env;
use std::fs;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::{Path, PathBuf};

use tokio::sync::OnceCell;

pub use certificates::Certificates;
pub use databases::{Databases, Session, connect};
pub use management::{Management, Rights, with_vhost};
pub use ports::free_port;
pub use postgres::{Postgres, PostgresOptions};
pub use rabbitmq::{RabbitMq, RabbitMqOptions};

/// Environment variable: the shared broker, user and password included, virtual host `/`.
pub const AMQP_URL: &str = "POSTRIDER_TEST_AMQP_URL";
/// Environment variable: its management API, `http://user:password@host:port`.
pub const MANAGEMENT_URL: &str = "POSTRIDER_TEST_AMQP_MANAGEMENT_URL";
/// Environment variable: the shared Postgres, as a user that may create databases.
pub const POSTGRES_URL: &str = "POSTRIDER_TEST_POSTGRES_URL";

/// Where the shared servers are.
#[derive(Debug, Clone)]
pub struct Servers {
    /// `amqp://…/%2f`.
    pub amqp_url: String,
    /// `http://user:password@host:port`.
    pub management_url: String,
    /// `postgres://…/postgres`.
    pub postgres_url: String,
}

/// A pair that this process started for itself, and its addresses. Being static it is never dropped: the watchdogs
/// end it when the process does.
static OWN: OnceCell<(Servers, RabbitMq, Postgres)> = OnceCell::const_new();

impl Servers {
    /// The servers that the environment names (`with-servers` sets it), else a private pair of this process: with
    /// one process per test, as nextest has it, that costs each test a boot.
    ///
    /// # Panics
    /// If the environment names nothing and the private ones can't be started.
    pub async fn shared() -> Self {
        if let Some(named) = Self::from_environment() {
            return named;
        }
        let (servers, ..) = OWN
            .get_or_init(|| async {
                let (rabbitmq, postgres) = Self::start_private().await;
                (Self::of(&rabbitmq, &postgres), rabbitmq, postgres)
            })
            .await;
        servers.clone()
    }

    /// Where the broker listens, for a proxy in front of it.
    ///
    /// # Panics
    /// If its URL names no address.
    pub fn amqp_address(&self) -> SocketAddr {
        address(&self.amqp_url)
    }

    /// The same for Postgres.
    ///
    /// # Panics
    /// If its URL names no address.
    pub fn postgres_address(&self) -> SocketAddr {
        address(&self.postgres_url)
    }

    /// Starts a private pair, both at once.
    pub async fn start_private() -> (RabbitMq, Postgres) {
        tokio::join!(
            RabbitMq::start(RabbitMqOptions::default()),
            Postgres::start(PostgresOptions::default())
        )
    }

    /// The addresses of a private pair.
    pub fn of(rabbitmq: &RabbitMq, postgres: &Postgres) -> Self {
        Self {
            amqp_url: rabbitmq.amqp_url(),
            management_url: rabbitmq.management_url(),
            postgres_url: postgres.url("postgres"),
        }
    }

    fn from_environment() -> Option<Self> {
        Some(Self {
            amqp_url: env::var(AMQP_URL).ok()?,
            management_url: env::var(MANAGEMENT_URL).ok()?,
            postgres_url: env::var(POSTGRES_URL).ok()?,
        })
    }
}

/// The address in `scheme://user@HOST:PORT/…`.
fn address(url: &str) -> SocketAddr {
    let (_, after_user) = url.rsplit_once('@').expect("it names a user");
    let end = after_user.find('/').unwrap_or(after_user.len());
    let address = &after_user[..end];
    address
        .to_socket_addrs()
        .ok()
        .and_then(|mut addresses| addresses.next())
        .unwrap_or_else(|| panic!("{address} is no address"))
}

/// The file `program` of the highest version among the folders `PREFIX…` in `parents`.
fn newest(parents: &[&str], prefix: &str, program: &str) -> Option<PathBuf> {
    parents
        .iter()
        .filter_map(|parent| fs::read_dir(parent).ok())
        .flat_map(|entries| entries.flatten())
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let version: Vec<u32> = name
                .strip_prefix(prefix)?
                .split('.')
                .map_while(|part| part.parse().ok())
                .collect();
            let path = entry.path().join(program);
            path.exists().then_some((version, path))
        })
        .max()
        .map(|(_, path)| path)
}

/// The last 4 KiB of a log file, or a word that there is none.
fn log_tail(path: &Path) -> String {
    let log = fs::read(path).unwrap_or_default();
    let tail = log.get(log.len().saturating_sub(4096)..).unwrap_or(&log);
    format!("{}:\n{}", path.display(), String::from_utf8_lossy(tail))
}

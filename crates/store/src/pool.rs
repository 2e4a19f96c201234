//! The pool of connections, and what is set on each of them. Connects lazily: a store can be made while Postgres is
//! away. What is done on a connection is bounded in `checkout`.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use deadpool_postgres::{
    Hook, HookError, Manager, ManagerConfig, Pool, QueueMode, RecyclingMethod, Runtime,
};
use tokio_postgres::Config;
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::checkout::limited;
use crate::error::{SettingsError, StoreError, Unavailable};
use crate::seal::Keyring;
use crate::{tls, url};

/// Limit on waiting for a free connection, and on making one.
pub(crate) const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// A server that vanished without a word is noticed after about so long, whatever is in flight.
const SILENCE_LIMIT: Duration = Duration::from_secs(10);

/// A connection's plans are made anew after so long. On an empty table all indexes cost the same, so the planner may
/// choose any; the plan must not be kept for long while a backlog grows. (Postgres itself plans again only after the next
/// ANALYZE.)
const PLANS_KEPT: Duration = Duration::from_secs(1);

/// Set on every connection. The planner is kept to look-ups by key with plans that are made once: planning over all the
/// partitions of history each time would cost more than the look-up. The timeouts bound what a server goes on doing,
/// and the locks that it goes on holding, for a worker that is gone or frozen. A commit that was answered must outlive
/// a crash, whatever the server's or the role's default; what waits for a standby as well is left as it is.
pub(crate) const SESSION: &str = "\
    SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'; \
    SET statement_timeout = '15s'; \
    SET idle_in_transaction_session_timeout = '20s'; \
    SET plan_cache_mode = force_generic_plan; \
    SET enable_seqscan = off; \
    SET enable_bitmapscan = off; \
    SET enable_hashjoin = off; \
    SET enable_mergejoin = off; \
    SET jit = off; \
    SELECT set_config(name, '2s', false) FROM pg_settings WHERE name = 'client_connection_check_interval'";

/// How Postgres is reached.
#[derive(Clone)]
pub struct PostgresSettings {
    /// `postgres://user:password@host:port/database?sslmode=…`; sslmode from `disable` to `verify-full`.
    pub url: String,
    /// PEM certificates to verify the server by, in place of the system's roots.
    pub ca_file: Option<PathBuf>,
    /// Connections at most, at least 1; a [`crate::Listener`] has one of its own beside them.
    pub pool_size: usize,
}

impl fmt::Debug for PostgresSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresSettings")
            .field("url", &"(hidden)")
            .field("ca_file", &self.ca_file)
            .field("pool_size", &self.pool_size)
            .finish()
    }
}

/// Postgres as Postrider uses it. Cheap to clone: all clones share one pool.
#[derive(Clone)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) pool: Pool,
    pub(crate) config: Config,
    pub(crate) tls: MakeRustlsConnect,
    pub(crate) keyring: Keyring,
}

impl Store {
    /// A store on a pool that connects when it is first asked.
    ///
    /// # Errors
    /// Settings that can't work, see [`SettingsError`]. That Postgres is away is none of them.
    pub fn new(settings: PostgresSettings, keyring: Keyring) -> Result<Self, SettingsError> {
        if settings.pool_size == 0 {
            return Err(SettingsError::PoolSize);
        }
        let url::Target {
            mut config,
            verify,
            ca_file,
        } = url::read(&settings.url, settings.ca_file)?;
        let tls = tls::connector(verify, ca_file.as_deref())?;
        if config.get_application_name().is_none() {
            config.application_name("postrider");
        }
        config
            .connect_timeout(CONNECT_LIMIT)
            .keepalives(true)
            .keepalives_idle(Duration::from_secs(5))
            .keepalives_interval(Duration::from_secs(2))
            .keepalives_retries(2)
            .tcp_user_timeout(SILENCE_LIMIT);

        let manager = Manager::from_config(
            config.clone(),
            tls.clone(),
            ManagerConfig {
                recycling_method: RecyclingMethod::Fast,
            },
        );
        let pool = Pool::builder(manager)
            .max_size(settings.pool_size)
            // The last one back is the next one out: each keeps buffers as large as its largest statement was, and so
            // only those have them that are needed at one time.
            .queue_mode(QueueMode::Lifo)
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(CONNECT_LIMIT))
            .create_timeout(Some(CONNECT_LIMIT))
            .recycle_timeout(Some(CONNECT_LIMIT))
            .post_create(Hook::async_fn(|client, _| {
                Box::pin(async move {
                    client
                        .batch_execute(SESSION)
                        .await
                        .map_err(HookError::Backend)
                })
            }))
            .post_recycle(Hook::async_fn(|client, metrics| {
                let last = metrics.recycled.unwrap_or(metrics.created);
                let old = plans_are_old(metrics.created, last, Instant::now());
                Box::pin(async move {
                    if old {
                        client
                            .batch_execute("DISCARD PLANS")
                            .await
                            .map_err(HookError::Backend)?;
                    }
                    Ok(())
                })
            }))
            .build()
            .expect("a runtime is given, the only thing that building asks for");
        Ok(Self {
            inner: Arc::new(Inner {
                pool,
                config,
                tls,
                keyring,
            }),
        })
    }
}

/// Whether, since the last use, a period of [`PLANS_KEPT`] in the connection's life has passed.
fn plans_are_old(created: Instant, last: Instant, now: Instant) -> bool {
    let period = |at: Instant| at.duration_since(created).as_secs() / PLANS_KEPT.as_secs();
    period(now) > period(last)
}

impl Store {
    /// Whether Postgres answers, by the plainest question, within `limit`.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn probe(&self, limit: Duration) -> Result<(), StoreError> {
        let probe = async {
            let client = self.checkout().await?;
            client.batch_execute("SELECT 1").await?;
            client.done();
            Ok(())
        };
        let timed_out = |_| Err(StoreError::Unavailable(Unavailable::TimedOut(limit)));
        tokio::time::timeout(limit, probe)
            .await
            .unwrap_or_else(timed_out)
    }
}

impl Store {
    /// Whether Postgres writes through to the disk (`fsync`): without it a crash of its machine loses commits that were
    /// answered.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn writes_through(&self) -> Result<bool, StoreError> {
        let client = self.checkout().await?;
        let row = limited(async { Ok(client.query_one("SHOW fsync", &[]).await?) }).await?;
        client.done();
        Ok(row.get::<_, &str>(0) == "on")
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = self.inner.pool.status();
        write!(
            f,
            "Store({} of {} connections)",
            status.size, status.max_size
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_are_made_anew_once_a_period() {
        let created = Instant::now();
        let after = |periods: f64| created + PLANS_KEPT.mul_f64(periods);

        assert!(!plans_are_old(created, created, after(0.9)));
        assert!(plans_are_old(created, after(0.9), after(1.0)));
        assert!(!plans_are_old(created, after(1.0), after(1.9)));
        assert!(plans_are_old(created, after(1.9), after(60.0)));
    }
}

//! From a URL's host to a connection: resolve once, refuse if any address must not be reached, dial exactly the
//! address that was checked. Literal addresses take the same way, so that there is no second door.
//!
//! Proxies from the environment are not looked at. TLS comes on top, in `send`, under the URL's own name. A connection
//! is dialled once: what is reused, or repeated on a new one, has passed here in the same way.

mod connection;

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::{ResolverBuilder, TokioResolver};
use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tower_service::Service;
use webhook::{AddressPolicy, RefusedAddress};

pub(crate) use connection::Guarded;
use connection::Open;

/// The time of a look-up is shared out: two tries and an answer without the half that isn't coming (a name server that
/// is silent on AAAA), so that something is left for the connection.
const LOOKUP_TRIES: u32 = 2;

/// So many connections stay open per attempt that there may be at a time, over all hosts. One that is made beyond that
/// is closed after its attempt; so there are never more than half as many again.
const KEPT_PER_ATTEMPT: usize = 2;

/// Too many open files: in this process, and in the system. The same on every Unix.
const EMFILE: i32 = 24;
const ENFILE: i32 = 23;
const TELL_AGAIN: Duration = Duration::from_secs(60);

/// Why there is no connection. The texts are read by the subscription's owner too.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    /// The name has no address, or the resolver didn't answer in time.
    #[error("{0}")]
    Dns(String),
    /// The guard refuses at least one of the addresses. Said without it: a tenant reads this, and must not learn what
    /// names mean in our network.
    #[error("the address, or one of the name's, is not allowed")]
    Refused(RefusedAddress),
    /// None of the addresses could be connected to.
    #[error("{0}")]
    Connect(io::Error),
    /// No TCP connection within `delivery.connect_timeout`.
    #[error("no connection within {0:?}")]
    ConnectTimedOut(Duration),
}

/// Makes guarded TCP connections. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Dialer {
    policy: Arc<AddressPolicy>,
    /// None where the system's resolver configuration can't be read: then only literal addresses work.
    resolver: Option<Arc<TokioResolver>>,
    lookups: Arc<Semaphore>,
    timeout: Duration,
    open: Open,
    /// When it was last told that there are too many open files.
    told: Arc<Mutex<Option<Instant>>>,
}

impl Dialer {
    /// A dialer with the system's resolver configuration (`/etc/resolv.conf`, `/etc/hosts`).
    pub(crate) fn new(policy: AddressPolicy, timeout: Duration, attempts_max: usize) -> Self {
        Self::with_resolver(
            TokioResolver::builder_tokio(),
            policy,
            timeout,
            attempts_max,
        )
    }

    /// There are as many look-ups at a time as attempts. Fewer, and names that hang would hold up the others'; the lanes
    /// see to it that slow attempts never take all places, and so never all look-ups.
    fn with_resolver(
        builder: Result<ResolverBuilder<TokioRuntimeProvider>, NetError>,
        policy: AddressPolicy,
        timeout: Duration,
        attempts_max: usize,
    ) -> Self {
        let resolver = builder
            .and_then(|mut builder| {
                let options = builder.options_mut();
                options.timeout = options.timeout.min(timeout / (LOOKUP_TRIES + 1));
                options.attempts = options.attempts.min(LOOKUP_TRIES as usize - 1);
                // Over TCP, where answers are long: one connection per name server, which those that hang must not fill.
                options.max_active_requests = options.max_active_requests.max(2 * attempts_max);
                builder.build()
            })
            .inspect_err(|error| {
                tracing::error!(%error, "no resolver: names can't be looked up; mend /etc/resolv.conf and restart");
            });
        Self {
            policy: Arc::new(policy),
            resolver: resolver.ok().map(Arc::new),
            lookups: Arc::new(Semaphore::new(attempts_max)),
            timeout,
            open: Open::new(KEPT_PER_ATTEMPT * attempts_max),
            told: Arc::default(),
        }
    }

    async fn dial(self, uri: Uri) -> Result<TokioIo<Guarded>, DialError> {
        let deadline = Instant::now() + self.timeout;
        let host = uri.host().unwrap_or_default();
        let default_port = if uri.scheme_str() == Some("https") {
            443
        } else {
            80
        };
        let port = uri.port_u16().unwrap_or(default_port);
        let addresses = self.addresses(host, deadline).await?;
        for address in &addresses {
            self.policy.judge(*address).map_err(|refused| {
                // For the operator, who may want to allow it.
                tracing::info!(host, address = %refused.0, "refused");
                DialError::Refused(refused)
            })?;
        }
        self.connect(&addresses, port, deadline).await
    }

    async fn addresses(&self, host: &str, deadline: Instant) -> Result<Vec<IpAddr>, DialError> {
        if let Some(literal) = literal_address(host) {
            return Ok(vec![literal]);
        }
        let Some(resolver) = &self.resolver else {
            return Err(DialError::Dns(
                "this worker has no resolver configuration".to_owned(),
            ));
        };
        let look_up = async {
            let _permit = self.lookups.acquire().await;
            resolver.lookup_ip(host).await
        };
        match tokio::time::timeout_at(deadline, look_up).await {
            Ok(Ok(found)) => {
                let addresses: Vec<IpAddr> = found.iter().collect();
                if addresses.is_empty() {
                    return Err(DialError::Dns("the name has no address".to_owned()));
                }
                Ok(addresses)
            }
            Ok(Err(error)) => {
                // Its own words tell what our resolver completes names with.
                tracing::debug!(host, %error, "look-up failed");
                let text = if error.is_no_records_found() {
                    "the name has no address"
                } else {
                    "the look-up failed"
                };
                Err(DialError::Dns(text.to_owned()))
            }
            Err(_) => Err(DialError::Dns(format!(
                "no answer from the resolver within {:?}",
                self.timeout
            ))),
        }
    }

    /// The first of the addresses that accepts; each has an equal share of the time that is left.
    async fn connect(
        &self,
        addresses: &[IpAddr],
        port: u16,
        deadline: Instant,
    ) -> Result<TokioIo<Guarded>, DialError> {
        let mut last = DialError::ConnectTimedOut(self.timeout);
        for (index, address) in addresses.iter().enumerate() {
            let left = deadline.saturating_duration_since(Instant::now());
            let share = left / u32::try_from(addresses.len() - index).unwrap_or(1);
            let socket = SocketAddr::new(*address, port);
            match tokio::time::timeout(share, TcpStream::connect(socket)).await {
                Ok(Ok(stream)) => {
                    stream.set_nodelay(true).map_err(DialError::Connect)?;
                    return Ok(TokioIo::new(self.open.connection(stream)));
                }
                Ok(Err(error)) => {
                    self.tell_if_ours(&error);
                    last = DialError::Connect(error);
                }
                Err(_) => last = DialError::ConnectTimedOut(self.timeout),
            }
        }
        Err(last)
    }
}

impl Dialer {
    /// One line a minute if there was no file to open: the outcome is the receiver's word for a fault of ours.
    fn tell_if_ours(&self, error: &io::Error) {
        if !matches!(error.raw_os_error(), Some(EMFILE | ENFILE)) {
            return;
        }
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_none_or(|told| told.elapsed() > TELL_AGAIN) {
            *told = Some(Instant::now());
            tracing::error!(%error, "no connection can be opened: raise the limit on open files (LimitNOFILE, ulimit -n)");
        }
    }
}

impl Service<Uri> for Dialer {
    type Response = TokioIo<Guarded>;
    type Error = DialError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(self.clone().dial(uri))
    }
}

/// The address, if the host of a URI is one rather than a name.
pub(crate) fn literal_address(host: &str) -> Option<IpAddr> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare.parse().ok()
}

#[cfg(test)]
mod tests;

//! A webhook receiver that behaves as scripted, path by path, and remembers each request with its bytes. HTTP/1.1;
//! with TLS also HTTP/2, as ALPN settles it.
//!
//! It judges nothing: signatures and bodies are the test's to check.

mod record;
mod reply;
mod serve;

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::background::Background;
use crate::servers::Certificates;
pub use record::Received;
use record::Road;
pub use reply::Reply;
pub(crate) use serve::server_config;

/// A receiver on 127.0.0.1. Paths that were given no script answer 200. Dropping it closes its port and connections.
#[derive(Debug)]
pub struct Receiver {
    address: SocketAddr,
    scheme: &'static str,
    state: Arc<State>,
    _background: Background,
}

/// What the connections share with the test.
#[derive(Debug)]
struct State {
    roads: Mutex<HashMap<String, Road>>,
    keeps: Keeps,
    connections: AtomicU64,
    /// Changed with each request that was recorded.
    recorded: watch::Sender<()>,
}

/// What becomes of a request.
enum Keeps {
    /// It is kept whole.
    Requests,
    /// Only its path's number and ids.
    Counts,
    /// Nothing here: this function looks at it and says what it gets, whatever the scripts say.
    Nothing(Box<dyn Fn(&Received) -> Reply + Send + Sync>),
}

impl std::fmt::Debug for Keeps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Requests => "Requests",
            Self::Counts => "Counts",
            Self::Nothing(_) => "Nothing",
        })
    }
}

impl State {
    fn roads(&self) -> MutexGuard<'_, HashMap<String, Road>> {
        self.roads.lock().expect("no panic while it is held")
    }
}

impl Receiver {
    /// Starts one that keeps every request.
    pub fn start() -> Self {
        Self::start_on(Keeps::Requests, None)
    }

    /// Starts one for tens of thousands of requests: it keeps their number and their `webhook-id`s only.
    pub fn start_counting() -> Self {
        Self::start_on(Keeps::Counts, None)
    }

    /// Starts one whose replies are the caller's to choose, request by request; it remembers nothing itself.
    pub fn start_judging(judge: impl Fn(&Received) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_on(Keeps::Nothing(Box::new(judge)), None)
    }

    /// Starts one that speaks TLS, by a certificate for `localhost` and `127.0.0.1`, and HTTP/2 to who asks for it.
    pub fn start_tls(certificates: &Certificates) -> Self {
        Self::start_on(Keeps::Requests, Some(certificates))
    }

    fn start_on(keeps: Keeps, certificates: Option<&Certificates>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        listener.set_nonblocking(true).expect("it is open");
        let state = Arc::new(State {
            roads: Mutex::default(),
            keeps,
            connections: AtomicU64::new(0),
            recorded: watch::Sender::new(()),
        });
        let tls = certificates.map(serve::acceptor);
        let scheme = if tls.is_some() { "https" } else { "http" };
        let background = Background::new("receiver");
        background
            .runtime()
            .spawn(serve::accept(listener, tls, Arc::clone(&state)));
        Self {
            address,
            scheme,
            state,
            _background: background,
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL of a path, which begins with `/`.
    pub fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", self.scheme, self.address)
    }

    /// The same with the host `localhost`, for what goes through a name.
    pub fn url_by_name(&self, path: &str) -> String {
        format!("{}://localhost:{}{path}", self.scheme, self.address.port())
    }

    /// What a path answers from now on: one reply per request in the order of their arrival, the last one for all
    /// that follow.
    ///
    /// # Panics
    /// If the script is empty.
    pub fn script(&self, path: &str, replies: impl IntoIterator<Item = Reply>) {
        let replies = replies.into_iter().collect();
        self.state
            .roads()
            .entry(path.to_owned())
            .or_default()
            .follow(replies);
    }

    /// What a path has received so far, in the order in which the requests were whole; empty for one that
    /// [only counts](Self::start_counting). The query is no part of a path.
    pub fn requests(&self, path: &str) -> Vec<Received> {
        self.state
            .roads()
            .get(path)
            .map_or_else(Vec::new, |road| road.received.clone())
    }

    /// How many requests a path has received so far.
    pub fn count(&self, path: &str) -> u64 {
        self.state.roads().get(path).map_or(0, |road| road.count)
    }

    /// How often each `webhook-id` has come to a path so far.
    pub fn counts_by_id(&self, path: &str) -> HashMap<String, u64> {
        self.state
            .roads()
            .get(path)
            .map_or_else(HashMap::new, |road| road.ids.clone())
    }

    /// The most requests that a path has had open at one time, from their head to the end of their answer.
    pub fn most_at_once(&self, path: &str) -> u64 {
        self.state
            .roads()
            .get(path)
            .map_or(0, |road| road.most_at_once)
    }

    /// Connections accepted so far, over all paths.
    pub fn connections(&self) -> u64 {
        self.state.connections.load(Ordering::Relaxed)
    }

    /// Waits until a path has received `n` requests and returns all that it has by then.
    ///
    /// # Panics
    /// When `limit` has passed, with what has come instead.
    pub async fn wait_for(&self, n: usize, path: &str, limit: Duration) -> Vec<Received> {
        self.wait_for_count(n as u64, path, limit).await;
        self.requests(path)
    }

    /// Waits until a path has received `n` requests.
    ///
    /// # Panics
    /// When `limit` has passed, with what has come instead.
    pub async fn wait_for_count(&self, n: u64, path: &str, limit: Duration) {
        let what = format!("{n} requests at {path}");
        self.wait_until(&what, limit, |roads| {
            roads.get(path).map_or(0, |road| road.count) >= n
        })
        .await;
    }

    /// Waits until a path has received `n` different `webhook-id`s, each any number of times.
    ///
    /// # Panics
    /// When `limit` has passed, with what has come instead.
    pub async fn wait_for_distinct(&self, n: usize, path: &str, limit: Duration) {
        let what = format!("{n} different webhook-ids at {path}");
        self.wait_until(&what, limit, |roads| {
            roads.get(path).map_or(0, |road| road.ids.len()) >= n
        })
        .await;
    }

    async fn wait_until(
        &self,
        what: &str,
        limit: Duration,
        holds: impl Fn(&HashMap<String, Road>) -> bool,
    ) {
        let end = tokio::time::Instant::from_std(Instant::now() + limit);
        let mut recorded = self.state.recorded.subscribe();
        while !holds(&self.state.roads()) {
            let woken = tokio::time::timeout_at(end, recorded.changed()).await;
            // One more look: the last request may have come at this very moment.
            if woken.is_err() && !holds(&self.state.roads()) {
                panic!(
                    "waited {limit:?} in vain for {what}; received: {}",
                    self.summary()
                );
            }
        }
    }

    fn summary(&self) -> String {
        let roads = self.state.roads();
        let mut lines: Vec<String> = roads
            .iter()
            .map(|(path, road)| {
                format!("{path}: {} with {} webhook-ids", road.count, road.ids.len())
            })
            .collect();
        lines.sort();
        if lines.is_empty() {
            return "nothing".into();
        }
        lines.join(", ")
    }
}

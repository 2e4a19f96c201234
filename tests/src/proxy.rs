//! A TCP proxy that makes the network between two processes fail: cut, refuse, freeze, delay.
//!
//! It knows no protocol; what a cut hits is the test's to time.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, watch};
use tokio::task::{JoinHandle, JoinSet};

use crate::background::Background;
use crate::servers::free_port;

/// What one read may bring.
const PIECE_BYTES: usize = 64 * 1024;

/// A proxy on 127.0.0.1. Dropping it cuts all connections and closes its port.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    target: SocketAddr,
    weather: watch::Sender<Weather>,
    connections: Arc<Mutex<JoinSet<()>>>,
    /// None while it refuses.
    accepting: Mutex<Option<JoinHandle<()>>>,
    background: Background,
}

/// What the connections suffer at the moment.
#[derive(Debug, Clone, Copy, Default)]
struct Weather {
    requests_frozen: bool,
    answers_frozen: bool,
    delay: Duration,
}

/// Which way a connection's half runs.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// From who connected to the target.
    Requests,
    /// Back.
    Answers,
}

impl Weather {
    fn freezes(self, way: Way) -> bool {
        match way {
            Way::Requests => self.requests_frozen,
            Way::Answers => self.answers_frozen,
        }
    }
}

impl Proxy {
    /// Starts one in front of `target`, which need not listen yet.
    ///
    /// # Panics
    /// If no port is free.
    pub async fn start(target: SocketAddr) -> Self {
        let proxy = Self {
            address: ([127, 0, 0, 1], free_port()).into(),
            target,
            weather: watch::Sender::default(),
            connections: Arc::default(),
            accepting: Mutex::default(),
            background: Background::new("proxy"),
        };
        proxy.refuse(false).await;
        proxy
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A URL with its `host:port` replaced by the proxy's.
    ///
    /// # Panics
    /// If the URL has no host and port.
    pub fn instead_in(&self, url: &str) -> String {
        let (scheme, rest) = url.split_once("://").expect("a URL with a scheme");
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let user = authority.rsplit_once('@').map_or("", |(user, _)| user);
        let at = if user.is_empty() { "" } else { "@" };
        format!("{scheme}://{user}{at}{}{path}", self.address)
    }

    /// Breaks off all connections there are, both ways, by TCP resets; they are gone when this returns. New ones are
    /// accepted as before.
    pub async fn cut(&self) {
        let mut connections = std::mem::take(&mut *self.connections.lock().await);
        connections.shutdown().await;
    }

    /// Closes its port, so that connecting is refused, or opens it again. Connections there are stay.
    ///
    /// # Panics
    /// If someone else has taken the port meanwhile.
    pub async fn refuse(&self, refuse: bool) {
        let mut accepting = self.accepting.lock().await;
        if !refuse && accepting.is_none() {
            let runtime = self.background.runtime();
            let listener = std::net::TcpListener::bind(self.address).expect("the port is ours");
            listener.set_nonblocking(true).expect("it is open");
            *accepting = Some(runtime.spawn(accept(
                listener,
                self.target,
                self.weather.subscribe(),
                Arc::clone(&self.connections),
            )));
        } else if refuse && let Some(task) = accepting.take() {
            task.abort();
            // The listener is closed when the task has ended; that it was cancelled is no news.
            task.await.ok();
        }
    }

    /// Accepts, and keeps what is open, but forwards nothing either way; or lets everything flow again.
    pub fn freeze(&self, frozen: bool) {
        self.weather.send_modify(|weather| {
            weather.requests_frozen = frozen;
            weather.answers_frozen = frozen;
        });
    }

    /// The same for what comes from the target only: requests arrive and are carried out, their answers stay away.
    pub fn freeze_answers(&self, frozen: bool) {
        self.weather
            .send_modify(|weather| weather.answers_frozen = frozen);
    }

    /// Lets each piece that it forwards wait that long, each way.
    pub fn delay(&self, delay: Duration) {
        self.weather.send_modify(|weather| weather.delay = delay);
    }
}

async fn accept(
    listener: std::net::TcpListener,
    target: SocketAddr,
    weather: watch::Receiver<Weather>,
    connections: Arc<Mutex<JoinSet<()>>>,
) {
    let listener = TcpListener::from_std(listener).expect("it is non-blocking");
    let runtime = Handle::current();
    loop {
        let Ok((client, _)) = listener.accept().await else {
            tokio::task::yield_now().await;
            continue;
        };
        let mut connections = connections.lock().await;
        while connections.try_join_next().is_some() {}
        connections.spawn_on(carry(client, target, weather.clone()), &runtime);
    }
}

/// A connection's two sides. Dropped before its end came in order, both are reset.
struct Sides {
    client: TcpStream,
    server: TcpStream,
    ended: bool,
}

impl Drop for Sides {
    fn drop(&mut self) {
        if !self.ended {
            // A socket that is already broken can't be broken off.
            self.client.set_zero_linger().ok();
            self.server.set_zero_linger().ok();
        }
    }
}

async fn carry(client: TcpStream, target: SocketAddr, weather: watch::Receiver<Weather>) {
    let Ok(server) = TcpStream::connect(target).await else {
        // As near as one comes to a refusal once the connection stands.
        client.set_zero_linger().ok();
        return;
    };
    client.set_nodelay(true).ok();
    server.set_nodelay(true).ok();
    let mut sides = Sides {
        client,
        server,
        ended: false,
    };
    let (client_reads, client_writes) = sides.client.split();
    let (server_reads, server_writes) = sides.server.split();
    let carried = tokio::try_join!(
        forward(client_reads, server_writes, Way::Requests, weather.clone()),
        forward(server_reads, client_writes, Way::Answers, weather),
    );
    sides.ended = carried.is_ok();
}

async fn forward(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    way: Way,
    mut weather: watch::Receiver<Weather>,
) -> io::Result<()> {
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let length = from.read(&mut piece).await?;
        let delay = weather.borrow().delay;
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        // An error means that the proxy is being dropped.
        weather
            .wait_for(|weather| !weather.freezes(way))
            .await
            .map_err(|_| io::ErrorKind::ConnectionAborted)?;
        if length == 0 {
            return to.shutdown().await;
        }
        to.write_all(&piece[..length]).await?;
    }
}

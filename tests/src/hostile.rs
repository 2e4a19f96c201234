//! A receiver that does whatever a test tells it, byte by byte: TCP, TLS and HTTP/2 frames without a library in between
//! that would mend them. The well-behaved one is [`Receiver`](crate::receiver::Receiver).

use std::future::Future;
use std::net::{SocketAddr, TcpListener as Listener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustls::ServerConfig;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;

use crate::background::Background;
use crate::receiver::server_config;
use crate::servers::Certificates;
use crate::wait::wait_until;

/// `HEADERS` of HTTP/2.
pub const HEADERS: u8 = 1;
/// `RST_STREAM`.
pub const RST_STREAM: u8 = 3;
/// `SETTINGS`.
pub const SETTINGS: u8 = 4;
/// `PING`.
pub const PING: u8 = 6;
/// `GOAWAY`.
pub const GOAWAY: u8 = 7;
/// `CONTINUATION`.
pub const CONTINUATION: u8 = 9;
/// `DATA`.
pub const DATA: u8 = 0;
/// The flag `END_STREAM` of `DATA` and `HEADERS`.
pub const END_STREAM: u8 = 1;
/// The flag `END_HEADERS` of `HEADERS` and `CONTINUATION`.
pub const END_HEADERS: u8 = 4;
/// The status 200 as a block of headers.
pub const STATUS_200: &[u8] = &[0x88];

/// A receiver on 127.0.0.1. Dropping it closes its port and its connections.
#[derive(Debug)]
pub struct Hostile {
    address: SocketAddr,
    scheme: &'static str,
    accepted: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
    _background: Background,
}

impl Hostile {
    /// Each connection is handled by `behave`, which is told how many there were before it; it ends with it.
    pub fn start<F: Future<Output = ()> + Send + 'static>(
        behave: impl Fn(Peer, usize) -> F + Send + Sync + 'static,
    ) -> Self {
        Self::start_on(None, behave)
    }

    /// The same behind a TLS handshake that settles on the first of `protocols` that the other side offers.
    pub fn start_tls<F: Future<Output = ()> + Send + 'static>(
        certificates: &Certificates,
        protocols: &[&str],
        behave: impl Fn(Peer, usize) -> F + Send + Sync + 'static,
    ) -> Self {
        Self::start_on(Some(server_config(certificates, protocols)), behave)
    }

    fn start_on<F: Future<Output = ()> + Send + 'static>(
        tls: Option<ServerConfig>,
        behave: impl Fn(Peer, usize) -> F + Send + Sync + 'static,
    ) -> Self {
        let listener = Listener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        listener.set_nonblocking(true).expect("it is open");
        let scheme = if tls.is_some() { "https" } else { "http" };
        let tls = tls.map(|config| TlsAcceptor::from(Arc::new(config)));
        let (accepted, open) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let background = Background::new("hostile");
        background.runtime().spawn(accept(
            listener,
            tls,
            Arc::new(behave),
            Arc::clone(&accepted),
            Arc::clone(&open),
        ));
        Self {
            address,
            scheme,
            accepted,
            open,
            _background: background,
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("{}://{}/hook", self.scheme, self.address)
    }

    /// Connections accepted so far.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    /// Waits until all connections have ended; those that wait for the other side show that it has let go.
    ///
    /// # Panics
    /// When `limit` has passed.
    pub async fn wait_all_ended(&self, limit: Duration) {
        wait_until(limit, "the end of all connections", async || {
            (self.open.load(Ordering::SeqCst) == 0).then_some(())
        })
        .await;
    }
}

async fn accept<F: Future<Output = ()> + Send + 'static>(
    listener: Listener,
    tls: Option<TlsAcceptor>,
    behave: Arc<impl Fn(Peer, usize) -> F + Send + Sync + 'static>,
    accepted: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
) {
    let listener = TcpListener::from_std(listener).expect("it is non-blocking");
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::task::yield_now().await;
            continue;
        };
        stream.set_nodelay(true).ok();
        open.fetch_add(1, Ordering::SeqCst);
        let before = accepted.fetch_add(1, Ordering::SeqCst);
        let (tls, behave, open) = (tls.clone(), Arc::clone(&behave), Arc::clone(&open));
        connections.spawn(async move {
            let wire = match tls {
                None => Some(Either::Left(stream)),
                Some(tls) => tls
                    .accept(stream)
                    .await
                    .ok()
                    .map(Box::new)
                    .map(Either::Right),
            };
            if let Some(wire) = wire {
                behave(Peer { wire }, before).await;
            }
            open.fetch_sub(1, Ordering::SeqCst);
        });
        while connections.try_join_next().is_some() {}
    }
}

/// One connection, seen from the receiver. What can't be written any more is let go: the other side has gone.
#[derive(Debug)]
pub struct Peer {
    wire: Either<TcpStream, Box<TlsStream<TcpStream>>>,
}

impl Peer {
    /// Reads a request of HTTP/1.1 with its body, and returns its text; empty if the connection ended before.
    pub async fn request(&mut self) -> String {
        let mut seen = Vec::new();
        loop {
            let text = String::from_utf8_lossy(&seen);
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = head
                    .lines()
                    .find_map(|line| line.strip_prefix("content-length: "))
                    .map_or(0, |length| length.parse().unwrap_or(0));
                if body.len() >= length {
                    return text.into_owned();
                }
            }
            match self.wire.read_buf(&mut seen).await {
                Ok(0) | Err(_) => return String::new(),
                Ok(_) => {}
            }
        }
    }

    /// Writes these bytes; false if the other side has gone.
    pub async fn say(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.wire.write_all(bytes.as_ref()).await.is_ok() && self.wire.flush().await.is_ok()
    }

    /// Writes these bytes one at a time, with a pause before each.
    pub async fn trickle(&mut self, bytes: impl AsRef<[u8]>, pause: Duration) {
        for byte in bytes.as_ref() {
            tokio::time::sleep(pause).await;
            if !self.say([*byte]).await {
                return;
            }
        }
    }

    /// Writes these bytes over and over until the other side has gone, and returns how many it could.
    pub async fn say_for_ever(&mut self, bytes: impl AsRef<[u8]>) -> usize {
        let mut said = 0;
        while self.say(bytes.as_ref()).await {
            said += bytes.as_ref().len();
        }
        said
    }

    /// Reads on until the other side has gone.
    pub async fn wait_gone(&mut self) {
        let mut buffer = [0; 4096];
        while matches!(self.wire.read(&mut buffer).await, Ok(1..)) {}
    }

    /// Ends the connection by a TCP reset.
    pub fn reset(self) {
        let socket = match &self.wire {
            Either::Left(stream) => stream,
            Either::Right(stream) => stream.get_ref().0,
        };
        socket.set_zero_linger().ok();
    }

    /// Begins HTTP/2 with these settings, each an identifier and a value.
    pub async fn begin_http2(&mut self, settings: &[(u16, u32)]) {
        let mut preface = [0; 24];
        self.wire.read_exact(&mut preface).await.ok();
        let payload: Vec<u8> = settings
            .iter()
            .flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
            .collect();
        self.frame(SETTINGS, 0, 0, &payload).await;
    }

    /// Reads frames up to the end of a request and returns its stream; 0 if the connection ended before.
    pub async fn http2_request(&mut self) -> u32 {
        loop {
            let Some((kind, flags, stream)) = self.read_frame().await else {
                return 0;
            };
            if matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0 {
                return stream;
            }
        }
    }

    /// Reads one frame: kind, flags, stream.
    pub async fn read_frame(&mut self) -> Option<(u8, u8, u32)> {
        let mut head = [0; 9];
        self.wire.read_exact(&mut head).await.ok()?;
        let [a, b, c, kind, flags, stream @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        self.wire.read_exact(&mut payload).await.ok()?;
        if kind == SETTINGS && flags == 0 {
            self.frame(SETTINGS, 1, 0, &[]).await;
        }
        Some((kind, flags, u32::from_be_bytes(stream)))
    }

    /// Writes one frame; false if the other side has gone.
    pub async fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> bool {
        self.say(frame(kind, flags, stream, payload)).await
    }
}

/// The bytes of one frame of HTTP/2.
///
/// # Panics
/// If the payload is larger than a frame can be.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [zero, length @ ..] = u32::try_from(payload.len())
        .expect("a frame is small")
        .to_be_bytes();
    assert_eq!(zero, 0, "a frame has a length of three bytes");
    [&length[..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

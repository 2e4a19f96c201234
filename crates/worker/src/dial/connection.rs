//! A connection that has passed the guard. It is counted while it is open, so that what idles in the pool is bounded
//! over all hosts, not only per host; and who floods it neither holds a thread for long nor is read for ever.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use hyper_util::client::legacy::connect::{Connected, Connection};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// After so many bytes the others have their turn: a flood of tiny messages (interim answers, pings) is always ready,
/// and each of them is work.
const READ_BYTES_PER_TURN: usize = 16 * 1024;
/// HTTP/1 is never read further before a byte of ours: an answer may have 64 KiB of a head and 16 KiB of a body in the
/// smallest chunks. It ends who sends interim answers without end, which hyper reads and drops.
const READ_BYTES_UNANSWERED_MAX: usize = 256 * 1024;
/// The same for HTTP/2, where many answers share a connection: more than its windows, whose reading is told.
const HTTP2_READ_BYTES_UNANSWERED_MAX: usize = 2 * 1024 * 1024;

/// Connections open in this process.
#[derive(Clone, Debug)]
pub(super) struct Open {
    count: Arc<AtomicUsize>,
    kept_max: usize,
}

impl Open {
    /// A connection that is made while `kept_max` others are open is closed after its attempt instead of being kept.
    pub(super) fn new(kept_max: usize) -> Self {
        Self {
            count: Arc::default(),
            kept_max,
        }
    }

    pub(super) fn connection(&self, stream: TcpStream) -> Guarded {
        let others = self.count.fetch_add(1, Ordering::Relaxed);
        Guarded {
            stream,
            kept: others < self.kept_max,
            count: Arc::clone(&self.count),
            read_this_turn: 0,
            read_unanswered: 0,
            read_unanswered_max: AtomicUsize::new(READ_BYTES_UNANSWERED_MAX),
        }
    }
}

/// A TCP connection to an address that was checked.
#[derive(Debug)]
pub(crate) struct Guarded {
    stream: TcpStream,
    kept: bool,
    count: Arc<AtomicUsize>,
    read_this_turn: usize,
    read_unanswered: usize,
    read_unanswered_max: AtomicUsize,
}

impl Guarded {
    /// ALPN has settled on HTTP/2.
    pub(crate) fn speaks_http2(&self) {
        self.read_unanswered_max
            .store(HTTP2_READ_BYTES_UNANSWERED_MAX, Ordering::Relaxed);
    }

    #[cfg(test)]
    pub(super) fn peer(&self) -> std::net::SocketAddr {
        self.stream.peer_addr().expect("it is connected")
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Connection for Guarded {
    fn connected(&self) -> Connected {
        let connected = Connected::new();
        if !self.kept {
            connected.poison();
        }
        connected
    }
}

impl AsyncRead for Guarded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.read_unanswered > *self.read_unanswered_max.get_mut() {
            return Poll::Ready(Err(io::Error::other("it sends without end")));
        }
        if self.read_this_turn >= READ_BYTES_PER_TURN {
            self.read_this_turn = 0;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        if polled.is_pending() {
            self.read_this_turn = 0;
        }
        let read = buffer.filled().len() - before;
        self.read_this_turn += read;
        self.read_unanswered += read;
        polled
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.read_unanswered = 0;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.read_unanswered = 0;
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }
}

//! Connections: as many at a time as there is room for, each with limits on how slowly a request's head may come, on its
//! size and on the connection's age, so that who sends or reads nothing holds no place for long. At a stop each one ends
//! with the request that is under way.

use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// Connections at a time; more wait in the listener's queue. Each may hold two buffers of [`BUFFER_BYTES_MAX`].
const CONNECTIONS_MAX: usize = 1024;
/// From a connection's first moment, or from its last answer, to the end of a request's head.
const HEAD_LIMIT: Duration = Duration::from_secs(10);
/// Of a request's head; a token is a few hundred bytes. 431 above it.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// Of what is read ahead and of what is written but not taken.
const BUFFER_BYTES_MAX: usize = 64 << 10;
/// After this a connection ends with the request under way, so that one whose client takes no answer ends, too.
const AGE_MAX: Duration = Duration::from_secs(300);
/// What stops accepting (no file descriptors left) is over soon, or isn't ours to mend.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);
/// Kept of the grace for the rest of the process.
const CLOSE_RESERVE: Duration = Duration::from_secs(1);

/// How long what is under way may go on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// One request.
    pub(crate) request: Duration,
    /// All of them, once it stops.
    pub(crate) grace: Duration,
}

/// Serves until `stop`, then until what is under way has ended, within the grace.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    stop: CancellationToken,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            // Each may be dropped: a connection is accepted or not, an ended task is taken or not.
            () = stop.cancelled() => break,
            Some(ended) = connections.join_next() => note(ended),
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(converse(stream, router.clone(), limits.request, stop.clone()));
                    if connections.len() == CONNECTIONS_MAX {
                        tracing::warn!(connections = CONNECTIONS_MAX, "as many connections as there may be; others wait");
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection can't be accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    let drained = timeout(limits.grace.saturating_sub(CLOSE_RESERVE), async {
        while let Some(ended) = connections.join_next().await {
            note(ended);
        }
    });
    if drained.await.is_err() {
        tracing::warn!(
            connections = connections.len(),
            "requests weren't over within shutdown.grace and are broken off"
        );
        connections.shutdown().await;
    }
}

/// One connection to its end.
async fn converse(
    stream: TcpStream,
    router: Router,
    request_max: Duration,
    stop: CancellationToken,
) {
    // Answers are written whole: waiting for more to send with them would only delay them. Fails on dead sockets alone.
    stream.set_nodelay(true).ok();
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .max_header_size(HEAD_BYTES_MAX)
        .max_buf_size(BUFFER_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    tokio::pin!(connection);
    tokio::select! {
        // A client that breaks off, is too slow or speaks no HTTP is no fault of ours.
        _ = connection.as_mut() => return,
        () = stop.cancelled() => {}
        () = sleep(AGE_MAX) => {}
    }
    connection.as_mut().graceful_shutdown();
    timeout(request_max, connection).await.ok();
}

fn note(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a request's task broke");
    }
}

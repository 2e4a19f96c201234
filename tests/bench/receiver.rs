//! The light receiver, a process of its own: it answers at once, counts, and notes how old each event is. `/ok/…` gets
//! 200, `/fail/…` gets 500.
//!
//! `/bench/reset` forgets all; `/bench/seen` tells what came since, and `/bench/latencies` how long each took, as JSON.

use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::task::LocalSet;

use crate::event;

/// What came since the last reset.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Seen {
    /// Requests answered with 200.
    pub(crate) accepted: u64,
    /// Requests answered with 500.
    pub(crate) refused: u64,
}

/// All that is kept.
#[derive(Default)]
struct Kept {
    seen: Seen,
    /// From an event's making to its request, microseconds.
    latencies_us: Vec<u32>,
}

/// Serves on a free port of 127.0.0.1, which it tells its parent.
pub(crate) fn run() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    LocalSet::new().block_on(&runtime, async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        crate::child::tell(&listener.local_addr()?.to_string())?;
        let kept = Rc::new(RefCell::new(Kept::default()));
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let kept = Rc::clone(&kept);
            let service = service_fn(move |request| answer(request, Rc::clone(&kept)));
            tokio::task::spawn_local(
                http1::Builder::new().serve_connection(TokioIo::new(stream), service),
            );
        }
    })
}

async fn answer(
    request: Request<Incoming>,
    kept: Rc<RefCell<Kept>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let arrived = event::now_ns();
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    if let Some(question) = path.strip_prefix("/bench/") {
        let json = match question {
            "reset" => {
                kept.take();
                Ok(Vec::new())
            }
            "seen" => serde_json::to_vec(&kept.borrow().seen),
            _ => serde_json::to_vec(&kept.borrow().latencies_us),
        };
        return Ok(Response::new(json.expect("numbers only").into()));
    }
    let made = read(body).await;
    let Kept { seen, latencies_us } = &mut *kept.borrow_mut();
    let mut response = Response::default();
    if path.starts_with("/fail/") {
        seen.refused += 1;
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        return Ok(response);
    }
    seen.accepted += 1;
    if let Some(made) = made {
        let microseconds = arrived.saturating_sub(made) / 1000;
        latencies_us.push(u32::try_from(microseconds).unwrap_or(u32::MAX));
    }
    Ok(response)
}

/// Reads all of it; returns when its event was made.
async fn read(mut body: Incoming) -> Option<u64> {
    let mut made = None;
    while let Some(Ok(frame)) = body.frame().await {
        if let Some(data) = frame.data_ref() {
            made = made.or_else(|| event::made_ns(data));
        }
    }
    made
}

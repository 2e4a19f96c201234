//! The receivers of the demo: one listener, one path per subscription, each behaving as its story says and verifying
//! what comes.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::body::to_bytes;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use tokio::net::TcpListener;
use webhook::SigningKey;

use super::story::{Manner, RECOVERS_AT, STORIES};
use crate::receive::{text, verify};

const BODY_BYTES_MAX: usize = 2 << 20;

/// What has come to one path.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    pub(super) requests: u32,
    pub(super) signed: u32,
}

/// One path: what signs its requests, and what has come.
#[derive(Default)]
struct Road {
    key: Option<SigningKey>,
    seen: Seen,
}

/// The receivers' keys and counts by path. Cloning shares them.
#[derive(Clone, Default)]
pub(super) struct Receivers {
    paths: Arc<Mutex<HashMap<&'static str, Road>>>,
}

impl Receivers {
    /// A free port of this machine's loopback.
    pub(super) async fn bind() -> std::io::Result<(TcpListener, SocketAddr)> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    }

    /// Answers until the process ends.
    pub(super) async fn serve(self, listener: TcpListener) {
        let routes = Router::new().fallback(receive).with_state(self);
        if let Err(error) = axum::serve(listener, routes).await {
            tracing::error!(%error, "the demo's receivers broke");
        }
    }

    /// What signs the requests to that path.
    pub(super) fn expect(&self, name: &'static str, key: SigningKey) {
        self.lock().insert(
            name,
            Road {
                key: Some(key),
                seen: Seen::default(),
            },
        );
    }

    pub(super) fn seen(&self, name: &str) -> Seen {
        self.lock()
            .get(name)
            .map(|road| road.seen)
            .unwrap_or_default()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<&'static str, Road>> {
        self.paths.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn receive(State(receivers): State<Receivers>, request: Request) -> StatusCode {
    let (head, body) = request.into_parts();
    let Some(story) = STORIES
        .iter()
        .find(|story| head.uri.path().strip_prefix('/') == Some(story.name))
    else {
        return StatusCode::NOT_FOUND;
    };
    let Ok(body) = to_bytes(body, BODY_BYTES_MAX).await else {
        return StatusCode::PAYLOAD_TOO_LARGE;
    };
    let mut paths = receivers.lock();
    let Road { key, seen } = paths.entry(story.name).or_default();
    seen.requests += 1;
    let verified = verify(key.as_slice(), &head.headers, &body);
    // The method and the header of its own are part of the story.
    let as_asked = head.method.as_str() == story.method.as_str()
        && (story.method == webhook::Method::Post
            || text(&head.headers, "x-api-key") == "demo-key");
    if verified.is_err() || !as_asked {
        return StatusCode::UNAUTHORIZED;
    }
    seen.signed += 1;
    let attempt: u32 = text(&head.headers, "postrider-attempt")
        .parse()
        .unwrap_or(0);
    match story.manner {
        Manner::RecoversAtThird if attempt < RECOVERS_AT => StatusCode::SERVICE_UNAVAILABLE,
        Manner::NeverWell => StatusCode::INTERNAL_SERVER_ERROR,
        Manner::Well | Manner::RecoversAtThird => StatusCode::NO_CONTENT,
    }
}

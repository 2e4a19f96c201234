//! One HTTP request and its whole answer, for the management API, metrics and probes. A new connection each time: no
//! pool that could hide what a server does.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{HeaderMap, Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// The whole exchange.
const LIMIT: Duration = Duration::from_secs(20);

/// What came back.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

impl Answer {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// If it isn't any.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error} in {:?}", self.text()))
    }

    /// A header, if it is there and text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// Sends a request without a body; `http://` only, user and password of the URL as basic authentication.
///
/// # Errors
/// If there is no whole answer within 20 s.
pub async fn call(method: Method, url: &str) -> anyhow::Result<Answer> {
    call_with(method, url, &[], "").await
}

/// The same with headers and a body.
///
/// # Errors
/// If there is no whole answer within 20 s.
pub async fn call_with(
    method: Method,
    url: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> anyhow::Result<Answer> {
    tokio::time::timeout(LIMIT, exchange(method, url, headers, body.into()))
        .await
        .context("no answer in time")?
}

async fn exchange(
    method: Method,
    url: &str,
    headers: &[(&str, &str)],
    body: Bytes,
) -> anyhow::Result<Answer> {
    let uri: Uri = url.parse().context("not a URL")?;
    ensure!(uri.scheme_str() == Some("http"), "only http is spoken here");
    let authority = uri.authority().context("a URL without a host")?.as_str();
    let (user, address) = match authority.rsplit_once('@') {
        Some((user, address)) => (Some(user), address),
        None => (None, authority),
    };
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", address);
    if let Some(user) = user {
        request = request.header(
            "authorization",
            format!("Basic {}", base64::engine::Engine::encode(&STANDARD, user)),
        );
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(body))?;

    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let answered = async {
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        anyhow::Ok(Answer {
            status: head.status,
            headers: head.headers,
            body,
        })
    };
    tokio::pin!(answered);
    tokio::select! {
        answer = &mut answered => answer,
        // The connection may end together with the last byte of an answer that is already here.
        ended = connection => {
            ended?;
            answered.await
        }
    }
}

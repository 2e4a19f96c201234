//! `postrider receive`: a receiver that verifies what comes and prints one line for each request.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use axum::Router;
use axum::body::to_bytes;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use tokio::net::TcpListener;
use webhook::{Secret, SigningKey, VerifyError};

use crate::cli::ReceiveArguments;
use crate::config::{Config, ConfigError};
use crate::signals::Signals;
use crate::{output, telemetry};

/// Above any envelope of the defaults.
const BODY_BYTES_MAX: usize = 16 << 20;
/// What the official libraries tolerate.
const TOLERANCE_SECONDS: u64 = 300;

/// Receives until a signal. Of the configuration only `log` concerns it.
///
/// # Errors
/// A secret that can't be read, or an address that is taken.
pub(crate) async fn run(config: &Config, arguments: ReceiveArguments) -> anyhow::Result<ExitCode> {
    let keys = arguments
        .secret
        .iter()
        .map(|secret| key(secret))
        .collect::<Result<Vec<_>, _>>()?;
    telemetry::log(&config.log)?;
    let mut signals = Signals::listen()?;
    let listener = listen(arguments.listen).await?;
    tracing::info!(
        "receiving on http://{}; Ctrl-C ends it",
        listener.local_addr()?
    );
    let routes = Router::new().fallback(receive).with_state(Arc::new(keys));
    axum::serve(listener, routes)
        .with_graceful_shutdown(async move { signals.next().await })
        .await?;
    Ok(ExitCode::SUCCESS)
}

async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("--listen: can't listen on {address}"))
}

/// `whsec_…` as the official libraries take it, or the secret's own text.
fn key(secret: &str) -> Result<SigningKey, ConfigError> {
    if !secret.starts_with("whsec_") {
        return Ok(SigningKey::from(&Secret::new(secret.to_owned())));
    }
    SigningKey::from_signing_secret(secret)
        .map_err(|_| ConfigError(vec!["--secret: what follows whsec_ isn't base64".into()]))
}

async fn receive(
    State(keys): State<Arc<Vec<SigningKey>>>,
    request: Request,
) -> (StatusCode, String) {
    let (head, body) = request.into_parts();
    let Ok(body) = to_bytes(body, BODY_BYTES_MAX).await else {
        return (
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the body is above {BODY_BYTES_MAX} bytes\n"),
        );
    };
    let header = |name| text(&head.headers, name);
    let verified = verify(&keys, &head.headers, &body);
    let verdict = match &verified {
        Ok(()) => "ok".to_owned(),
        Err(error) => format!("INVALID ({error})"),
    };
    // Nobody to read it is no reason to refuse a delivery.
    drop(output::line(&format!(
        "{verdict} {} {} {} attempt {} {} {} bytes",
        head.method,
        printable(head.uri.path()),
        printable(header("webhook-id")),
        printable(header("postrider-attempt")),
        printable(&event_type(&body)),
        body.len()
    )));
    match verified {
        Ok(()) => (StatusCode::NO_CONTENT, String::new()),
        Err(error) => (StatusCode::UNAUTHORIZED, format!("{error}\n")),
    }
}

/// Verifies a request as it came, at this moment.
///
/// # Errors
/// Why it isn't to be believed.
pub(crate) fn verify(
    keys: &[SigningKey],
    headers: &HeaderMap,
    body: &[u8],
) -> Result<(), VerifyError> {
    let header = |name| text(headers, name);
    webhook::verify(
        keys,
        header("webhook-id"),
        header("webhook-timestamp"),
        header("webhook-signature"),
        body,
        unix_seconds(),
        TOLERANCE_SECONDS,
    )
}

/// A header's text; nothing if it is absent or none.
pub(crate) fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
}

fn event_type(body: &[u8]) -> String {
    let envelope: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let found = envelope
        .pointer("/data/analyticsEvent")
        .or(envelope.pointer("/data/0/analyticsEvent"));
    found
        .and_then(serde_json::Value::as_str)
        .unwrap_or_default()
        .to_owned()
}

/// What comes from outside, fit for a terminal.
fn printable(text: &str) -> String {
    if text.is_empty() {
        return "-".into();
    }
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .take(256)
        .collect()
}

/// Seconds since 1970.
fn unix_seconds() -> i64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(now.as_secs()).unwrap_or(i64::MAX)
}

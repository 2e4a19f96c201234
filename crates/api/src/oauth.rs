//! `POST /oauth2/token`: client credentials (RFC 6749, section 4.4). Its errors have the RFC's shape, not RFC 9457's.

use std::borrow::Cow;
use std::num::NonZeroU32;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use serde_json::json;
use store::{Credential, Store};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use url::form_urlencoded;

use crate::access::Access;
use crate::credentials::is_client_id;
use crate::problem::Problem;
use crate::secrets;
use crate::token::LIFETIME_SECONDS;

/// Tokens of one client a minute; they are good for an hour.
const PER_MINUTE: NonZeroU32 = NonZeroU32::new(60).unwrap();

/// Clients that are looked up at a time. Anybody may ask for any, and `serve` commits by the same connections.
const LOOKUPS_MAX: usize = 2;
/// For a turn to look one up.
const TURN_LIMIT: Duration = Duration::from_secs(2);

/// What bounds the token endpoint, which anybody may ask.
pub(crate) struct TokenLimits {
    /// Per client. All that aren't known share one.
    rates: DefaultKeyedRateLimiter<String>,
    lookups: Semaphore,
}

/// What was sent, wherever it stood.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    pub(crate) grant_type: Option<String>,
    pub(crate) client_id: Option<String>,
    pub(crate) client_secret: Option<String>,
}

impl Asked {
    /// RFC 6749, section 3.2: a parameter without a value is left out, one that isn't known ignored, none stands twice.
    fn put(&mut self, name: &str, value: Cow<'_, str>) -> Result<(), Refusal> {
        let place = match name {
            "grant_type" => &mut self.grant_type,
            "client_id" => &mut self.client_id,
            "client_secret" => &mut self.client_secret,
            _ => return Ok(()),
        };
        if value.is_empty() {
            return Ok(());
        }
        match place.replace(value.into_owned()) {
            None => Ok(()),
            Some(_) => Err(bad("invalid_request", "a parameter stands twice")),
        }
    }
}

/// An error of RFC 6749, section 5.2.
pub(crate) struct Refusal {
    status: StatusCode,
    error: &'static str,
    description: &'static str,
    retry_after_seconds: Option<u64>,
}

impl TokenLimits {
    pub(crate) fn new() -> Self {
        Self {
            rates: RateLimiter::keyed(Quota::per_minute(PER_MINUTE)),
            lookups: Semaphore::new(LOOKUPS_MAX),
        }
    }

    /// The client, if it is known: looked up when it is its turn.
    async fn look_up(&self, store: &Store, client_id: &str) -> Result<Option<Credential>, Refusal> {
        // What can be no client's name costs nothing.
        if !is_client_id(client_id) {
            return Ok(None);
        }
        let _turn = timeout(TURN_LIMIT, self.lookups.acquire())
            .await
            .map_err(|_| {
                unavailable("too many ask for tokens now, or the database is slow; try again")
            })?
            .expect("nobody closes it");
        store.credential(client_id).await.map_err(|error| {
            tracing::warn!(%error, "a token can't be given now");
            unavailable("the database doesn't answer; try again")
        })
    }

    /// Seconds to wait, if the client has asked too often.
    fn wait_seconds(&self, client_id: &str) -> Option<u64> {
        let refused = self.rates.check_key(&client_id.to_owned()).err()?;
        Some(
            refused
                .wait_time_from(DefaultClock::default().now())
                .as_secs()
                + 1,
        )
    }
}

/// Answers with a token, or says why not.
pub(crate) async fn token(
    store: &Store,
    access: &Access,
    limits: &TokenLimits,
    headers: &HeaderMap,
    query: &str,
    body: &[u8],
) -> Response {
    let answer = match read(headers, query, body) {
        Ok(asked) => grant(store, access, limits, &asked).await,
        Err(refusal) => Err(refusal),
    };
    respond(answer)
}

/// The answer to a request whose body can't be read.
pub(crate) fn unread(problem: &Problem) -> Response {
    respond(Err(Refusal {
        status: problem.status,
        error: "invalid_request",
        description: "the body is too large or too slow, or breaks off",
        retry_after_seconds: None,
    }))
}

fn respond(answer: Result<String, Refusal>) -> Response {
    let (status, body, retry_after) = match answer {
        Ok(token) => {
            let body = json!({"access_token": token, "token_type": "Bearer", "expires_in": LIFETIME_SECONDS});
            (StatusCode::OK, body, None)
        }
        Err(refusal) => {
            let body = json!({"error": refusal.error, "error_description": refusal.description});
            (refusal.status, body, refusal.retry_after_seconds)
        }
    };
    let mut response = (
        status,
        [
            (
                header::CONTENT_TYPE,
                HeaderValue::from_static("application/json"),
            ),
            (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
            (header::PRAGMA, HeaderValue::from_static("no-cache")),
        ],
        body.to_string(),
    )
        .into_response();
    if status == StatusCode::UNAUTHORIZED {
        let challenge = HeaderValue::from_static("Basic realm=\"postrider\"");
        response
            .headers_mut()
            .insert(header::WWW_AUTHENTICATE, challenge);
    }
    if let Some(seconds) = retry_after {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

async fn grant(
    store: &Store,
    access: &Access,
    limits: &TokenLimits,
    asked: &Asked,
) -> Result<String, Refusal> {
    match asked.grant_type.as_deref() {
        Some("client_credentials") => {}
        Some(_) => {
            return Err(bad(
                "unsupported_grant_type",
                "grant_type must be client_credentials",
            ));
        }
        None => return Err(bad("invalid_request", "grant_type is missing")),
    }
    let keys = access.keys.as_ref().ok_or_else(|| {
        bad(
            "unsupported_grant_type",
            "no tokens are made here; the operator has an issuer of their own",
        )
    })?;
    let (Some(client_id), Some(client_secret)) = (&asked.client_id, &asked.client_secret) else {
        return Err(invalid_client());
    };
    let credential = limits.look_up(store, client_id).await?;
    let limited = credential
        .as_ref()
        .map_or("", |credential| &credential.client_id);
    if let Some(seconds) = limits.wait_seconds(limited) {
        return Err(Refusal {
            status: StatusCode::TOO_MANY_REQUESTS,
            error: "slow_down",
            description: "too many tokens were asked for; a token is good for an hour",
            retry_after_seconds: Some(seconds),
        });
    }
    let good = |credential: &Credential| secrets::matches(client_secret, &credential.secret_hash);
    let credential = credential.filter(good).ok_or_else(invalid_client)?;
    keys.sign(&credential, unix_seconds()).ok_or(Refusal {
        status: StatusCode::INTERNAL_SERVER_ERROR,
        error: "server_error",
        description: "no token could be made",
        retry_after_seconds: None,
    })
}

pub(crate) fn read(headers: &HeaderMap, query: &str, body: &[u8]) -> Result<Asked, Refusal> {
    let mut asked = Asked::default();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        if name == "client_secret" {
            return Err(bad(
                "invalid_request",
                "client_secret must not stand in the URL, which is logged",
            ));
        }
        asked.put(&name, value)?;
    }
    let kind = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or("");
    let is_form = kind.split(';').next().is_some_and(|kind| {
        kind.trim()
            .eq_ignore_ascii_case("application/x-www-form-urlencoded")
    });
    if !body.is_empty() && !is_form {
        return Err(bad(
            "invalid_request",
            "the body must be application/x-www-form-urlencoded",
        ));
    }
    for (name, value) in form_urlencoded::parse(body) {
        asked.put(&name, value)?;
    }
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        let (client_id, client_secret) = value
            .to_str()
            .ok()
            .and_then(basic)
            .ok_or_else(invalid_client)?;
        if asked.client_secret.is_some() {
            return Err(bad(
                "invalid_request",
                "authenticate once: by HTTP Basic or in the form",
            ));
        }
        (asked.client_id, asked.client_secret) = (Some(client_id), Some(client_secret));
    }
    Ok(asked)
}

/// RFC 6749, section 2.3.1: both parts are form-encoded before they are joined.
fn basic(value: &str) -> Option<(String, String)> {
    let (scheme, encoded) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let text = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (client_id, client_secret) = text.split_once(':')?;
    let decoded = |part: &str| {
        form_urlencoded::parse(format!("v={part}").as_bytes())
            .next()
            .map(|(_, value)| value.into_owned())
    };
    Some((decoded(client_id)?, decoded(client_secret)?))
}

fn bad(error: &'static str, description: &'static str) -> Refusal {
    Refusal {
        status: StatusCode::BAD_REQUEST,
        error,
        description,
        retry_after_seconds: None,
    }
}

fn invalid_client() -> Refusal {
    Refusal {
        status: StatusCode::UNAUTHORIZED,
        error: "invalid_client",
        description: "the client isn't known, or its secret is wrong",
        retry_after_seconds: None,
    }
}

fn unavailable(description: &'static str) -> Refusal {
    Refusal {
        status: StatusCode::SERVICE_UNAVAILABLE,
        error: "temporarily_unavailable",
        description,
        retry_after_seconds: Some(5),
    }
}

fn unix_seconds() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

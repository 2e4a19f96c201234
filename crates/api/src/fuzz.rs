//! What reads requests, opened for `fuzz`. Nothing else calls it.

use axum::http::{HeaderMap, HeaderValue, header};
use serde_json::{Map, Value};
use webhook::{AddressPolicy, DeliveryStatus, Fault, Subscription};

use crate::body::{self, MERGE_PATCH};
use crate::events::{self, Message};
use crate::jwks::JwkSet;
use crate::subscription_body::{self, UrlRules};
use crate::token::{Claims, TokenKeys};
use crate::{deliveries, oauth};

/// A new subscription over an empty one; none if the body isn't JSON.
pub fn read_new(body: &[u8], empty: Subscription) -> Option<Result<Subscription, Vec<Fault>>> {
    Some(object(body)?.and_then(|object| subscription_body::read_new(&object, empty, &rules())))
}

/// What a merge patch makes of a subscription; none if the body isn't JSON.
pub fn read_patch(body: &[u8], standing: Subscription) -> Option<Result<Subscription, Vec<Fault>>> {
    Some(object(body)?.and_then(|object| subscription_body::patch(&object, standing, &rules())))
}

/// The message of each event, or what is wrong; nothing wrong but no JSON is an empty list.
///
/// # Errors
/// All faults.
pub fn read_events(
    environment_id: &str,
    body: &[u8],
    message_bytes_max: usize,
) -> Result<Vec<Message>, Vec<Fault>> {
    events::messages(environment_id, body, message_bytes_max).map_err(|problem| problem.faults)
}

/// `sub`, `env` and role of a token that this key of `auth.token_keys` verifies.
pub fn verify_token(key: &[u8], token: &str) -> Option<[String; 3]> {
    claims(TokenKeys::new(&[key.to_vec()])?.verify(token)?)
}

/// A set of public keys.
pub struct Keys(JwkSet);

impl Keys {
    /// Reads a set.
    ///
    /// # Errors
    /// All that is wrong.
    pub fn parse(text: &[u8]) -> Result<Self, Vec<String>> {
        JwkSet::parse(text).map(Self)
    }

    /// How many keys there are to verify with.
    pub fn count(&self) -> usize {
        self.0.keys.len()
    }

    /// `sub`, `env` and role of a token that one of the keys verifies.
    pub fn verify(&self, token: &str) -> Option<[String; 3]> {
        claims(self.0.verify(token)?)
    }
}

/// What a query asks of the log.
#[derive(Debug, PartialEq)]
pub struct Page {
    /// `status`.
    pub status: Option<DeliveryStatus>,
    /// `before`, as it would be given out.
    pub before: Option<String>,
    /// `limit`.
    pub limit: Option<u32>,
}

/// Reads a query; none if it isn't as it must be.
pub fn read_page(query: &str) -> Option<Page> {
    let wanted = deliveries::read(query).ok()?;
    Some(Page {
        status: wanted.status,
        before: wanted.before.map(deliveries::cursor),
        limit: wanted.limit,
    })
}

/// `grant_type`, `client_id` and `client_secret` of a form posted to `/oauth2/token`; none if it is refused.
pub fn read_client(
    authorization: Option<HeaderValue>,
    query: &str,
    form: &[u8],
) -> Option<[Option<String>; 3]> {
    let mut headers = HeaderMap::new();
    let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
    headers.insert(header::CONTENT_TYPE, kind);
    if let Some(value) = authorization {
        headers.insert(header::AUTHORIZATION, value);
    }
    let asked = oauth::read(&headers, query, form).ok()?;
    Some([asked.grant_type, asked.client_id, asked.client_secret])
}

fn object(bytes: &[u8]) -> Option<Result<Map<String, Value>, Vec<Fault>>> {
    let mut headers = HeaderMap::new();
    let kind = HeaderValue::from_static("application/merge-patch+json");
    headers.insert(header::CONTENT_TYPE, kind);
    match body::object(&headers, bytes, MERGE_PATCH) {
        Ok(object) => Some(Ok(object)),
        Err(problem) if problem.faults.is_empty() => None,
        Err(problem) => Some(Err(problem.faults)),
    }
}

fn rules() -> UrlRules {
    UrlRules {
        require_https: true,
        addresses: AddressPolicy::default(),
    }
}

fn claims(claims: Claims) -> Option<[String; 3]> {
    let role = claims.role()?.as_str().to_owned();
    Some([claims.sub, claims.env, role])
}

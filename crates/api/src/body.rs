//! Request bodies: bounded, of the right media type, JSON, an object.

use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, header};
use bytes::Bytes;
use serde_json::{Map, Value};
use webhook::{Fault, escape_pointer};

use crate::problem::Problem;

/// For what is made or done.
pub(crate) const JSON: &[&str] = &["application/json"];
/// For changes: RFC 7396 has a type of its own.
pub(crate) const MERGE_PATCH: &[&str] = &["application/json", "application/merge-patch+json"];

/// Reads a body to its end.
///
/// # Errors
/// 413; 400 if it breaks off.
pub(crate) async fn read(body: Body, bytes_max: usize) -> Result<Bytes, Problem> {
    to_bytes(body, bytes_max).await.map_err(|error| {
        let mut source: Option<&(dyn std::error::Error + 'static)> = Some(&error);
        while let Some(error) = source {
            if error.to_string().contains("length limit exceeded") {
                return Problem::too_large(bytes_max);
            }
            source = error.source();
        }
        Problem::not_json("the body breaks off")
    })
}

/// A body's object.
///
/// # Errors
/// 415, 400; 422 if it is something else.
pub(crate) fn object(
    headers: &HeaderMap,
    body: &[u8],
    kinds: &[&str],
) -> Result<Map<String, Value>, Problem> {
    expect_kind(headers, kinds)?;
    match serde_json::from_slice(body) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(Problem::invalid(vec![Fault::new("#", "must be an object")])),
        Err(error) => Err(Problem::not_json(error.to_string())),
    }
}

/// The same for a body that may be absent.
///
/// # Errors
/// As [`object`].
pub(crate) fn optional_object(
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Map<String, Value>, Problem> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(Map::new());
    }
    object(headers, body, JSON)
}

/// The media type, parameters aside.
///
/// # Errors
/// 415.
pub(crate) fn expect_kind(headers: &HeaderMap, kinds: &[&str]) -> Result<(), Problem> {
    let given = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or("");
    let given = given.split(';').next().unwrap_or("").trim();
    if kinds.iter().any(|kind| given.eq_ignore_ascii_case(kind)) {
        return Ok(());
    }
    Err(Problem::media_type(&kinds.join(" or ")))
}

/// What stands in an object that isn't known.
pub(crate) fn unknown_keys(object: &Map<String, Value>, known: &[&str]) -> Vec<Fault> {
    object
        .keys()
        .filter(|key| !known.contains(&key.as_str()))
        .map(|key| Fault::new(pointer(key), "is not known"))
        .collect()
}

/// A member's JSON pointer, as a URI's fragment.
pub(crate) fn pointer(key: &str) -> String {
    format!("#/{}", escape_pointer(key))
}

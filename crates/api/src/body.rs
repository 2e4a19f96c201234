//! Request bodies: bounded, of the right media type, JSON, an object.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, header};
use bytes::Bytes;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde_json::{Map, Value};
use tokio::time::timeout;
use webhook::{Fault, escape_pointer};

use crate::problem::{FAULTS_MAX, Problem};

/// For what is made or done.
pub(crate) const JSON: &[&str] = &["application/json"];
/// For changes: RFC 7396 has a type of its own.
pub(crate) const MERGE_PATCH: &[&str] = &["application/json", "application/merge-patch+json"];
/// For a whole body: 4 MiB at 140 KiB/s.
const LIMIT: Duration = Duration::from_secs(30);

/// Reads a body to its end.
///
/// # Errors
/// 413, 408; 400 if it breaks off.
pub(crate) async fn read(body: Body, bytes_max: usize) -> Result<Bytes, Problem> {
    let whole = Limited::new(body, bytes_max).collect();
    match timeout(LIMIT, whole).await {
        Ok(Ok(read)) => Ok(read.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Problem::too_large(bytes_max)),
        Ok(Err(_)) => Err(Problem::not_json("the body breaks off")),
        Err(_) => Err(Problem::slow_body()),
    }
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

/// What stands in an object that isn't known, as far as it is told.
pub(crate) fn unknown_keys(object: &Map<String, Value>, known: &[&str]) -> Vec<Fault> {
    object
        .keys()
        .filter(|key| !known.contains(&key.as_str()))
        .take(FAULTS_MAX + 1)
        .map(|key| Fault::new(pointer(key), "is not known"))
        .collect()
}

/// The object that a member is, which may have these keys; none for null, which is its absence, and for what is wrong.
pub(crate) fn object_or_null<'v>(
    value: &'v Value,
    key: &str,
    known: &[&str],
    faults: &mut Vec<Fault>,
) -> Option<&'v Map<String, Value>> {
    let Value::Object(object) = value else {
        if !value.is_null() {
            faults.push(Fault::new(pointer(key), "must be an object or null"));
        }
        return None;
    };
    for fault in unknown_keys(object, known) {
        let within = pointer(key) + &fault.pointer[1..];
        faults.push(Fault::new(within, fault.detail));
    }
    Some(object)
}

/// A member's JSON pointer, as a URI's fragment.
pub(crate) fn pointer(key: &str) -> String {
    format!("#/{}", escape_pointer(key))
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::StatusCode;
    use http_body_util::StreamBody;
    use tokio::time::{Instant, sleep};

    use super::*;

    /// A byte a second, for ever.
    fn trickle() -> Body {
        let bytes = futures_util::stream::unfold((), |()| async {
            sleep(Duration::from_secs(1)).await;
            Some((
                Ok::<_, std::io::Error>(hyper::body::Frame::data(Bytes::from_static(b" "))),
                (),
            ))
        });
        Body::new(StreamBody::new(bytes))
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_trickles_is_given_up() {
        let begun = Instant::now();

        let refused = read(trickle(), 1 << 20).await.unwrap_err();

        assert_eq!(refused.status, StatusCode::REQUEST_TIMEOUT);
        assert_eq!(begun.elapsed(), LIMIT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_is_read_no_further_than_its_bound() {
        assert_eq!(read(Body::from("1234"), 4).await.unwrap(), "1234");

        let refused = read(trickle(), 4).await.unwrap_err();

        assert_eq!(refused.status, StatusCode::PAYLOAD_TOO_LARGE);
    }
}

//! The log: what became of each delivery, attempt by attempt.

use serde_json::{Value, json};
use store::{AttemptView, DeliveryView, LogCursor, Redelivered, Store};
use time::OffsetDateTime;
use url::form_urlencoded;
use uuid::Uuid;
use webhook::{DeadReason, DeliveryStatus, RequestId};

use crate::problem::Problem;
use crate::subscription_body::instant;

/// Deliveries of one page, unless the query says otherwise, and at most.
pub(crate) const LIMIT: u32 = 20;
pub(crate) const LIMIT_MAX: u32 = 100;

/// What the query asks for.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Wanted {
    pub(crate) status: Option<DeliveryStatus>,
    pub(crate) before: Option<LogCursor>,
    pub(crate) limit: Option<u32>,
}

/// `GET /v1/{env}/webhook/{id}/deliveries`.
pub(crate) async fn list(
    store: &Store,
    environment_id: &str,
    webhook_id: &str,
    query: &str,
) -> Result<Value, Problem> {
    let wanted = read(query)?;
    let limit = wanted.limit.unwrap_or(LIMIT);
    let page = store
        .deliveries(
            environment_id,
            webhook_id,
            wanted.status,
            wanted.before,
            limit,
        )
        .await?;
    // The log outlives its subscription; what has neither is not there.
    if page.deliveries.is_empty() && !store.exists(environment_id, webhook_id).await? {
        return Err(Problem::not_found());
    }
    Ok(json!({
        "data": page.deliveries.iter().map(show).collect::<Vec<_>>(),
        "next": page.next.map(cursor),
    }))
}

/// `GET /v1/{env}/deliveries/{requestId}`.
pub(crate) async fn get(
    store: &Store,
    environment_id: &str,
    request_id: &str,
) -> Result<Value, Problem> {
    let id = Uuid::parse_str(request_id).map_err(|_| Problem::not_found())?;
    let view = store.delivery(environment_id, RequestId(id)).await?;
    let view = view.ok_or_else(Problem::not_found)?;
    Ok(json!({"data": show(&view)}))
}

/// `POST /v1/{env}/deliveries/{requestId}/redeliver`: how it stands then.
pub(crate) async fn redeliver(
    store: &Store,
    environment_id: &str,
    request_id: &str,
) -> Result<Value, Problem> {
    let id = Uuid::parse_str(request_id).map_err(|_| Problem::not_found())?;
    match store.redeliver(environment_id, RequestId(id)).await? {
        Redelivered::Accepted => get(store, environment_id, request_id).await,
        Redelivered::Running => Err(Problem::conflict(
            "an attempt is under way: wait for what it comes to",
        )),
        Redelivered::SubscriptionEnded => Err(Problem::conflict(
            "its subscription is disabled or removed: PATCH a disabled one's status to active first",
        )),
        Redelivered::PayloadGone => Err(Problem::payload_gone()),
    }
}

fn show(view: &DeliveryView) -> Value {
    json!({
        "requestId": view.request_id.to_string(),
        "webhookId": view.webhook_id,
        "status": view.status.as_str(),
        "reason": view.reason.map(DeadReason::as_str),
        "created": instant(view.created),
        "nextAttempt": view.next_attempt.map(instant),
        "attempts": view.attempts.iter().map(show_attempt).collect::<Vec<_>>(),
    })
}

fn show_attempt(attempt: &AttemptView) -> Value {
    let response = attempt.response.as_deref();
    json!({
        "attempt": attempt.attempt,
        "started": instant(attempt.started),
        "durationMs": attempt.duration_ms,
        "outcome": attempt.outcome.as_str(),
        "status": attempt.status,
        "error": attempt.error,
        "response": response.map(String::from_utf8_lossy),
    })
}

/// Each of `status`, `before` and `limit` at most once; what else is in the query is let be.
pub(crate) fn read(query: &str) -> Result<Wanted, Problem> {
    let mut wanted = Wanted::default();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        let twice = match &*name {
            "status" => wanted.status.replace(read_status(&value)?).is_some(),
            "before" => wanted.before.replace(read_cursor(&value)?).is_some(),
            "limit" => wanted.limit.replace(read_limit(&value)?).is_some(),
            _ => false,
        };
        if twice {
            return Err(Problem::bad_query(&format!("{name} stands twice")));
        }
    }
    Ok(wanted)
}

fn read_status(value: &str) -> Result<DeliveryStatus, Problem> {
    let all = DeliveryStatus::ALL;
    let found = all.into_iter().find(|status| status.as_str() == value);
    found.ok_or_else(|| {
        let words = all.map(DeliveryStatus::as_str).join(", ");
        Problem::bad_query(&format!("status must be one of {words}"))
    })
}

fn read_limit(value: &str) -> Result<u32, Problem> {
    let number = value.parse().ok().filter(|_| !value.starts_with('+'));
    number
        .filter(|limit| (1..=LIMIT_MAX).contains(limit))
        .ok_or_else(|| Problem::bad_query(&format!("limit must be from 1 to {LIMIT_MAX}")))
}

/// Opaque to others: microseconds since 1970, and the requestId.
pub(crate) fn cursor(at: LogCursor) -> String {
    let micros = at.created.unix_timestamp_nanos() / 1000;
    format!("{micros}-{}", at.request_id.0.simple())
}

fn read_cursor(text: &str) -> Result<LogCursor, Problem> {
    let read = || {
        let (micros, id) = text.split_once('-')?;
        let nanos = micros.parse::<i64>().ok()?;
        let nanos = i128::from(nanos) * 1000;
        Some(LogCursor {
            created: OffsetDateTime::from_unix_timestamp_nanos(nanos).ok()?,
            request_id: RequestId(Uuid::try_parse(id).ok()?),
        })
    };
    read().ok_or_else(|| Problem::bad_query("before must be a `next` that was given"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_as_it_was_given() {
        let at = LogCursor {
            created: OffsetDateTime::from_unix_timestamp_nanos(1_566_951_756_950_123_000).unwrap(),
            request_id: RequestId::of_event("2nBrJUjz", "card-published", "ev-1"),
        };

        assert_eq!(read_cursor(&cursor(at)).unwrap(), at);
        for bad in ["", "1", "-", "x-1", "1-1", "9223372036854775807-0", "ä"] {
            assert!(read_cursor(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_query_is_read_whole_and_strictly() {
        assert_eq!(read("").unwrap(), Wanted::default());
        let wanted = read("status=dead&limit=100&other=1").unwrap();
        assert_eq!(wanted.status, Some(DeliveryStatus::Dead));
        assert_eq!(wanted.limit, Some(100));
        for bad in [
            "status=gone",
            "limit=0",
            "limit=101",
            "limit=%2B5",
            "limit=x",
            "before=x",
            "limit=1&limit=1",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}

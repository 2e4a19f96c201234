//! What can't be done, as RFC 9457 says it: `application/problem+json`.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use store::StoreError;
use webhook::Fault;

const RETRY_AFTER_SECONDS: &str = "5";
/// Faults that are told of one body. Whoever makes a list of them stops at one more, so that a body of zeros doesn't cost
/// a thousand times its bytes; that one is cut off, and tells that there are more.
pub(crate) const FAULTS_MAX: usize = 100;

/// One problem. Its `type` is stable: `https://postrider.dev/problems/` and a name.
#[derive(Debug)]
pub struct Problem {
    pub(crate) status: StatusCode,
    pub(crate) name: &'static str,
    title: &'static str,
    detail: String,
    pub(crate) faults: Vec<Fault>,
    pub(crate) header: Option<(&'static str, &'static str)>,
}

impl Problem {
    fn new(
        status: StatusCode,
        name: &'static str,
        title: &'static str,
        detail: impl Into<String>,
    ) -> Self {
        Self {
            status,
            name,
            title,
            detail: detail.into(),
            faults: Vec::new(),
            header: None,
        }
    }

    fn with_header(self, name: &'static str, value: &'static str) -> Self {
        Self {
            header: Some((name, value)),
            ..self
        }
    }

    /// 400: the body isn't JSON.
    pub(crate) fn not_json(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "not-json", "Not JSON", detail)
    }

    /// 400: a query that isn't as it must be.
    pub(crate) fn bad_query(detail: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad-query", "Bad query", detail)
    }

    /// 401: no token, or a bad or expired one.
    pub(crate) fn unauthenticated(detail: &str) -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "unauthenticated",
            "No valid token",
            detail,
        )
        .with_header("www-authenticate", "Bearer")
    }

    /// 403: a good token of another role or environment.
    pub(crate) fn forbidden(detail: &str) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", "Not allowed", detail)
    }

    /// 404.
    pub(crate) fn not_found() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "not-found",
            "Not found",
            "there is no such thing in this environment",
        )
    }

    /// 405.
    pub(crate) fn method_not_allowed() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method-not-allowed",
            "Method not allowed",
            "this path doesn't take this method",
        )
    }

    /// 408: a body that trickles.
    pub(crate) fn slow_body() -> Self {
        Self::new(
            StatusCode::REQUEST_TIMEOUT,
            "slow-body",
            "Body too slow",
            "the body didn't come in time",
        )
    }

    /// 409: a state that forbids it.
    pub(crate) fn conflict(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "conflict", "Conflict", detail)
    }

    /// 410: what would be sent isn't kept any longer.
    pub(crate) fn payload_gone() -> Self {
        Self::new(
            StatusCode::GONE,
            "payload-gone",
            "Payload gone",
            "the event's data is no longer kept (retention.payloads) or was erased, so it can't be sent again",
        )
    }

    /// 413.
    pub(crate) fn too_large(bytes_max: usize) -> Self {
        let detail = format!("the body is above {bytes_max} bytes");
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too-large",
            "Body too large",
            detail,
        )
    }

    /// 415.
    pub(crate) fn media_type(expected: &str) -> Self {
        let detail = format!("the content-type must be {expected}");
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "media-type",
            "Media type not supported",
            detail,
        )
    }

    /// 422: JSON that is wrong; all that is wrong with it, of more than [`FAULTS_MAX`] the first.
    pub(crate) fn invalid(mut faults: Vec<Fault>) -> Self {
        let mut detail = "the body is not as it must be; errors says where and why".to_owned();
        if faults.len() > FAULTS_MAX {
            faults.truncate(FAULTS_MAX);
            detail += &format!(", of more than {FAULTS_MAX} faults the first {FAULTS_MAX}");
        }
        let problem = Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "invalid",
            "Invalid body",
            detail,
        );
        Self { faults, ..problem }
    }

    /// 503: Postgres or RabbitMQ is away.
    pub(crate) fn unavailable(detail: &str) -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "unavailable",
            "Not available now",
            detail,
        )
        .with_header("retry-after", RETRY_AFTER_SECONDS)
    }

    /// 504: somebody else was waited for in vain.
    pub(crate) fn timed_out(detail: &str) -> Self {
        Self::new(
            StatusCode::GATEWAY_TIMEOUT,
            "timed-out",
            "Waited in vain",
            detail,
        )
    }

    /// 500: our fault.
    pub(crate) fn internal() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "Internal error",
            "the log says what happened",
        )
    }

    /// 500: a subscription's sealed values can't be opened. It isn't left out of a list: who compares the list with what
    /// should be there would make it anew.
    fn unreadable(webhook_id: &str) -> Self {
        Self {
            detail: format!(
                "secrets and headers of the webhook {webhook_id} can't be opened with the server's keys; others can be \
                 read one by one"
            ),
            ..Self::internal()
        }
    }

    /// What the response's body says.
    pub(crate) fn body(&self) -> Value {
        let mut body = json!({
            "type": format!("https://postrider.dev/problems/{}", self.name),
            "title": self.title,
            "status": self.status.as_u16(),
            "detail": self.detail,
        });
        if !self.faults.is_empty() {
            let errors: Vec<Value> = self
                .faults
                .iter()
                .map(|fault| json!({"pointer": fault.pointer, "detail": fault.detail}))
                .collect();
            body["errors"] = Value::Array(errors);
        }
        body
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NotFound => Self::not_found(),
            StoreError::Unavailable(_) | StoreError::SchemaBehind | StoreError::SchemaNewer => {
                tracing::warn!(%error, "a request can't be answered now");
                Self::unavailable("the database doesn't answer; try again")
            }
            StoreError::Refused(_) => {
                tracing::error!(%error, "a request can't be answered");
                Self::internal()
            }
            StoreError::Unreadable { ref webhook_id, .. } => {
                tracing::error!(%error, "a request can't be answered");
                Self::unreadable(webhook_id)
            }
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let kind = (
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        let mut response = (self.status, [kind], self.body().to_string()).into_response();
        if let Some((name, value)) = self.header {
            response
                .headers_mut()
                .insert(name, HeaderValue::from_static(value));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_faults_the_first_hundred_are_told_and_that_there_are_more() {
        let problem = |count: usize| {
            let fault = |position| Fault::new(format!("#/types/{position}"), "must be a text");
            Problem::invalid((0..count).map(fault).collect()).body()
        };
        let count = |body: &Value| body["errors"].as_array().unwrap().len();
        let says_more = |body: &Value| body["detail"].as_str().unwrap().contains("more than 100");

        let (all, first) = (problem(100), problem(101));

        assert_eq!((count(&all), says_more(&all)), (100, false));
        assert_eq!((count(&first), says_more(&first)), (100, true));
        assert_eq!(first["errors"], all["errors"]);
    }
}

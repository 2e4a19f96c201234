//! The names in a path: an environment, and a subscription or a credential in it. What can't be such a name is not found,
//! and isn't looked up.

use axum::extract::{FromRequestParts, RawPathParams};
use axum::http::request::Parts;
use uuid::Uuid;
use webhook::is_webhook_id;

use crate::credentials::is_client_id;
use crate::problem::Problem;

const ENVIRONMENT_ID_BYTES_MAX: usize = 64;

/// What a path names.
#[derive(Debug, Default)]
pub(crate) struct Names {
    /// An environment's id, which may be nobody's.
    pub(crate) env: String,
    /// A `webhookId`, `clientId`, `requestId` or `redeliveryId`, where the route has one.
    pub(crate) id: String,
    /// Whether `id` can be one. That it can't is told only to whom the environment is open.
    pub(crate) possible: bool,
}

impl<S: Send + Sync> FromRequestParts<S> for Names {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        // Refused where the percent-encoding isn't one of UTF-8.
        let parameters = RawPathParams::from_request_parts(parts, state)
            .await
            .map_err(|_| Problem::not_found())?;
        let mut names = Self {
            possible: true,
            ..Self::default()
        };
        for (name, value) in &parameters {
            if name == "env" {
                names.env = value.to_owned();
                continue;
            }
            names.possible = match name {
                "clientId" => is_client_id(value),
                "requestId" | "redeliveryId" => is_request_id(value),
                _ => is_webhook_id(value),
            };
            names.id = value.to_owned();
        }
        if is_environment_id(&names.env) {
            Ok(names)
        } else {
            Err(Problem::not_found())
        }
    }
}

/// As it is written everywhere: with hyphens, in lower case.
fn is_request_id(text: &str) -> bool {
    Uuid::try_parse(text).is_ok_and(|id| id.to_string() == text)
}

/// Whether a text can be an environment's id: `[A-Za-z0-9_-]{1,64}`.
pub fn is_environment_id(text: &str) -> bool {
    (1..=ENVIRONMENT_ID_BYTES_MAX).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn environments_have_plain_names() {
        for good in ["a", "env-1", "A_9", &"x".repeat(64)] {
            assert!(is_environment_id(good), "{good}");
        }
        for bad in ["", "a b", "ä", "a/b", "a.b", &"x".repeat(65)] {
            assert!(!is_environment_id(bad), "{bad}");
        }
    }
}

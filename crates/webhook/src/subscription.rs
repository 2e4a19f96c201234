//! A tenant's wish: these event types, to this URL. What `store` loads, the worker delivers by and the API shows.
//! Whether its parts are allowed is judged in `subscription_check`, whether it wants an event in `subscription_index`.

use std::fmt;
use std::num::NonZeroU32;

use crate::batch::Batch;
use crate::signature::Secret;

/// Of a `webhookId`.
const WEBHOOK_ID_BYTES: usize = 8;

/// One subscription, with secrets and header values in the clear: never to be logged; `Debug` hides them.
#[derive(Clone, PartialEq, Eq)]
pub struct Subscription {
    /// The tenant.
    pub environment_id: String,
    /// The `webhookId`: 8 characters base 62, unique over all environments.
    pub id: String,
    /// A name for people.
    pub name: Option<String>,
    /// The event types that it wants.
    pub types: Vec<String>,
    /// Where set, only events of this card.
    pub card_template_id: Option<String>,
    /// Where set, only events of this flow.
    pub action_flow_config_id: Option<String>,
    /// Where its requests go, as the tenant wrote it.
    pub url: String,
    /// How its requests are made.
    pub method: Method,
    /// Its own headers, name and value, in the tenant's order.
    pub headers: Vec<(String, String)>,
    /// Where set, its events go in lists.
    pub batch: Option<Batch>,
    /// Where set, so many of its requests begin per second at most.
    pub rate_limit: Option<NonZeroU32>,
    /// The secrets that sign now, the newest first; more than one while one is being rotated.
    pub secrets: Vec<Secret>,
    /// Whether it gets deliveries.
    pub status: Status,
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A query may hold a receiver's token.
        let url = self.url.split(['?', '#']).next().unwrap_or_default();
        let header_names: Vec<&str> = self.headers.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("Subscription")
            .field("environment_id", &self.environment_id)
            .field("id", &self.id)
            .field("name", &self.name)
            .field("types", &self.types)
            .field("card_template_id", &self.card_template_id)
            .field("action_flow_config_id", &self.action_flow_config_id)
            .field("url", &url)
            .field("method", &self.method)
            .field("header_names", &header_names)
            .field("batch", &self.batch)
            .field("rate_limit", &self.rate_limit)
            .field("secrets", &self.secrets)
            .field("status", &self.status)
            .finish()
    }
}

/// The request's method.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Method {
    /// `POST`, the default.
    #[default]
    Post,
    /// `PUT`.
    Put,
}

impl Method {
    /// As it stands in the request, in the API and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Post => "POST",
            Self::Put => "PUT",
        }
    }

    /// The method of that exact name.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Post, Self::Put]
            .into_iter()
            .find(|method| method.as_str() == text)
    }
}

/// Whether a subscription gets deliveries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    /// Its deliveries are made and sent.
    Active,
    /// Its deliveries are made and held until it is resumed.
    Paused,
    /// No new deliveries; those that waited are cancelled.
    Disabled,
}

impl Status {
    /// As it stands in the API and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Paused => "paused",
            Self::Disabled => "disabled",
        }
    }

    /// The status of that exact name.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Active, Self::Paused, Self::Disabled]
            .into_iter()
            .find(|status| status.as_str() == text)
    }
}

/// A new `webhookId`, 8 characters of `0-9A-Za-z`, from 16 random bytes. About 2^47.6 of them: whether it is taken is
/// the database's to say.
pub fn new_webhook_id(random: [u8; 16]) -> String {
    const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut rest = u128::from_be_bytes(random);
    (0..WEBHOOK_ID_BYTES)
        .map(|_| {
            let digit = (rest % 62) as usize;
            rest /= 62;
            char::from(DIGITS[digit])
        })
        .collect()
}

/// Whether a text can be a `webhookId`.
pub fn is_webhook_id(text: &str) -> bool {
    text.len() == WEBHOOK_ID_BYTES && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_secret_no_header_value_and_no_query() {
        let subscription = Subscription {
            environment_id: "env-1".into(),
            id: "2nBrJUjz".into(),
            name: None,
            types: vec!["card-published".into()],
            card_template_id: None,
            action_flow_config_id: None,
            url: "https://example.com/hook?token=hidden".into(),
            method: Method::Post,
            headers: vec![("Authorization".into(), "Bearer hidden".into())],
            batch: None,
            rate_limit: None,
            secrets: vec![Secret::new("hidden".into())],
            status: Status::Active,
        };

        let shown = format!("{subscription:?}");

        assert!(!shown.contains("hidden"), "{shown}");
        assert!(shown.contains("https://example.com/hook"), "{shown}");
        assert!(shown.contains("Authorization"), "{shown}");
    }

    #[test]
    fn words_are_read_back_as_they_are_written() {
        for method in [Method::Post, Method::Put] {
            assert_eq!(Method::parse(method.as_str()), Some(method));
        }
        for status in [Status::Active, Status::Paused, Status::Disabled] {
            assert_eq!(Status::parse(status.as_str()), Some(status));
        }
        assert_eq!(Method::parse("post"), None);
        assert_eq!(Status::parse(""), None);
    }

    #[test]
    fn a_webhook_id_is_8_characters_of_base_62() {
        assert_eq!(new_webhook_id([0; 16]), "00000000");
        assert_eq!(new_webhook_id(61_u128.to_be_bytes()), "z0000000");
        for id in [new_webhook_id([255; 16]), new_webhook_id([7; 16])] {
            assert!(is_webhook_id(&id), "{id}");
        }
        for text in ["", "0000000", "000000000", "0000000-", "000000\0\0"] {
            assert!(!is_webhook_id(text), "{text}");
        }
    }
}

//! A subscription made ready to be sent to: URL, headers and signing keys prepared once per load, not per delivery.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::{HeaderName, HeaderValue, Method, Uri};
use store::LoadedSubscription;
use time::OffsetDateTime;
use webhook::{Batch, SigningKey, Status, request_uri};

/// Where one subscription's requests go.
pub(crate) struct Endpoint {
    pub(crate) environment_id: Arc<str>,
    pub(crate) webhook_id: Arc<str>,
    pub(crate) state: State,
    pub(crate) method: Method,
    /// None if the URL can't be read: each attempt then ends as `protocol`.
    pub(crate) uri: Option<Uri>,
    /// The subscription's own, marked sensitive.
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    /// The newest first.
    pub(crate) keys: Vec<SigningKey>,
    /// Where set, its events go in lists.
    pub(crate) batch: Option<Batch>,
    /// Attempts that may begin per second, of all workers together: its deliveries go to the ledger first, and the claim
    /// gives them out.
    pub(crate) rate_limit: Option<NonZeroU32>,
    status_changed: OffsetDateTime,
    /// It delivered quickly, lately.
    proven: AtomicBool,
}

/// Whether an endpoint may be sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Active,
    /// Paused or disabled: only a test goes out.
    Inactive,
    /// Its headers and secrets can't be read: nothing goes out, its deliveries wait in the ledger.
    Unreadable,
}

impl Endpoint {
    /// Prepares a subscription. What can't be sent (an unreadable URL or header) was refused at its creation; should
    /// it stand in the database all the same, the URL fails the attempt and the header is left out.
    pub(crate) fn new(loaded: &LoadedSubscription) -> Self {
        let subscription = &loaded.subscription;
        let header = |(name, value): &(String, String)| {
            let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
            let mut value = HeaderValue::from_str(value).ok()?;
            value.set_sensitive(true);
            Some((name, value))
        };
        Self {
            environment_id: subscription.environment_id.as_str().into(),
            webhook_id: subscription.id.as_str().into(),
            state: match (&loaded.unreadable, subscription.status) {
                (Some(_), _) => State::Unreadable,
                (None, Status::Active) => State::Active,
                (None, Status::Paused | Status::Disabled) => State::Inactive,
            },
            method: match subscription.method {
                webhook::Method::Post => Method::POST,
                webhook::Method::Put => Method::PUT,
            },
            uri: request_uri(&subscription.url),
            headers: subscription.headers.iter().filter_map(header).collect(),
            keys: subscription.secrets.iter().map(SigningKey::from).collect(),
            batch: subscription.batch,
            rate_limit: subscription.rate_limit,
            status_changed: loaded.status_changed,
            proven: AtomicBool::new(false),
        }
    }

    /// Whether what was learned of the other holds for this one: the same URL, and not resumed in between.
    pub(crate) fn is_as(&self, other: &Self) -> bool {
        self.uri == other.uri && self.status_changed == other.status_changed
    }

    /// It delivered quickly, or took long.
    pub(crate) fn prove(&self, quick: bool) {
        self.proven.store(quick, Ordering::Relaxed);
    }

    pub(crate) fn is_proven(&self) -> bool {
        self.proven.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
impl Endpoint {
    /// An active one of `env-1` whose status changed at that second.
    pub(crate) fn example(webhook_id: &str, url: &str, status_changed: i64) -> Arc<Self> {
        let subscription = webhook::Subscription {
            environment_id: "env-1".into(),
            id: webhook_id.into(),
            name: None,
            types: vec!["card-published".into()],
            card_template_id: None,
            action_flow_config_id: None,
            url: url.into(),
            method: webhook::Method::Post,
            headers: vec![("My-Custom-Header".into(), "123".into())],
            batch: None,
            rate_limit: None,
            secrets: vec![webhook::Secret::new(
                "0217309e-3c74-41b5-82e9-bd60e5db9bdb".into(),
            )],
            status: Status::Active,
        };
        Arc::new(Self::new(&LoadedSubscription {
            subscription,
            unreadable: None,
            status_changed: OffsetDateTime::from_unix_timestamp(status_changed)
                .expect("within range"),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_an_address_becomes_that_address() {
        for (spellings, address) in [
            (
                &[
                    "http://127.0.0.1/",
                    "http://127.0.0.1./",
                    "http://127.1/",
                    "http://127.0.1/",
                    "http://2130706433/",
                    "http://0x7f000001/",
                    "http://0X7F.0x0.0x0.0x1/",
                    "http://0x7f.1/",
                    "http://0177.0.0.1/",
                    "http://00000177.0.0.1/",
                    "http://017700000001/",
                    "http://①②⑦.⓪.⓪.①/",
                    "http://１２７.0.0.1/",
                    "http://127。0．0｡1/",
                    "http://%31%32%37.0.0.1/",
                    "http://127%2e0%2E0.1/",
                    "HTTP://127.0.0.1:80/",
                    "http:\\\\127.0.0.1\\",
                    "http:127.0.0.1/",
                    "http://example.com@127.0.0.1/",
                    "http://example.com:80@127.0.0.1/",
                    "http://example.com%2f@127.0.0.1/",
                    "http://@127.0.0.1/",
                ][..],
                "127.0.0.1",
            ),
            (&["http://0/", "http://0x/", "http://00.0/"], "0.0.0.0"),
            (
                &["http://169.254.43518/", "http://2852039166/"],
                "169.254.169.254",
            ),
            (
                &["http://[::1]/", "http://[0:0::0:1]/", "http://[::0.0.0.1]/"],
                "[::1]",
            ),
            (
                &[
                    "http://[::ffff:127.0.0.1]/",
                    "http://[::FFFF:7F00:1]/",
                    "http://[0:0:0:0:0:ffff:127.0.0.1]/",
                ],
                "[::ffff:7f00:1]",
            ),
        ] {
            for spelling in spellings {
                let uri = request_uri(spelling).unwrap_or_else(|| panic!("{spelling}"));

                assert_eq!(uri.host(), Some(address), "{spelling}");
            }
        }
    }

    #[test]
    fn an_address_that_only_stands_beside_the_host_is_none() {
        for (url, host) in [
            ("http://127.0.0.1:443@example.com/", "example.com"),
            ("http://127.0.0.1%40@example.com/", "example.com"),
            ("http://example.com\\@127.0.0.1/", "example.com"),
            ("http://example.com#@127.0.0.1/", "example.com"),
            ("http://example.com?@127.0.0.1/", "example.com"),
            ("http://EXAMPLE.com/127.0.0.1", "example.com"),
            ("http://127.0.0.1.example.com/", "127.0.0.1.example.com"),
        ] {
            assert_eq!(request_uri(url).unwrap().host(), Some(host), "{url}");
        }
    }

    #[test]
    fn what_looks_like_an_address_and_is_none_is_not_sent() {
        for url in [
            "http://256.0.0.1/",
            "http://1.2.3.4.5/",
            "http://4294967296/",
            "http://0x100000000/",
            "http://08.0.0.1/",
            "http://[::1/",
            "http://[fe80::1%25eth0]/",
            "http://[fe80::1%eth0]/",
            "http://[::ffff:0x7f.1]/",
            "http://127.0.0.1%00.example.com/",
            "http://127.0.0.1%0d%0a/",
            "http://exa mple.com/",
        ] {
            assert!(request_uri(url).is_none(), "{url}");
        }
    }

    #[test]
    fn fragments_and_other_schemes_are_not_sent() {
        assert_eq!(
            request_uri("https://example.com/a?b#c")
                .unwrap()
                .to_string(),
            "https://example.com/a?b"
        );
        assert!(request_uri("ftp://example.com/").is_none());
    }
}

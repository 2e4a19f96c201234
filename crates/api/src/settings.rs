//! What the API is told from outside, already checked.

use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::jwks_file::JwksFile;

/// The API's settings.
#[derive(Clone)]
pub struct ApiSettings {
    /// Keys of access tokens, at least 32 bytes each: the first signs, all verify. Without one no tokens are made here.
    pub token_keys: Vec<Vec<u8>>,
    /// Keys of an issuer of the operator's own, whose tokens are good, too.
    pub jwks_file: Option<Arc<JwksFile>>,
    /// A request body above this is refused; the events route has a limit of its own.
    pub body_bytes_max: usize,
    /// Subscriptions of one environment that aren't disabled; with those it may have ten times as many.
    pub subscriptions_per_environment_max: u32,
    /// Whether URLs must be https.
    pub require_https: bool,
    /// Addresses that a URL may name although they aren't public.
    pub allow: Vec<IpNet>,
    /// Addresses that a URL may not name although they are public.
    pub deny: Vec<IpNet>,
    /// The limit on an attempt, which a test waits for.
    pub attempt_max: Duration,
    /// From the stop to the end: what is under way comes to its end within it, or is broken off.
    pub grace: Duration,
    /// The limit on one message, which an event must fit into.
    pub message_bytes_max: usize,
}

impl std::fmt::Debug for ApiSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiSettings")
            .field("body_bytes_max", &self.body_bytes_max)
            .field("require_https", &self.require_https)
            .finish_non_exhaustive()
    }
}

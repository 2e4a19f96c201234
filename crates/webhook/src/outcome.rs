//! What one attempt came to. A receiver's failure is a value here, not an error; what follows from it is decided in
//! `settlement`.

use std::fmt;

/// What an attempt came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// 2xx.
    Delivered,
    /// A status that is neither a success nor named here.
    HttpStatus,
    /// 3xx, which isn't followed.
    Redirected,
    /// 410: the receiver wants nothing more.
    Gone,
    /// 429.
    Throttled,
    /// The attempt wasn't over in time, wherever it stood.
    Timeout,
    /// No connection could be made.
    Connect,
    /// The name has no address, or wasn't resolved in time.
    Dns,
    /// The TLS handshake failed, or the certificate isn't good.
    Tls,
    /// The address must not be reached.
    RefusedAddress,
    /// What came back isn't HTTP.
    Protocol,
}

impl Outcome {
    /// Every outcome, for metrics that stand at 0 from the start.
    pub const ALL: [Self; 11] = [
        Self::Delivered,
        Self::HttpStatus,
        Self::Redirected,
        Self::Gone,
        Self::Throttled,
        Self::Timeout,
        Self::Connect,
        Self::Dns,
        Self::Tls,
        Self::RefusedAddress,
        Self::Protocol,
    ];

    /// The outcome of a response by its status.
    pub fn of_status(status: u16) -> Self {
        match status {
            200..=299 => Self::Delivered,
            300..=399 => Self::Redirected,
            410 => Self::Gone,
            429 => Self::Throttled,
            _ => Self::HttpStatus,
        }
    }

    /// The outcome of that exact word.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|outcome| outcome.as_str() == text)
    }

    /// The contract's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::HttpStatus => "http_status",
            Self::Redirected => "redirected",
            Self::Gone => "gone",
            Self::Throttled => "throttled",
            Self::Timeout => "timeout",
            Self::Connect => "connect",
            Self::Dns => "dns",
            Self::Tls => "tls",
            Self::RefusedAddress => "refused_address",
            Self::Protocol => "protocol",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_have_the_words_of_the_contract() {
        assert_eq!(
            Outcome::ALL.map(Outcome::as_str),
            [
                "delivered",
                "http_status",
                "redirected",
                "gone",
                "throttled",
                "timeout",
                "connect",
                "dns",
                "tls",
                "refused_address",
                "protocol"
            ]
        );
    }

    #[test]
    fn only_2xx_is_a_success() {
        for (status, outcome) in [
            (199, Outcome::HttpStatus),
            (200, Outcome::Delivered),
            (204, Outcome::Delivered),
            (299, Outcome::Delivered),
            (300, Outcome::Redirected),
            (304, Outcome::Redirected),
            (399, Outcome::Redirected),
            (400, Outcome::HttpStatus),
            (410, Outcome::Gone),
            (429, Outcome::Throttled),
            (503, Outcome::HttpStatus),
            (999, Outcome::HttpStatus),
        ] {
            assert_eq!(Outcome::of_status(status), outcome, "{status}");
        }
    }
}

//! The events of the benchmark: of a given size, with the time of their making in them.

use std::time::{SystemTime, UNIX_EPOCH};

/// Behind this stands when an event was made, nanoseconds of the Unix time.
const MADE: &str = "\"madeNs\":";

/// Whom an event is for.
#[derive(Clone, Debug)]
pub(crate) struct Addressee {
    pub(crate) environment_id: String,
    pub(crate) card: String,
}

/// A message's body of about `bytes` bytes, at least some 250; `n` makes its id.
pub(crate) fn message(addressee: &Addressee, n: u64, bytes: usize) -> Vec<u8> {
    let Addressee {
        environment_id,
        card,
    } = addressee;
    let mut body = format!(
        "{{\"environmentId\":\"{environment_id}\",\"data\":{{{MADE}{},\"id\":\"event-{n}\",\"analyticsEvent\":\"card-published\",\
         \"timestamp\":\"2026-03-01T12:00:00.000Z\",\"cardContext\":{{\"cardTemplateId\":\"{card}\",\"cardTemplateVersion\":3}},\
         \"platformContext\":{{\"flowConfigId\":7}},\"padding\":\"",
        now_ns()
    )
    .into_bytes();
    body.resize(bytes.saturating_sub(3).max(body.len()), b'x');
    body.extend_from_slice(b"\"}}");
    body
}

/// When the event in this body was made.
pub(crate) fn made_ns(body: &[u8]) -> Option<u64> {
    let start = body.get(..body.len().min(512))?;
    let at = start
        .windows(MADE.len())
        .position(|window| window == MADE.as_bytes())?;
    let digits = &start[at + MADE.len()..];
    let end = digits.iter().position(|byte| !byte.is_ascii_digit())?;
    std::str::from_utf8(&digits[..end]).ok()?.parse().ok()
}

/// Nanoseconds of the Unix time.
pub(crate) fn now_ns() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| {
            u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
        })
}

//! How counts and durations are given to Postgres. What is beyond all reason is cut, so that it never fails a group.

use std::time::Duration;

/// A count as `integer`.
pub(crate) fn integer(count: u32) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

/// A count out of an `integer`.
pub(crate) fn count(integer: i32) -> u32 {
    u32::try_from(integer).unwrap_or(0)
}

/// Seconds for `make_interval(secs => …)`; some 31 years at most.
pub(crate) fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64().min(1e9)
}

/// Milliseconds as `integer`.
pub(crate) fn milliseconds(duration: Duration) -> i32 {
    i32::try_from(duration.as_millis()).unwrap_or(i32::MAX)
}

/// A duration out of seconds; nothing for what is negative.
pub(crate) fn duration(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::ZERO)
}

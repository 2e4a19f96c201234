//! How long to wait between two tries: growing, capped, with a random part, for ever.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

pub(crate) type Pauses = ExponentialBackoff;

/// For what many processes ask of a server that is away: 200 ms doubling to 10 s.
pub(crate) fn reconnect() -> Pauses {
    growing(Duration::from_millis(200), Duration::from_secs(10))
}

/// For what a worker asks of Postgres one at a time: 50 ms doubling to 400 ms. An outcome that isn't committed is a
/// request that a kill repeats, so it must not wait once Postgres is back.
pub(crate) fn statement() -> Pauses {
    growing(Duration::from_millis(50), Duration::from_millis(400))
}

fn growing(first: Duration, most: Duration) -> Pauses {
    ExponentialBuilder::default()
        .with_min_delay(first)
        .with_max_delay(most)
        .with_jitter()
        .without_max_times()
        .build()
}

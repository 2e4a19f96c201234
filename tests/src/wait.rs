//! Waiting for a condition, with a limit: the only place of the tests that sleeps.

use std::time::{Duration, Instant};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(15);

/// Asks `look` every 15 ms until it answers `Some`, and returns that.
///
/// # Panics
/// When `limit` has passed without an answer; `what` names what was awaited ("the dead letter of ev-7").
pub async fn wait_until<T>(
    limit: Duration,
    what: &str,
    mut look: impl AsyncFnMut() -> Option<T>,
) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(
            begun.elapsed() < limit,
            "waited {limit:?} in vain for {what}"
        );
        tokio::time::sleep(PAUSE).await;
    }
}

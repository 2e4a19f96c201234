//! A worker's peak memory beside the length of its queue.

use crate::case::Case;
use crate::round;
use crate::scene::Scene;

/// Small messages: it is their number that counts.
const BYTES: usize = 400;
/// Each round delivers so many of those that are there.
const DELIVERED: u64 = 10_000;

/// Peak memory in MiB of so many rounds, with so many messages in the queue at the first one's start.
pub(crate) async fn run(
    scene: &mut Scene,
    case: &Case,
    queued: u64,
    rounds: usize,
) -> anyhow::Result<Vec<f64>> {
    let case = Case {
        bytes: BYTES,
        events: DELIVERED,
        warm: DELIVERED / 10,
        ..*case
    };
    let ledger = scene.ledger(case.ledger).await?;
    scene.reset(&case, &ledger).await?;
    let mut peaks = Vec::new();
    let mut left = 0;
    for _ in 0..rounds {
        if left < DELIVERED {
            scene.fill_queue(&case, queued - left).await;
        }
        scene.forget().await?;
        peaks.push(round::measure(scene, &case, &ledger).await?.peak_mib);
        left = u64::from(scene.broker.depth(crate::scene::QUEUE).await);
    }
    Ok(peaks)
}

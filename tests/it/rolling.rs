//! A rolling restart, as a deployment does it: nobody notices.

use std::time::{Duration, Instant};

use tests::wait::wait_until;
use tokio_util::sync::CancellationToken;

use crate::world::{EVENTS, SOON, World, steady_load};

const WORKERS: usize = 3;
const EVENTS_PER_SECOND: u32 = 100;
/// Between two requests at the receiver, a hundred of which are due each second.
const GAP_MAX: Duration = Duration::from_secs(2);

#[tokio::test]
async fn a_rolling_restart_of_three_workers_repeats_nothing_and_leaves_no_gap() {
    let world = World::new("rolling_restart").await;
    world.subscribe("/hook").await;
    let mut workers = Vec::new();
    for _ in 0..WORKERS {
        workers.push(world.worker().await);
    }
    let publisher = world.stage.broker().await;
    let enough = CancellationToken::new();
    let load = steady_load(&publisher, EVENTS_PER_SECOND, &enough);
    let restarts = async {
        world.receiver.wait_for(50, "/hook", SOON).await;
        for worker in &mut workers {
            // One more is there before one goes.
            let mut old = std::mem::replace(worker, world.worker().await);
            old.terminate();
            assert!(old.wait(SOON).await.success());
        }
        let seen = world.receiver.requests("/hook").len();
        world.receiver.wait_for(seen + 50, "/hook", SOON).await;
        enough.cancel();
    };

    let began = Instant::now();
    let (sent, ()) = tokio::join!(load, restarts);

    let requests = world.receiver.wait_for(sent, "/hook", SOON).await;
    wait_until(SOON, "an empty queue", async || {
        (world.broker.depth(EVENTS).await == 0).then_some(())
    })
    .await;
    let longest = requests
        .windows(2)
        .map(|two| two[1].at - two[0].at)
        .max()
        .unwrap();
    eprintln!(
        "{sent} events in {:.1?}, three restarts: the longest gap {longest:.1?}",
        began.elapsed()
    );
    assert!(longest < GAP_MAX, "{longest:?}");
    assert_eq!(world.receiver.count("/hook"), sent as u64);
    assert_eq!(world.receiver.counts_by_id("/hook").len(), sent);
}

//! From an event's making to its request at the receiver, at a steady rate.

use std::time::Duration;

use lapin::BasicProperties;
use lapin::options::BasicPublishOptions;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::time::{MissedTickBehavior, interval};

use crate::case::Case;
use crate::event::message;
use crate::round::Senders;
use crate::scene::{EVENT_TYPE, EXCHANGE, Scene};

const TICK: Duration = Duration::from_millis(1);
const WARM: Duration = Duration::from_secs(2);
/// For the last of them.
const LIMIT: Duration = Duration::from_secs(60);
const LASTS: Duration = Duration::from_secs(5);

/// Quantiles, milliseconds.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub(crate) struct Latency {
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) p999_ms: f64,
}

/// Measures a case once at so many events a second.
pub(crate) async fn run(scene: &mut Scene, case: &Case, rate: f64) -> anyhow::Result<Latency> {
    let ledger = scene.ledger(case.ledger).await?;
    scene.reset(case, &ledger).await?;
    let senders = Senders::start(scene, case.runner, &ledger).await?;
    publish(scene, case, rate, WARM, 0).await?;
    scene.forget().await?;
    publish(scene, case, rate, LASTS, 1 << 32).await?;

    let mut latencies = scene.latencies_us().await?;
    senders.stop().await;
    latencies.sort_unstable();
    let quantile = |q: f64| {
        let at = (latencies.len() as f64 * q) as usize;
        latencies
            .get(at)
            .map_or(f64::NAN, |us| f64::from(*us) / 1000.0)
    };
    Ok(Latency {
        p50_ms: quantile(0.5),
        p99_ms: quantile(0.99),
        p999_ms: quantile(0.999),
    })
}

/// Publishes at that rate and waits for the confirms at the end, and for the deliveries.
async fn publish(
    scene: &Scene,
    case: &Case,
    rate: f64,
    lasts: Duration,
    first: u64,
) -> anyhow::Result<()> {
    let before = scene.seen().await?.accepted;
    let channel = scene.broker.channel().await;
    let mut random = StdRng::seed_from_u64(1);
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let began = ticks.tick().await;
    let (mut confirms, mut sent) = (Vec::new(), 0);
    while began.elapsed() < lasts {
        ticks.tick().await;
        let due = (began.elapsed().as_secs_f64() * rate) as u64;
        while sent < due {
            let addressee =
                case.load
                    .addressee(first + sent, scene.sizes.environments, &mut random);
            let confirm = channel
                .basic_publish(
                    EXCHANGE.into(),
                    EVENT_TYPE.into(),
                    BasicPublishOptions::default(),
                    &message(&addressee, first + sent, case.bytes),
                    BasicProperties::default().with_delivery_mode(2),
                )
                .await?;
            confirms.push(confirm);
            sent += 1;
        }
    }
    for confirm in confirms {
        confirm.await?;
    }
    scene.wait_accepted(before + sent, LIMIT).await
}

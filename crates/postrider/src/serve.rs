//! `postrider worker` and `postrider serve`: a worker with its admin listener, until it is told to stop.

use std::process::ExitCode;

use metrics_process::Collector;
use tokio::task::JoinSet;
use worker::{Readiness, Stop};

use crate::admin::{self, Admin};
use crate::config::Config;
use crate::signals::Signals;
use crate::telemetry;

/// What runs in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parts {
    /// Worker and API.
    All,
    /// The worker alone.
    Worker,
}

/// Runs until a signal has come and what was in hand is drained.
///
/// # Errors
/// Bad configuration, an address that is taken, or a fault of the worker's.
pub(crate) async fn run(config: Config, parts: Parts) -> anyhow::Result<ExitCode> {
    let store = config.store()?;
    telemetry::log(&config.log)?;
    let signals = Signals::listen()?;
    let listener = admin::bind(config.admin_listen).await?;
    let metrics = telemetry::metrics(&config.worker.amqp.queues)?;
    let (stop, readiness) = (Stop::default(), Readiness::default());
    for queue in &config.worker.amqp.queues {
        readiness.not_ready(queue, "starting");
    }
    let process = Collector::default();
    process.describe();

    let mut services = JoinSet::new();
    services.spawn(signals.stop(stop.intake.clone()));
    services.spawn(telemetry::keep(metrics.clone()));
    let admin = Admin {
        readiness: readiness.clone(),
        metrics,
        process,
    };
    services.spawn(async move {
        if let Err(error) = admin::serve(listener, admin).await {
            tracing::error!(%error, "the admin listener broke; restart to have metrics and probes again");
        }
    });

    tracing::info!(version = env!("CARGO_PKG_VERSION"), admin = %config.admin_listen, "postrider starts");
    if parts == Parts::All {
        tracing::info!("serve runs the worker alone: this version has no API yet");
    }
    let ended = worker::run(config.worker, store, stop, readiness).await?;
    tracing::info!(
        recorded = ended.recorded,
        left_to_broker = ended.left_to_broker,
        "stopped"
    );
    Ok(ExitCode::SUCCESS)
}

//! `postrider serve`, `worker` and `api`: a worker, the API or both, with their admin listener, until they are told to
//! stop.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use store::Store;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use worker::{Readiness, Stop};

use crate::config::Config;
use crate::signals::Signals;
use crate::{admin, events, open_files, telemetry};

/// Requests with events that wait for RabbitMQ; more are refused.
const PUBLICATIONS_MAX: usize = 64;
/// Kept of the grace for the process's own end; a fifth of a grace that is short.
const END_RESERVE: Duration = Duration::from_millis(500);

/// What runs in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parts {
    /// Worker and API.
    All,
    /// The worker alone.
    Worker,
    /// The API alone.
    Api,
}

/// Runs until a signal has come and what was in hand is drained.
///
/// # Errors
/// Bad configuration, an address that is taken, or a fault of the worker's.
pub(crate) async fn run(config: Config, parts: Parts) -> anyhow::Result<ExitCode> {
    let store = config.store()?;
    let (publisher, publications) = mpsc::channel(PUBLICATIONS_MAX);
    let api = match parts {
        Parts::All | Parts::Api => Some(config.api(store.clone(), publisher)?),
        Parts::Worker => None,
    };
    telemetry::log(&config.log)?;
    let signals = Signals::listen()?;
    // Bound before anybody can be told that this process is ready.
    let api = match api {
        Some(api) => Some((bind(&config).await?, api)),
        None => None,
    };
    let listener = admin::bind(config.admin_listen).await?;
    let metrics = telemetry::metrics(&config.worker.amqp.queues)?;
    worker::metrics::serves(parts != Parts::Api, parts != Parts::Worker);
    let (stop, readiness) = (Stop::default(), Readiness::default());
    // Until whoever looks at the schema has said what else isn't ready.
    readiness.not_ready(worker::Part::Schema, "starting");

    let mut services = JoinSet::new();
    services.spawn(signals.stop(stop.intake.clone()));
    admin::spawn(&mut services, listener, readiness.clone(), metrics);
    tracing::info!(version = env!("CARGO_PKG_VERSION"), admin = %config.admin_listen, "postrider starts");

    let mut serving = JoinSet::new();
    if let Some((listener, api)) = api {
        tracing::info!(listen = %config.api_listen, "the API listens");
        services.spawn(events::relay(config.worker.amqp.clone(), publications));
        serving.spawn(api::serve(listener, api, stop.intake.clone()));
    }
    let grace = config.worker.shutdown_grace;
    let orderly = async {
        match parts {
            // May be cancelled wherever it stands.
            Parts::Api => tokio::select! {
                () = stop.intake.cancelled() => {}
                watched = worker::watch_ledger(&store, &readiness) => match watched? {},
            },
            Parts::All | Parts::Worker => work(config, store, &stop, &readiness).await?,
        }
        readiness.not_ready(worker::Part::Process, "stopping");
        while let Some(ended) = serving.join_next().await {
            ended.context("the API broke")?;
        }
        anyhow::Ok(())
    };
    // May be cancelled: whatever hangs now is given up as by the process's end.
    tokio::select! {
        ended = Box::pin(orderly) => ended?,
        () = grace_is_over(&stop, grace) => {
            tracing::warn!("shutdown.grace is over; what is still under way is given up, and comes again");
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// From the first signal on. The worker keeps to the grace by itself; this is for all that may hang besides.
async fn grace_is_over(stop: &Stop, grace: Duration) {
    stop.intake.cancelled().await;
    tokio::time::sleep(grace - END_RESERVE.min(grace / 5)).await;
}

async fn bind(config: &Config) -> anyhow::Result<TcpListener> {
    TcpListener::bind(config.api_listen)
        .await
        .with_context(|| format!("api.listen: can't listen on {}", config.api_listen))
}

async fn work(
    config: Config,
    store: Store,
    stop: &Stop,
    readiness: &Readiness,
) -> anyhow::Result<()> {
    open_files::raise(config.worker.delivery.open_files_max());
    let ended = worker::run(config.worker, store, stop.clone(), readiness.clone()).await?;
    let milliseconds = |took: Duration| u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    tracing::info!(
        in_flight = ended.in_flight,
        drained = ended.drained,
        recorded = ended.recorded,
        left_to_broker = ended.left_to_broker,
        drained_ms = milliseconds(ended.drained_in),
        closed_ms = milliseconds(ended.closed_in),
        "stopped"
    );
    Ok(())
}

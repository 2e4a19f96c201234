//! Logs to standard error, and the metrics recorder.

use std::time::Duration;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, fmt};

use crate::config::LogSettings;

/// Recorded values are gathered so often, so that they don't pile up when nobody scrapes.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// Libraries that log what their callers are told too, and log once more.
const QUIET: &str = "lapin=off,deadpool=off,refinery_core=warn";

/// Sets up the log.
///
/// # Errors
/// It is set up already, or the level can't be read.
pub(crate) fn log(settings: &LogSettings) -> anyhow::Result<()> {
    // What goes before can be overridden by what follows.
    let filter = EnvFilter::try_new(format!("{QUIET},{}", settings.level))?;
    let lines = fmt::layer().with_writer(std::io::stderr);
    let lines = if settings.json {
        lines.json().flatten_event(true).boxed()
    } else {
        lines
            .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
            .boxed()
    };
    tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .try_init()?;
    Ok(())
}

/// Installs the recorder, with every series of the worker at 0.
///
/// # Errors
/// One is installed already.
pub(crate) fn metrics(queues: &[String]) -> anyhow::Result<PrometheusHandle> {
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(
            Matcher::Suffix("_seconds".into()),
            worker::metrics::SECONDS_BUCKETS,
        )?
        .set_buckets_for_metric(
            Matcher::Suffix("_commit_rows".into()),
            worker::metrics::ROWS_BUCKETS,
        )?
        .install_recorder()?;
    worker::metrics::describe_and_zero(queues, env!("CARGO_PKG_VERSION"));
    Ok(handle)
}

/// Keeps the recorder small; for ever.
pub(crate) async fn keep(handle: PrometheusHandle) {
    loop {
        tokio::time::sleep(UPKEEP_EVERY).await;
        handle.run_upkeep();
    }
}

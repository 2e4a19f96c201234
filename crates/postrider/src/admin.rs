//! The listener of operators and probes: `/metrics`, `/livez`, `/readyz`. It depends on neither broker nor database.

use std::net::SocketAddr;

use anyhow::Context as _;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use metrics_process::Collector;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use worker::Readiness;

use crate::telemetry;

/// What the routes tell.
#[derive(Clone)]
struct Admin {
    readiness: Readiness,
    metrics: PrometheusHandle,
    process: Collector,
}

/// Binds the address.
///
/// # Errors
/// It is taken, or not ours.
pub(crate) async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("admin.listen: can't listen on {address}"))
}

/// Answers, and keeps the metrics small, until the services end.
pub(crate) fn spawn(
    services: &mut JoinSet<()>,
    listener: TcpListener,
    readiness: Readiness,
    metrics: PrometheusHandle,
) {
    let process = Collector::default();
    process.describe();
    services.spawn(telemetry::keep(metrics.clone()));
    let admin = Admin {
        readiness,
        metrics,
        process,
    };
    services.spawn(async move {
        if let Err(error) = serve(listener, admin).await {
            tracing::error!(%error, "the admin listener broke; restart to have metrics and probes again");
        }
    });
}

async fn serve(listener: TcpListener, admin: Admin) -> std::io::Result<()> {
    let routes = Router::new()
        .route("/livez", get(async || "alive\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(admin);
    axum::serve(listener, routes).await
}

async fn ready(State(admin): State<Admin>) -> impl IntoResponse {
    let reasons = admin.readiness.reasons();
    if reasons.is_empty() {
        (StatusCode::OK, "ready\n".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n") + "\n")
    }
}

async fn metrics(State(admin): State<Admin>) -> impl IntoResponse {
    admin.process.collect();
    worker::metrics::ready(admin.readiness.reasons().is_empty());
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], admin.metrics.render())
}

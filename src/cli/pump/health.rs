//! What a pump that runs by itself tells of its health: ready once all aggregators are booted.

use std::sync::Arc;

use anyhow::Context;
use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::gateway::Gateway;

/// In these, an aggregator has all there is, or another pump sees to that.
const READY: [&str; 2] = ["live", "standby"];

pub(super) async fn serve(
    listener: TcpListener,
    gateway: Arc<Gateway>,
    leaving: CancellationToken,
) -> anyhow::Result<()> {
    let address = listener.local_addr().context("asking where --health is")?;
    info!(%address, "health and metrics are served");
    let up = || async { Json(json!({ "status": "UP" })) };
    let alive = || async { Json(json!({ "status": "alive" })) };
    let router = Router::new()
        .route("/healthz", get(alive))
        .route("/readyz", get(ready))
        .route("/manage/health", get(up))
        .route("/metrics", get(metrics))
        .with_state(gateway);
    let serving = axum::serve(listener, router).with_graceful_shutdown(leaving.cancelled_owned());
    serving.await.context("serving --health")
}

async fn ready(State(gateway): State<Arc<Gateway>>) -> Response {
    let pumps = gateway.metrics().pumps.states();
    let reading = gateway.ready();
    let booted = pumps.values().all(|state| READY.contains(state));
    let (status, word) = match (&reading, booted) {
        (Ok(()), true) => (StatusCode::OK, "ready"),
        (Ok(()), false) => (StatusCode::SERVICE_UNAVAILABLE, "not all aggregators are fed"),
        (Err(reason), _) => (StatusCode::SERVICE_UNAVAILABLE, reason.as_str()),
    };
    (status, Json(json!({ "status": word, "pumps": pumps }))).into_response()
}

async fn metrics(State(gateway): State<Arc<Gateway>>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], gateway.metrics().render()).into_response()
}

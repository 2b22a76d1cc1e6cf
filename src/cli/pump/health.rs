//! The health endpoints of `event-piper pump`. It is ready when all aggregators are bootstrapped.

use std::{net::SocketAddr, sync::Arc};

use anyhow::Context;
use axum::{
    Json, Router,
    extract::{ConnectInfo, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{
    access::networks::{Networks, Peer},
    gateway::followed::FollowedLog,
};

/// The states of pumps that count as ready: delivery is up to date, or another pump delivers.
const READY_STATES: [&str; 2] = ["live", "standby"];

pub(super) async fn serve(
    listener: TcpListener,
    log: Arc<FollowedLog>,
    operators: Networks,
    leaving: CancellationToken,
) -> anyhow::Result<()> {
    let address = listener.local_addr().context("reading the address of --health")?;
    info!(%address, "serving health and metrics");
    let up = || async { Json(json!({ "status": "UP" })) };
    let alive = || async { Json(json!({ "status": "alive" })) };
    let router = Router::new()
        .route("/healthz", get(alive))
        .route("/readyz", get(ready))
        .route("/manage/health", get(up))
        .route("/metrics", get(metrics))
        .with_state(Health { log, operators });
    let router = router.into_make_service_with_connect_info::<SocketAddr>();
    let serving = axum::serve(listener, router).with_graceful_shutdown(leaving.cancelled_owned());
    serving.await.context("serving --health")
}

#[derive(Clone)]
struct Health {
    log: Arc<FollowedLog>,
    /// The peers that may see reasons and the names of aggregators, which may be URLs.
    operators: Networks,
}

async fn ready(
    State(Health { log, operators }): State<Health>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
) -> Response {
    let pumps = log.metrics().pumps.states();
    let reading = log.ready();
    let booted = pumps.values().all(|state| READY_STATES.contains(state));
    let sees_reasons = operators.contain(Peer::Ip(peer.ip()));
    let (status, word) = match (&reading, booted) {
        (Ok(()), true) => (StatusCode::OK, "ready"),
        (Ok(()), false) => (StatusCode::SERVICE_UNAVAILABLE, "not all aggregators are up to date"),
        (Err(reason), _) if sees_reasons => (StatusCode::SERVICE_UNAVAILABLE, reason.as_str()),
        (Err(_), _) => (StatusCode::SERVICE_UNAVAILABLE, "the log cannot be read"),
    };
    let shown = if sees_reasons {
        json!({ "status": word, "pumps": pumps })
    } else {
        json!({ "status": word })
    };
    (status, Json(shown)).into_response()
}

async fn metrics(State(Health { log, .. }): State<Health>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], log.metrics().render()).into_response()
}

//! Alive, ready, and counted.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Request, State},
    http::header,
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use super::{app::App, auth, error::Problem};

/// `GET /healthz`: the program runs.
pub(super) async fn alive() -> Json<Value> {
    Json(json!({ "status": "alive" }))
}

/// `GET /manage/health`, as the predecessor answered it.
pub(super) async fn up() -> Json<Value> {
    Json(json!({ "status": "UP" }))
}

/// `GET /readyz`: events move. The reason why not, and the pumps, whose names may be addresses, are
/// for those who may see the metrics.
pub(super) async fn ready(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Json<Value>, Problem> {
    let sees_reasons = auth::may_see_metrics(&app, &request).await;
    app.gateway.ready().map_err(|reason| {
        Problem::unavailable(if sees_reasons { reason } else { NOT_READY.to_owned() })
    })?;
    // An aggregator that is away is no reason to send subscribers away.
    let pumps = app.gateway.metrics().pumps.states();
    if pumps.is_empty() || !sees_reasons {
        return Ok(Json(json!({ "status": "ready" })));
    }
    Ok(Json(json!({ "status": "ready", "pumps": pumps })))
}

const NOT_READY: &str = "events do not move: the reason is in the log, and here for those who may \
                         see the metrics (--metrics-from, or the right)";

/// `GET /metrics`, in the text format that Prometheus reads.
pub(super) async fn metrics(State(app): State<Arc<App>>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], app.gateway.metrics().render()).into_response()
}

//! Health checks and metrics.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Request, State},
    http::header,
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use super::{app::App, auth, error::Problem};

/// `GET /healthz`: the process is running.
pub(super) async fn alive() -> Json<Value> {
    Json(json!({ "status": "alive" }))
}

/// `GET /manage/health`, with the response of the predecessor.
pub(super) async fn up() -> Json<Value> {
    Json(json!({ "status": "UP" }))
}

/// `GET /readyz`: events are being delivered. Only callers that may see the metrics get the reason for a
/// 503, and the states of the pumps, whose names may be addresses.
pub(super) async fn ready(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Json<Value>, Problem> {
    let sees_reasons = auth::may_see_metrics(&app, &request).await;
    app.gateway.ready().map_err(|reason| {
        Problem::unavailable(if sees_reasons { reason } else { NOT_READY.to_owned() })
    })?;
    // The gateway stays ready for subscribers while an aggregator is unavailable.
    let pumps = app.gateway.metrics().pumps.states();
    if pumps.is_empty() || !sees_reasons {
        return Ok(Json(json!({ "status": "ready" })));
    }
    Ok(Json(json!({ "status": "ready", "pumps": pumps })))
}

const NOT_READY: &str = "events are not being delivered: the log has the reason; callers that may see \
                         the metrics (--metrics-from, or the right) get it here";

/// `GET /metrics`, in the text format that Prometheus reads.
pub(super) async fn metrics(State(app): State<Arc<App>>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], app.gateway.metrics().render()).into_response()
}

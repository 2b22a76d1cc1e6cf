//! `GET /cursor`: the gateway's own position, as a cursor. And what a cursor that is a snapshot must be.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use serde_json::json;
use tokio::time::timeout;

use super::{app::App, error::Problem, query::Parameter};
use crate::{access::principal::Principal, cursor::Cursor};

/// What the query may say.
pub(super) const PARAMETERS: &[Parameter] = &[];

/// The position of a gateway that has started is known at once.
const POSITION_DEADLINE: Duration = Duration::from_secs(5);

/// A snapshot is checked within this time, or not at all: a client that reconnects while PostgreSQL is away
/// gets its stream.
const SNAPSHOT_DEADLINE: Duration = Duration::from_secs(5);

/// `GET /cursor`.
pub(super) async fn position(State(app): State<Arc<App>>) -> Result<Response, Problem> {
    let now = timeout(POSITION_DEADLINE, app.gateway.read().now()).await;
    let Some(cursor) = now.ok().flatten() else {
        return Err(Problem::unavailable("the gateway has not read the log yet; try again"));
    };
    let body = Json(json!({ "cursor": cursor.to_string() }));
    Ok(([(header::CACHE_CONTROL, "no-store")], body).into_response())
}

/// Refuses a snapshot that this database cannot have taken.
pub(super) async fn check_snapshot(
    app: &App,
    who: &Principal,
    cursor: Option<&Cursor>,
) -> Result<(), Problem> {
    let Some(snapshot) = cursor.and_then(Cursor::snapshot) else { return Ok(()) };
    let history = app.gateway.read().history_for(who.name());
    match timeout(SNAPSHOT_DEADLINE, history.may_have_taken(snapshot)).await {
        Ok(Ok(false)) => Err(Problem::bad_request(format!(
            "this database has not got as far as the snapshot {snapshot}: it was taken in another database \
             cluster, or before a backup was restored; read the state again, and begin with its snapshot"
        ))),
        Ok(Ok(true) | Err(_)) | Err(_) => Ok(()),
    }
}

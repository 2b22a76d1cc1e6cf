//! `GET /cursor` returns the gateway's position as a cursor. Requests with a snapshot as their cursor are
//! checked here.

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

/// The query parameters of `GET /cursor`: none.
pub(super) const PARAMETERS: &[Parameter] = &[];

/// How long the request waits for the position. Only a gateway that is starting does not know it at once.
const POSITION_DEADLINE: Duration = Duration::from_secs(5);

/// How long the check of a snapshot may take. After that, the request continues without the check, so that a
/// client that reconnects while PostgreSQL is unavailable gets its stream.
const SNAPSHOT_DEADLINE: Duration = Duration::from_secs(5);

/// Handles `GET /cursor`.
pub(super) async fn position(State(app): State<Arc<App>>) -> Result<Response, Problem> {
    let now = timeout(POSITION_DEADLINE, app.gateway.read().now()).await;
    let Some(cursor) = now.ok().flatten() else {
        return Err(Problem::unavailable("the gateway has not read the log yet; try again"));
    };
    let body = Json(json!({ "cursor": cursor.to_string() }));
    Ok(([(header::CACHE_CONTROL, "no-store")], body).into_response())
}

/// Rejects a snapshot that cannot have been taken in this database cluster. Accepts it if PostgreSQL does not
/// answer.
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

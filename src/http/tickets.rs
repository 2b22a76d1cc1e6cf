//! `POST /tickets`: a ticket for an `EventSource`, in exchange for a token or a key.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::State,
    http::{StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use serde_json::json;
use tracing::info;

use super::{
    app::App,
    error::Problem,
    identity,
    query::{Parameter, Query},
};
use crate::access::{
    principal::{Kind, Principal},
    ticket::USE_WITHIN,
};

/// Query parameters of `POST /tickets`.
pub(super) const PARAMETERS: &[Parameter] = &[Parameter::many("consumer").or_empty()];

/// `POST /tickets`: a ticket for everything that the token may read, or for the consumers of `?consumer=`.
pub(super) async fn issue(
    State(app): State<Arc<App>>,
    Extension(who): Extension<Principal>,
    uri: Uri,
) -> Result<Response, Problem> {
    if *who.kind() == Kind::Open {
        return Err(Problem::conflict(
            "tickets do not exist in the open mode: open the stream without one",
        ));
    }
    let asked = identity::asked(&Query::of(&uri)?)?;
    asked.iter().try_for_each(|consumer| who.may_read(consumer))?;
    let consumers = (!asked.is_empty()).then_some(asked.as_slice());
    let issued = app.access.issue(&who, consumers);
    let issued = issued.map_err(|none| Problem::bad_request(none.to_string()))?;
    info!(
        target: "event_piper::audit",
        action = "ticket given", who = &**who.name(), kind = who.kind().as_str(), id = %issued.id,
        "audit: ticket given"
    );
    let body = json!({
        "ticket": issued.text,
        "use_within": USE_WITHIN.as_secs(),
        "expires": humantime::format_rfc3339_seconds(issued.until).to_string(),
    });
    let headers = [(header::CACHE_CONTROL, "no-store")];
    Ok((StatusCode::CREATED, headers, Json(body)).into_response())
}

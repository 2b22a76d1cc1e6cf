//! The predecessor's append service at a configurable path (`--append-path`), with the same routes,
//! statuses and responses.

use std::sync::Arc;

use axum::{
    Extension, Json, Router,
    extract::State,
    http::Uri,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::Serialize;

use super::{
    answer::AnswerPermit,
    app::App,
    auth::authenticated,
    class::Class,
    error::Problem,
    path_params::PathParams,
    query::{Parameter, Query, takes},
    stream::stream_name,
    streams::{PageQuery, page},
    write::{self, encode, is_base64},
};
use crate::{access::principal::Principal, item::frame, store::history::StoredEvent};

/// Query parameters of a page. The predecessor treats an empty value as absent.
const PAGE_PARAMETERS: &[Parameter] =
    &[Parameter::one("offset").or_empty(), Parameter::one("limit").or_empty()];

/// The routes of the service below `path`. With `/`, the gateway's own routes take precedence.
pub(super) fn routes(app: &Arc<App>, path: &str) -> Router<Arc<App>> {
    let base = path.trim_end_matches('/');
    let route = |class, parameters, routes| authenticated(app, class, takes(parameters, routes));
    let write = |routes| route(Class::WRITE, &[], routes);
    let stream = route(Class::PLAIN, PAGE_PARAMETERS, get(read)).merge(write(post(write::append)));
    Router::new()
        .route(&format!("{base}/{{stream}}"), stream)
        .route(&format!("{base}/{{stream}}/{{version}}"), write(post(write::append_at)))
}

#[derive(Serialize)]
struct Page {
    pagination: Pagination,
    payload: Vec<Event>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Pagination {
    next_offset: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    stream_id: String,
    version: i64,
    #[serde(rename = "type")]
    kind: String,
    data: String,
}

async fn read(
    State(app): State<Arc<App>>,
    Extension(who): Extension<Principal>,
    Extension(permit): Extension<AnswerPermit>,
    PathParams(stream): PathParams<String>,
    uri: Uri,
) -> Result<Response, Problem> {
    let stream = stream_name(&stream)?;
    who.may_read_stream(stream.as_str())?;
    permit.reserve_page()?;
    let found =
        page(&app, &who, &stream, &PageQuery::of(&Query::of(&uri)?, app.settings.limits.page)?)
            .await?;
    let pagination = Pagination { next_offset: found.next_offset };
    let payload = found.events.into_iter().map(to_predecessor).collect();
    Ok(Json(Page { pagination, payload }).into_response())
}

/// Converts an event. Payloads of other writers may be any JSON; they are encoded as Base64.
fn to_predecessor(event: StoredEvent) -> Event {
    let text = serde_json::from_str::<String>(&event.payload).ok();
    let data = text.filter(|text| is_base64(text));
    Event {
        stream_id: event.stream.unwrap_or_default(),
        version: event.version.unwrap_or_default(),
        kind: event.kind,
        data: data.unwrap_or_else(|| encode(frame::compact(&event.payload).as_bytes())),
    }
}

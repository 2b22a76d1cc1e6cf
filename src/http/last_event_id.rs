//! `Last-Event-ID`: how far a client says that it has got.

use axum::http::HeaderMap;

use super::{error::Problem, field, query::Query};

/// The header in which an `EventSource` says how far it has got.
pub(super) const LAST_EVENT_ID: &str = "last-event-id";

/// How far a client says that it has got, where it says so.
pub(super) fn last_event_id(headers: &HeaderMap, query: &Query) -> Result<Option<String>, Problem> {
    let text = match field::text(headers, LAST_EVENT_ID)? {
        Some(text) => Some(text),
        None => query.first("lastEventId"),
    };
    Ok(text.filter(|text| !text.is_empty()).map(ToOwned::to_owned))
}

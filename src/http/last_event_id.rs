//! `Last-Event-ID`: the position after which a client resumes.

use axum::http::HeaderMap;

use super::{error::Problem, field, query::Query};

/// The header in which an `EventSource` sends the last `id:` that it received.
pub(super) const LAST_EVENT_ID: &str = "last-event-id";

/// The position that the client sends in the header, or else in the query. `None`: it sends none.
pub(super) fn last_event_id(headers: &HeaderMap, query: &Query) -> Result<Option<String>, Problem> {
    let text = match field::text(headers, LAST_EVENT_ID)? {
        Some(text) => Some(text),
        None => query.first("lastEventId"),
    };
    Ok(text.filter(|text| !text.is_empty()).map(ToOwned::to_owned))
}

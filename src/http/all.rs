//! `GET /all`: the whole log as an event stream, in strict id order.

use std::sync::Arc;

use axum::{
    extract::State,
    http::{HeaderMap, Uri},
    response::Response,
};

use super::{
    App,
    error::Problem,
    events,
    feed::{self, Source},
    gate,
    query::Query,
};
use crate::event::EventId;

/// `GET /all`.
pub(super) async fn follow(
    State(app): State<Arc<App>>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    gate::all(&app)?;
    let after = events::last_event_id(&headers, &Query::of(&uri));
    let after = after.map(|text| {
        text.parse::<EventId>().map_err(|_| {
            Problem::bad_request(format!(
                "{text:?} is no place in the whole log: send back an `id:` that came from here, \
                 or 0 for the beginning"
            ))
        })
    });
    let after = after.transpose()?;
    if !app.gateway.has_room(&[], app.settings.limits.streams, 0) {
        return Ok(events::overloaded());
    }
    let strict = match after {
        Some(after) => app.gateway.strict(after),
        None => app.gateway.strict_from_now(),
    };
    Ok(feed::streamed(&app.gateway, Source::All(Box::new(strict))))
}

//! `GET /all`: the whole log as an event stream, in strict id order.

use std::sync::Arc;

use axum::{
    Extension,
    extract::State,
    http::{HeaderMap, Uri},
    response::Response,
};

use super::{
    app::App,
    auth,
    cursor::check_snapshot,
    error::Problem,
    event_stream,
    feed::{Feed, Log},
    last_event_id::last_event_id,
    query::{Parameter, Query},
    session::{self, Session},
};
use crate::{
    access::principal::Principal,
    cursor::{Cursor, InvalidCursor},
};

/// Query parameters of `GET /all`.
pub(super) const PARAMETERS: &[Parameter] =
    &[Parameter::one("lastEventId"), Parameter::one("ticket")];

/// `GET /all`.
pub(super) async fn follow(
    State(app): State<Arc<App>>,
    Extension(who): Extension<Principal>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let after = last_event_id(&headers, &Query::of(&uri)?)?;
    let after = after.map(|text| {
        text.parse::<Cursor>().map_err(|invalid| match invalid {
            InvalidCursor::Snapshot { .. } => Problem::bad_request(invalid.to_string()),
            InvalidCursor::Form(_) => Problem::bad_request(format!(
                "{text:?} is not a cursor of the whole log: send an `id:` that GET /all has sent, \
                 or 0 for the beginning"
            )),
        })
    });
    let after = after.transpose()?;
    if !app.gateway.live().has_room(&[], app.settings.limits.streams, 0) {
        return Ok(event_stream::overloaded(event_stream::RETRY_WHEN_FULL));
    }
    check_snapshot(&app, &who, after.as_ref()).await?;
    let ending = match auth::open_stream(&app, &who) {
        Ok(ending) => ending,
        Err(answer) => return Ok(*answer),
    };
    let strict = match after {
        Some(after) => app.gateway.read().strict_owed(after),
        None => app.gateway.read().strict_from_now(),
    };
    let strict = strict.on_behalf_of(who.name()).counted_in(app.answers.account(&who));
    let feed = Feed::new(app.gateway.live().register_stream(), Log::All(Box::new(strict)));
    Ok(session::streamed(Session::new(&app.settings, feed, ending)))
}

//! `GET /events`: the stream of a consumer's events. `GET /events/{id}`: one event.

use std::sync::Arc;

use axum::{
    Extension,
    extract::State,
    http::{HeaderMap, Uri},
    response::{IntoResponse, Response},
};
use tracing::warn;

use super::{
    answer::AnswerPermit,
    app::App,
    auth,
    cursor::check_snapshot,
    error::Problem,
    event_json::EventJson,
    event_stream, identity,
    last_event_id::last_event_id,
    path_params::PathParams,
    query::{Parameter, Query},
    raw_stream::{self, RawStreamAllowed},
    session::{self, Session},
};
use crate::{
    access::principal::{Kind, Principal},
    consumer::ConsumerId,
    cursor::{Cursor, InvalidCursor},
    event::{EventId, name},
    live::subscription::{Kinds, Request},
    store::{
        error::ErrorChain,
        history::{HistoryError, StoredEvent},
    },
};

/// Query parameters of `GET /events`.
pub(super) const STREAM_PARAMETERS: &[Parameter] = &[
    Parameter::many("consumer").or_empty(),
    Parameter::one("lastEventId"),
    Parameter::many("types"),
    Parameter::one("amended"),
    Parameter::one("ticket"),
];

/// Query parameters of `GET /events/{id}`.
pub(super) const ONE_PARAMETERS: &[Parameter] =
    &[Parameter::many("consumer").or_empty(), Parameter::one("amended")];

/// `GET /events`.
pub(super) async fn subscribe(
    State(app): State<Arc<App>>,
    Extension(who): Extension<Principal>,
    uri: Uri,
    headers: HeaderMap,
    raw_allowed: Option<Extension<RawStreamAllowed>>,
) -> Result<Response, Problem> {
    let query = Query::of(&uri)?;
    let request = Request {
        consumers: identity::consumers(&who, &headers, &query)?,
        cursor: cursor(&headers, &query)?,
        kinds: kinds(&query)?,
        amended: amended(&query)?,
    };
    let limits = &app.settings.limits;
    if !app.gateway.live().has_room(
        &request.consumers,
        limits.streams,
        limits.streams_of_a_consumer,
    ) {
        return Ok(event_stream::overloaded(event_stream::RETRY_WHEN_FULL));
    }
    check_snapshot(&app, &who, request.cursor.as_ref()).await?;
    let ending = match auth::open_stream(&app, &who) {
        Ok(ending) => ending,
        Err(answer) => return Ok(*answer),
    };
    let caller = caller(&who, &request.consumers);
    let subscription = app.gateway.live().subscribe(request).on_behalf_of(&caller);
    let subscription = subscription.counted_in(app.answers.account(&who));
    let session = Session::new(&app.settings, subscription, ending);
    Ok(match raw_allowed {
        Some(_) => raw_stream::response(session),
        None => session::streamed(session),
    })
}

/// The name under which queries on history take turns. In the open mode principals have no name, so it is
/// the consumer's.
fn caller(who: &Principal, consumers: &[ConsumerId]) -> Arc<str> {
    match (who.kind(), consumers) {
        (Kind::Open, [consumer, ..]) => consumer.as_str().into(),
        _ => Arc::clone(who.name()),
    }
}

/// `GET /events/{id}`.
pub(super) async fn one(
    State(app): State<Arc<App>>,
    Extension(who): Extension<Principal>,
    Extension(permit): Extension<AnswerPermit>,
    PathParams(id): PathParams<String>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    permit.reserve(app.settings.limits.event)?;
    let query = Query::of(&uri)?;
    let consumers = identity::any_consumers(&headers, &query)?;
    consumers.iter().flatten().try_for_each(|consumer| who.may_read(consumer))?;
    let id: EventId = id.parse().map_err(|_| {
        Problem::bad_request(format!("{id:?} is not an event id: an id is a whole number"))
    })?;
    let amended = amended(&query)?;
    let failed = |error: HistoryError| {
        warn!(error = %ErrorChain(&error), %id, "looking up an event failed");
        Problem::unavailable("PostgreSQL is not available at present; try again")
    };
    let event = app.gateway.read().history_for(who.name()).event(id).await.map_err(failed)?;
    let may_see =
        |event: &StoredEvent| is_for_any_of(consumers.as_deref(), event) && may_see(&who, event);
    let Some(event) = event.filter(may_see) else {
        return Err(Problem::not_found(format!("there is no event {id} for this consumer")));
    };
    if !amended {
        return Ok(axum::Json(EventJson::from(&event)).into_response());
    }
    let correction = app.gateway.read().correction(who.name(), &event).await.map_err(failed)?;
    Ok(axum::Json(EventJson::from(&event).corrected(correction)).into_response())
}

/// Whether the client wants events as corrected by their amendments.
fn amended(query: &Query) -> Result<bool, Problem> {
    match query.first("amended") {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(_) => Err(Problem::bad_request("?amended= must be true or false")),
    }
}

fn cursor(headers: &HeaderMap, query: &Query) -> Result<Option<Cursor>, Problem> {
    let cursor = last_event_id(headers, query)?.map(|text| text.parse()).transpose();
    cursor.map_err(|invalid: InvalidCursor| Problem::bad_request(invalid.to_string()))
}

fn kinds(query: &Query) -> Result<Option<Kinds>, Problem> {
    let mut lists = query.all("types").peekable();
    if lists.peek().is_none() {
        return Ok(None);
    }
    let kinds: Vec<&str> = lists.flat_map(|list| list.split(',')).collect();
    if kinds.iter().any(|kind| name::check(kind).is_err()) {
        return Err(Problem::bad_request(
            "?types= must be a list of event types, such as types=insert,update",
        ));
    }
    Ok(Some(kinds.into_iter().collect()))
}

/// Whether the principal may read the event: as its consumer's, in its stream, or because it may read all.
pub(super) fn may_see(who: &Principal, event: &StoredEvent) -> bool {
    let consumer = event.subscriber.as_deref().map(ConsumerId::logged);
    consumer.is_some_and(|consumer| who.may_read(&consumer).is_ok())
        || event.stream.as_deref().is_some_and(|stream| who.may_read_stream(stream).is_ok())
        || who.may_read_all().is_ok()
}

/// Whether the event is for one of these consumers. `None`: the request names no consumer.
fn is_for_any_of(consumers: Option<&[ConsumerId]>, event: &StoredEvent) -> bool {
    let matches = |consumer: &ConsumerId| Some(consumer.as_str()) == event.subscriber.as_deref();
    consumers.is_none_or(|consumers| consumers.iter().any(matches))
}

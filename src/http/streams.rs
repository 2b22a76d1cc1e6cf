//! `GET /streams/{stream}`: a page of the stream's events, or the stream as it grows.

use std::sync::Arc;

use axum::{
    Extension,
    extract::State,
    http::{HeaderMap, HeaderName, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use tokio::task::spawn_blocking;

use super::{
    answer::AnswerPermit,
    app::App,
    auth,
    class::accepts_events,
    error::Problem,
    event_json::EventJson,
    event_stream,
    feed::{Feed, Log},
    last_event_id::last_event_id,
    path_params::PathParams,
    precondition::{Outcome, Preconditions},
    query::{Parameter, Query},
    session::{self, Session},
    stream::{PAGE_BYTES, failed, last_version, stream_name, version_number},
};
use crate::{
    access::principal::Principal,
    event::name::StreamName,
    store::{
        event_log::PageSize,
        history::{EventPage, HistoryError, StoredEvent},
    },
};

/// Query parameters of `GET /streams/{stream}`.
pub(super) const PARAMETERS: &[Parameter] = &[
    Parameter::one("offset"),
    Parameter::one("limit"),
    Parameter::one("direction"),
    Parameter::one("lastEventId"),
    Parameter::one("ticket"),
];

/// Parameters that apply to pages only, and to followed streams only.
const PAGE_ONLY: [&str; 2] = ["limit", "direction"];
const FOLLOW_ONLY: [&str; 1] = ["lastEventId"];

/// The page that a client asks for.
pub(super) struct PageQuery {
    /// The version at which the page begins. `None`: at the first one, or backward at the last one.
    pub(super) offset: Option<u64>,
    /// The greatest number of events.
    pub(super) limit: i64,
    /// In descending order of versions.
    pub(super) backward: bool,
}

/// A page of a stream.
pub(super) struct PageResult {
    pub(super) events: Vec<StoredEvent>,
    /// The stream's last version. 0: it has no events.
    pub(super) version: i64,
    /// The offset of the next page.
    pub(super) next_offset: u64,
}

/// The offset of the page after the greatest possible version.
const AFTER_LAST_VERSION: u64 = 1 << 63;

/// The number of events in a page if the client does not ask for another.
const DEFAULT_LIMIT: i64 = 20;

/// `GET /streams/{stream}`.
pub(super) async fn read(
    State(app): State<Arc<App>>,
    Extension(who): Extension<Principal>,
    Extension(permit): Extension<AnswerPermit>,
    PathParams(stream): PathParams<String>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let (stream, query) = (stream_name(&stream)?, Query::of(&uri)?);
    who.may_read_stream(stream.as_str())?;
    let after = after(&headers, &query)?;
    if accepts_events(&headers) {
        query.has_none_of(&PAGE_ONLY, "a stream that is followed has no pages")?;
        return follow((&app, &who), stream, after, &query);
    }
    let follow_only = "it is for streams that are followed (Accept: text/event-stream); a page \
                       begins at ?offset=";
    query.has_none_of(&FOLLOW_ONLY, follow_only)?;
    let asked = PageQuery::of(&query, app.settings.limits.page)?;
    let preconditions = Preconditions::of(&headers)?;
    if !preconditions.are_absent() {
        let version = last_version(&app, &who, &stream).await?;
        match preconditions.of_read(version) {
            Outcome::Holds => {}
            Outcome::NotModified => {
                return Ok((StatusCode::NOT_MODIFIED, tag(version)).into_response());
            }
            Outcome::Fails => {
                let detail =
                    format!("the stream is at version {version}, which If-Match does not list");
                return Err(Problem::precondition_failed(detail, version));
            }
        }
    }
    permit.reserve_page()?;
    let found = page(&app, &who, &stream, &asked).await?;
    Ok(respond(stream, found).await)
}

/// The stream's entity tag: its last version.
fn tag(version: i64) -> [(HeaderName, String); 1] {
    [(header::ETAG, format!("\"{version}\""))]
}

/// Reads a page of the stream.
pub(super) async fn page(
    app: &App,
    who: &Principal,
    stream: &StreamName,
    asked: &PageQuery,
) -> Result<PageResult, Problem> {
    let size = PageSize { rows: asked.limit, bytes: PAGE_BYTES };
    let history = app.gateway.read().history_for(who.name());
    let (page, version) = async {
        let page = match (asked.backward, asked.offset.map(i64::try_from)) {
            (true, Some(Ok(last))) => history.stream_backward(stream, last, size).await?,
            (true, _) => history.stream_backward(stream, i64::MAX, size).await?,
            (false, Some(Ok(first))) => history.stream(stream, first, size).await?,
            (false, None) => history.stream(stream, 1, size).await?,
            (false, Some(Err(_))) => EventPage::empty(),
        };
        Ok((page, history.last_version(stream).await?))
    }
    .await
    .map_err(|error: HistoryError| failed(&error, stream))?;
    let last = page.events.last().and_then(|event| event.version);
    let last = last.and_then(|version| u64::try_from(version).ok());
    let next_offset = match (last, asked.backward) {
        (Some(last), true) => last.saturating_sub(1),
        (Some(last), false) => last + 1,
        (None, true) => asked.offset.unwrap_or_default(),
        (None, false) => asked.offset.unwrap_or(1).max(1),
    };
    Ok(PageResult { events: page.events, version, next_offset })
}

impl PageQuery {
    /// Parses the query. `max_limit` bounds the number of events.
    pub(super) fn of(query: &Query, max_limit: i64) -> Result<Self, Problem> {
        let backward = match query.first("direction") {
            None | Some("forward") => false,
            Some("backward") => true,
            Some(_) => return Err(Problem::bad_request("?direction= must be forward or backward")),
        };
        let offset = query.first("offset").filter(|text| !text.is_empty());
        // 0 is before the first version: the `nextOffset` of the last page backward.
        let offset = match offset {
            Some("0") => Some(0),
            Some(text) if text.parse() == Ok(AFTER_LAST_VERSION) => Some(AFTER_LAST_VERSION),
            offset => offset.map(version_number).transpose()?.map(i64::unsigned_abs),
        };
        let limit = query.first("limit").filter(|text| !text.is_empty());
        let limit = limit.map_or(Some(DEFAULT_LIMIT.min(max_limit)), |text| text.parse().ok());
        let limit = limit.filter(|limit| (1..=max_limit).contains(limit)).ok_or_else(|| {
            Problem::bad_request(format!(
                "?limit= must be a number of events from 1 to {max_limit}"
            ))
        })?;
        Ok(Self { offset, limit, backward })
    }
}

/// The version after which a client resumes. `None`: it sends none.
fn after(headers: &HeaderMap, query: &Query) -> Result<Option<i64>, Problem> {
    match last_event_id(headers, query)? {
        Some(text) if text == "0" => Ok(Some(0)),
        Some(text) => version_number(&text).map(Some),
        None => Ok(None),
    }
}

fn follow(
    (app, who): (&App, &Principal),
    stream: StreamName,
    after: Option<i64>,
    query: &Query,
) -> Result<Response, Problem> {
    let after = if let Some(after) = after {
        after
    } else {
        let first = PageQuery::of(query, app.settings.limits.page)?.offset.unwrap_or(1);
        i64::try_from(first.saturating_sub(1)).unwrap_or(i64::MAX)
    };
    if !app.gateway.live().has_room(&[], app.settings.limits.streams, 0) {
        return Ok(event_stream::overloaded(event_stream::RETRY_WHEN_FULL));
    }
    let ending = match auth::open_stream(app, who) {
        Ok(ending) => ending,
        Err(answer) => return Ok(*answer),
    };
    let versions = app.gateway.read().versions(stream, after).on_behalf_of(who.name());
    let versions = versions.counted_in(app.answers.account(who));
    let feed = Feed::new(app.gateway.live().register_stream(), Log::Stream(Box::new(versions)));
    Ok(session::streamed(Session::new(&app.settings, feed, ending)))
}

/// Larger pages are serialized on a blocking thread, so that they do not delay other requests.
const LARGE_PAGE_BYTES: usize = 64 << 10;

async fn respond(stream: StreamName, found: PageResult) -> Response {
    let tag = tag(found.version);
    let bytes: usize = found.events.iter().map(StoredEvent::bytes).sum();
    let text = if bytes > LARGE_PAGE_BYTES {
        spawn_blocking(move || text(&stream, &found)).await.unwrap_or(None)
    } else {
        text(&stream, &found)
    };
    let Some(text) = text else {
        return Problem::internal("the page cannot be encoded as JSON").into_response();
    };
    (tag, [(header::CONTENT_TYPE, "application/json")], text).into_response()
}

/// The page as JSON.
fn text(stream: &StreamName, found: &PageResult) -> Option<Vec<u8>> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Page<'a> {
        stream: &'a str,
        version: i64,
        next_offset: u64,
        events: Vec<EventJson<'a>>,
    }
    let page = Page {
        stream: stream.as_str(),
        version: found.version,
        next_offset: found.next_offset,
        events: found.events.iter().map(EventJson::from).collect(),
    };
    serde_json::to_vec(&page).ok()
}

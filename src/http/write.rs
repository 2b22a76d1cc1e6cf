//! Writing over HTTP: `POST /events`, `POST /streams/{stream}` and `POST /streams/{stream}/{version}`.

mod accept;
mod amendment;
mod base64;
mod body;
mod dedup;
mod event;
mod import;
mod key;

use std::sync::Arc;

use axum::{
    Extension, Json,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use tokio::task::spawn_blocking;

use self::{accept::accept, event::ParsedBody, key::Key};
pub(super) use self::{
    base64::{encode, is_base64},
    body::Kind,
    event::Form,
};
use super::{
    app::App,
    authorize,
    error::Problem,
    path_params::PathParams,
    precondition::{Preconditions, combine},
    stream::{last_version, stream_name, version_number},
};
use crate::{
    access::principal::Principal,
    event::{
        draft::{Draft, Expected, Place},
        name::StreamName,
    },
    store::append::Written,
    write::{BytesPermit, Writer},
};

/// `POST /events`.
pub(super) async fn publish(
    State(app): State<Arc<App>>,
    Extension(who): Extension<Principal>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let writer = authorize::writer(&app)?;
    Preconditions::refuse(&headers)?;
    if Kind::of(&headers)? == Kind::Lines {
        let key = Key::of((&headers, uri.path()), &who)?;
        return Ok(import::import(Arc::clone(&app), who, writer, key, body));
    }
    let read = body::read(writer.bytes_permit(&who), &app.settings.limits, &headers, body).await?;
    let (mut parsed, _room) = parse(&app, read, None).await?;
    key::apply((&headers, uri.path()), &who, &mut parsed.drafts)?;
    let written = write(&app, &who, writer, &mut parsed).await?;
    Ok(published(&parsed.results(&written), parsed.is_single))
}

/// `POST /streams/{stream}`.
pub(super) async fn append(
    State(app): State<Arc<App>>,
    Extension(who): Extension<Principal>,
    PathParams(stream): PathParams<String>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let stream = stream_name(&stream)?;
    let expected = expected_by_headers(&headers, &app, &who, &stream).await?;
    let in_header = expected != Expected::Any;
    let appended = append_to((&app, &who), &stream, expected, &uri, &headers, body).await;
    appended.map_err(|problem| if in_header { problem.as_precondition() } else { problem })
}

/// `POST /streams/{stream}/{version}`.
pub(super) async fn append_at(
    State(app): State<Arc<App>>,
    Extension(who): Extension<Principal>,
    PathParams((stream, version)): PathParams<(String, String)>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let (stream, version) = (stream_name(&stream)?, version_number(&version)?);
    let by_headers = expected_by_headers(&headers, &app, &who, &stream).await?;
    let expected = combine(Expected::Version(version), by_headers)?;
    append_to((&app, &who), &stream, expected, &uri, &headers, body).await
}

/// What the headers expect of the stream, after checking that the principal may write to it.
async fn expected_by_headers(
    headers: &HeaderMap,
    app: &App,
    who: &Principal,
    stream: &StreamName,
) -> Result<Expected, Problem> {
    who.may_write_stream(stream.as_str())?;
    Preconditions::of(headers)?.of_write(|| last_version(app, who, stream)).await
}

async fn append_to(
    (app, who): (&Arc<App>, &Principal),
    stream: &StreamName,
    expected: Expected,
    uri: &Uri,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let writer = authorize::writer(app)?;
    who.may_write_stream(stream.as_str())?;
    if Kind::of(headers)? == Kind::Lines {
        return Err(Problem::unsupported("only POST /events accepts application/x-ndjson"));
    }
    let read = body::read(writer.bytes_permit(who), &app.settings.limits, headers, body).await?;
    let (mut parsed, _room) = parse(app, read, Some(stream)).await?;
    expect(&mut parsed.drafts, expected)?;
    key::apply((headers, uri.path()), who, &mut parsed.drafts)?;
    let written = write(app, who, writer, &mut parsed).await?;
    Ok(appended(stream, &parsed.results(&written), parsed.is_single))
}

/// Larger bodies are parsed on a blocking thread.
const LARGE_BYTES: usize = 64 << 10;

/// Parses a body. Returns its memory permit too, so that the permit is held until the body has been parsed.
async fn parse(
    app: &Arc<App>,
    (text, room): (String, BytesPermit),
    stream: Option<&StreamName>,
) -> Result<(ParsedBody, BytesPermit), Problem> {
    if text.len() <= LARGE_BYTES {
        return Ok((event::parse(&text, form(stream), &app.settings.limits)?, room));
    }
    let (app, stream) = (Arc::clone(app), stream.cloned());
    let parsing = spawn_blocking(move || {
        Ok((event::parse(&text, form(stream.as_ref()), &app.settings.limits)?, room))
    });
    parsing.await.expect("parsing a body does not panic")
}

fn form(stream: Option<&StreamName>) -> Form<'_> {
    stream.map_or(Form::Event, Form::Appended)
}

/// Writes all events of a body, or none.
async fn write(
    app: &App,
    who: &Principal,
    writer: &Writer,
    parsed: &mut ParsedBody,
) -> Result<Vec<Written>, Problem> {
    authorize::drafts(who, &parsed.drafts)?;
    authorize::rate(app, who, &parsed.drafts)?;
    let accepted = accept(app, who, writer, std::mem::take(&mut parsed.drafts)).await;
    accepted.map_err(|(at, problem)| match at {
        Some(at) if !parsed.is_single => problem.about(&format!("event {}", parsed.first_of(at))),
        _ => problem,
    })
}

/// Adds the version that the address or a header expects to the first event. Later events expect the
/// versions that follow.
fn expect(drafts: &mut [Draft], mut expected: Expected) -> Result<(), Problem> {
    for Place { expected: own, .. } in drafts.iter_mut().filter_map(|draft| draft.place.as_mut()) {
        *own = combine(*own, expected)?;
        expected = expected.following();
    }
    Ok(())
}

fn published(written: &[Written], is_single: bool) -> Response {
    let ids = ids(written);
    match (is_single, ids.first()) {
        (true, Some(&id)) => {
            let location = [(header::LOCATION, format!("/events/{id}"))];
            (StatusCode::CREATED, location, object("id", &id)).into_response()
        }
        _ => (StatusCode::CREATED, object("ids", &ids)).into_response(),
    }
}

fn object(name: &str, value: &impl Serialize) -> Json<serde_json::Value> {
    Json(serde_json::json!({ name: value }))
}

fn appended(stream: &StreamName, written: &[Written], is_single: bool) -> Response {
    #[derive(Serialize)]
    struct One<'a> {
        stream: &'a str,
        version: i64,
        id: i64,
    }
    #[derive(Serialize)]
    struct Several<'a> {
        stream: &'a str,
        version: i64,
        ids: Vec<i64>,
    }
    let version = written.iter().filter_map(|written| written.version).max().unwrap_or_default();
    let (stream, ids) = (stream.as_str(), ids(written));
    let tag = [(header::ETAG, format!("\"{version}\""))];
    match (is_single, ids.first()) {
        (true, Some(&id)) => (tag, Json(One { stream, version, id })).into_response(),
        _ => (tag, Json(Several { stream, version, ids })).into_response(),
    }
}

fn ids(written: &[Written]) -> Vec<i64> {
    written.iter().map(|written| written.id.get()).collect()
}

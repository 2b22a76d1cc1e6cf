//! A request's body, read whole within its limits.

use std::time::Duration;

use axum::{
    body::Body,
    http::{HeaderMap, header},
};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use tokio::time::timeout;

use crate::{
    gateway::writer::{Room, Writer},
    http::{Limits, error::Problem},
};

/// What a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::http) enum Kind {
    /// JSON.
    Json,
    /// A JSON value a line.
    Lines,
}

/// `curl -d` calls everything a form.
const JSON: [&str; 5] =
    ["application/json", "application/x-www-form-urlencoded", "text/json", "text/plain", ""];

/// What a charset may be called that is UTF-8, or a part of it.
const UTF_8: [&str; 3] = ["utf-8", "utf8", "us-ascii"];

/// A body takes no longer to arrive.
pub(super) const ARRIVING: Duration = Duration::from_secs(30);

impl Kind {
    /// What the headers say.
    pub(in crate::http) fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        plain(headers)?;
        let Some(said) = headers.get(header::CONTENT_TYPE) else { return Ok(Self::Json) };
        let said = said.to_str().unwrap_or_default().to_ascii_lowercase();
        let mut parts = said.split(';').map(str::trim);
        let kind = parts.next().unwrap_or_default();
        if let Some(charset) = parts.find_map(|part| part.strip_prefix("charset="))
            && !UTF_8.contains(&charset.trim_matches('"'))
        {
            return Err(Problem::unsupported(format!(
                "a body in {charset} is not understood: JSON is sent in UTF-8"
            )));
        }
        match kind {
            "application/x-ndjson" | "application/ndjson" | "application/jsonl" => Ok(Self::Lines),
            other if other.ends_with("+json") || JSON.contains(&other) => Ok(Self::Json),
            other => Err(Problem::unsupported(format!(
                "a body of {other:?} is not understood: expected application/json, or \
                 application/x-ndjson for many events"
            ))),
        }
    }
}

/// A body that is packed is not unpacked: nobody could say beforehand how large it will be.
fn plain(headers: &HeaderMap) -> Result<(), Problem> {
    let mut codings = headers.get_all(header::CONTENT_ENCODING).iter();
    let packed = codings.find(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity"));
    packed.map_or(Ok(()), |coding| {
        Err(Problem::unsupported(format!(
            "a body with the Content-Encoding {coding:?} is not unpacked: send it as it is"
        )))
    })
}

/// Reads the body as text, and answers the room that it takes.
pub(super) async fn read(
    writer: &Writer,
    limits: &Limits,
    headers: &HeaderMap,
    body: Body,
) -> Result<(String, Room), Problem> {
    let room = writer.room(length(headers, limits.body)?)?;
    let read = timeout(ARRIVING, Limited::new(body, limits.body).collect()).await;
    let read = read.map_err(|_| {
        Problem::too_slow(format!("the body did not arrive within {} s", ARRIVING.as_secs()))
    })?;
    let bytes: Bytes = read.map_err(|error| broken(error.as_ref(), limits.body))?.to_bytes();
    let text = String::from_utf8(bytes.into());
    Ok((text.map_err(|_| Problem::bad_request("the body is not UTF-8"))?, room))
}

/// How long the body will be; the most that it may, where it does not say.
fn length(headers: &HeaderMap, most: usize) -> Result<usize, Problem> {
    let said = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok());
    match said.and_then(|length| length.parse().ok()) {
        Some(length) if length > most => Err(larger_than(most)),
        Some(length) => Ok(length),
        None => Ok(most),
    }
}

fn broken(error: &(dyn std::error::Error + 'static), most: usize) -> Problem {
    if error.is::<LengthLimitError>() {
        larger_than(most)
    } else {
        Problem::bad_request("the body broke off")
    }
}

fn larger_than(most: usize) -> Problem {
    Problem::too_large(format!(
        "the body is larger than {most} bytes (--max-body): send fewer events at once, or stream \
         them as application/x-ndjson"
    ))
}

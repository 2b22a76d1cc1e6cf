//! A request's body, read whole within its limits.

use std::{mem, time::Duration};

use axum::{
    body::Body,
    http::{HeaderMap, header},
};
use futures::StreamExt;
use tokio::{task::yield_now, time::timeout};

use crate::{
    access::budget::Exhausted,
    http::{app::Limits, error::Problem},
    write::BytesPermit,
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

/// Reads the body as text, and answers the room that it takes: for what has arrived, whatever the
/// request promises.
pub(super) async fn read(
    mut room: BytesPermit,
    limits: &Limits,
    headers: &HeaderMap,
    body: Body,
) -> Result<(String, BytesPermit), Problem> {
    let promised = promised(headers);
    if promised.is_some_and(|length| length > limits.body) {
        return Err(larger_than(limits.body));
    }
    let all = arrive(&mut room, limits, promised.unwrap_or_default(), body);
    let all = timeout(ARRIVING, all).await.map_err(|_| {
        Problem::too_slow(format!("the body did not arrive within {} s", ARRIVING.as_secs()))
    })??;
    let text = String::from_utf8(all);
    Ok((text.map_err(|_| Problem::bad_request("the body is not UTF-8"))?, room))
}

/// A body arrives in blocks of this size: one buffer that grows would be copied again and again. Promises
/// are believed as far as this.
const BLOCK_BYTES: usize = 64 << 10;

async fn arrive(
    room: &mut BytesPermit,
    limits: &Limits,
    promised: usize,
    body: Body,
) -> Result<Vec<u8>, Problem> {
    let mut body = body.into_data_stream();
    let mut arrived = 0;
    let (mut full, mut block) = (Vec::new(), Vec::with_capacity(promised.min(BLOCK_BYTES)));
    loop {
        let part = timeout(limits.body_within, body.next()).await.map_err(|_| silent(limits))?;
        let Some(part) = part else { return Ok(whole(full, block)) };
        let part = part.map_err(|_| Problem::bad_request("the body broke off"))?;
        arrived += part.len();
        if arrived > limits.body {
            return Err(larger_than(limits.body));
        }
        room.take(part.len()).map_err(no_room)?;
        block.extend_from_slice(&part);
        if block.len() >= BLOCK_BYTES {
            full.push(mem::replace(&mut block, Vec::with_capacity(BLOCK_BYTES)));
            // A fast client's megabytes are there at once: others have their turn between two blocks.
            yield_now().await;
        }
    }
}

fn whole(mut blocks: Vec<Vec<u8>>, last: Vec<u8>) -> Vec<u8> {
    if blocks.is_empty() {
        return last;
    }
    blocks.push(last);
    blocks.concat()
}

/// Nothing came for too long.
pub(super) fn silent(limits: &Limits) -> Problem {
    let within = limits.body_within;
    Problem::too_slow(format!("nothing of the body came for {within:?} (--body-timeout)"))
}

/// Bodies that are on their way take too much room.
pub(super) fn no_room(exhausted: Exhausted) -> Problem {
    match exhausted {
        Exhausted::InAll => Problem::too_many_of(
            "too many bytes wait to be written (--write-buffer): nothing of this was written; try \
             again in a second",
        ),
        Exhausted::ByPrincipal => Problem::too_many_of(
            "you have too many bytes on their way to be written \
             (--write-buffer-per-principal): nothing of this was written; wait for answers, then \
             try again",
        ),
    }
}

/// How long the body will be, where the request says so.
fn promised(headers: &HeaderMap) -> Option<usize> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// What the events of a body say is too long, written out.
pub(super) fn larger_written_out(most: usize) -> Problem {
    Problem::too_large(format!(
        "the events are larger than {most} bytes (--max-body) with their numbers written out, as \
         they are kept and sent: send fewer at once, or stream them as application/x-ndjson"
    ))
}

fn larger_than(most: usize) -> Problem {
    Problem::too_large(format!(
        "the body is larger than {most} bytes (--max-body): send fewer events at once, or stream \
         them as application/x-ndjson"
    ))
}

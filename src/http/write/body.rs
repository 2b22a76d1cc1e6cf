//! Reads the body of a request within its limits.

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

/// The format of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::http) enum Kind {
    /// One JSON value.
    Json,
    /// One JSON value per line.
    Lines,
}

/// Media types that are read as JSON. `curl -d` sends every body as a form.
const JSON_TYPES: [&str; 5] =
    ["application/json", "application/x-www-form-urlencoded", "text/json", "text/plain", ""];

/// Names of charsets that are UTF-8 or a subset of it.
const UTF_8_NAMES: [&str; 3] = ["utf-8", "utf8", "us-ascii"];

/// The time within which a body must arrive.
pub(super) const ARRIVAL_DEADLINE: Duration = Duration::from_secs(30);

impl Kind {
    /// Determines the format from the headers.
    ///
    /// # Errors
    /// 415 for other media types, charsets and content codings.
    pub(in crate::http) fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        refuse_compressed(headers)?;
        let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(Self::Json) };
        let value = value.to_str().unwrap_or_default().to_ascii_lowercase();
        let mut parts = value.split(';').map(str::trim);
        let kind = parts.next().unwrap_or_default();
        if let Some(charset) = parts.find_map(|part| part.strip_prefix("charset="))
            && !UTF_8_NAMES.contains(&charset.trim_matches('"'))
        {
            return Err(Problem::unsupported(format!(
                "the charset {charset} is not supported: send JSON in UTF-8"
            )));
        }
        match kind {
            "application/x-ndjson" | "application/ndjson" | "application/jsonl" => Ok(Self::Lines),
            other if other.ends_with("+json") || JSON_TYPES.contains(&other) => Ok(Self::Json),
            other => Err(Problem::unsupported(format!(
                "the media type {other:?} is not supported: send application/json, or \
                 application/x-ndjson for many events"
            ))),
        }
    }
}

/// Refuses compressed bodies, because their decompressed size is not known in advance.
fn refuse_compressed(headers: &HeaderMap) -> Result<(), Problem> {
    let mut codings = headers.get_all(header::CONTENT_ENCODING).iter();
    let compressed = codings.find(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity"));
    compressed.map_or(Ok(()), |coding| {
        Err(Problem::unsupported(format!(
            "the Content-Encoding {coding:?} is not supported: send the body without it"
        )))
    })
}

/// Reads the body as text. Returns the memory permit, too, which covers the bytes that have arrived,
/// whatever `Content-Length` declares.
pub(super) async fn read(
    mut room: BytesPermit,
    limits: &Limits,
    headers: &HeaderMap,
    body: Body,
) -> Result<(String, BytesPermit), Problem> {
    let declared = declared_length(headers);
    if declared.is_some_and(|length| length > limits.body) {
        return Err(larger_than(limits.body));
    }
    let all = collect(&mut room, limits, declared.unwrap_or_default(), body);
    let all = timeout(ARRIVAL_DEADLINE, all).await.map_err(|_| {
        let seconds = ARRIVAL_DEADLINE.as_secs();
        Problem::too_slow(format!("the body did not arrive within {seconds} s"))
    })??;
    let text = String::from_utf8(all);
    Ok((text.map_err(|_| Problem::bad_request("the body is not UTF-8"))?, room))
}

/// A body is collected in blocks of this size, because one growing buffer would be copied repeatedly. It is
/// also the most that is allocated because of a `Content-Length`.
const BLOCK_BYTES: usize = 64 << 10;

async fn collect(
    room: &mut BytesPermit,
    limits: &Limits,
    declared: usize,
    body: Body,
) -> Result<Vec<u8>, Problem> {
    let mut body = body.into_data_stream();
    let mut arrived = 0;
    let (mut full, mut block) = (Vec::new(), Vec::with_capacity(declared.min(BLOCK_BYTES)));
    loop {
        let part = timeout(limits.body_within, body.next()).await.map_err(|_| stalled(limits))?;
        let Some(part) = part else { return Ok(concat(full, block)) };
        let part = part.map_err(|_| Problem::bad_request("the body is incomplete"))?;
        arrived += part.len();
        if arrived > limits.body {
            return Err(larger_than(limits.body));
        }
        room.take(part.len()).map_err(no_room)?;
        block.extend_from_slice(&part);
        if block.len() >= BLOCK_BYTES {
            full.push(mem::replace(&mut block, Vec::with_capacity(BLOCK_BYTES)));
            // The body of a fast client never makes this task wait, so yield to other tasks.
            yield_now().await;
        }
    }
}

fn concat(mut blocks: Vec<Vec<u8>>, last: Vec<u8>) -> Vec<u8> {
    if blocks.is_empty() {
        return last;
    }
    blocks.push(last);
    blocks.concat()
}

/// 408: no part of the body arrived for too long.
pub(super) fn stalled(limits: &Limits) -> Problem {
    let within = limits.body_within;
    Problem::too_slow(format!("no part of the body arrived for {within:?} (--body-timeout)"))
}

/// 429: bodies that have arrived and are not yet written exceed a limit.
pub(super) fn no_room(exhausted: Exhausted) -> Problem {
    match exhausted {
        Exhausted::InAll => Problem::too_many_of(
            "too many bytes wait to be written (--write-buffer): nothing was written; try again in a \
             second",
        ),
        Exhausted::ByPrincipal => Problem::too_many_of(
            "too many bytes of yours wait to be written (--write-buffer-per-principal): nothing was \
             written; wait for responses, then try again",
        ),
    }
}

/// The `Content-Length`. `None`: the request does not declare one.
fn declared_length(headers: &HeaderMap) -> Option<usize> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// 413: the events of a body are too large with their numbers written out.
pub(super) fn larger_written_out(most: usize) -> Problem {
    Problem::too_large(format!(
        "the events are larger than {most} bytes (--max-body) with their numbers written out, as \
         they are stored and delivered: send fewer at once, or stream them as application/x-ndjson"
    ))
}

fn larger_than(most: usize) -> Problem {
    Problem::too_large(format!(
        "the body is larger than {most} bytes (--max-body): send fewer events at once, or stream \
         them as application/x-ndjson"
    ))
}

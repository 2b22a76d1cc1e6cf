//! Imports a body of any length with one event per line. The events are written in batches, in order, and
//! the response reports the progress.
//!
//! Each batch is written atomically. The response consists of lines of JSON, which contain the number of
//! lines that have been written. The last one contains `done`, or the problem and the line that it is about;
//! all batches before that line's batch have been written. Lines with a `uid`, and all lines of a
//! request with an `Idempotency-Key`, can safely be sent again.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    body::{Body, BodyDataStream},
    http::header,
    response::{IntoResponse, Response},
};
use bytes::{Bytes, BytesMut};
use futures::{StreamExt, future::BoxFuture, stream};
use http_body_util::StreamBody;
use hyper::body::Frame;
use serde_json::json;
use tokio::{
    select,
    time::{Instant, sleep, timeout_at},
};

use super::{
    accept::accept,
    body::{ARRIVAL_DEADLINE, no_room},
    dedup, event,
    key::Key,
};
use crate::{
    access::{RetryAfter, principal::Principal},
    event::draft::Draft,
    http::{app::App, authorize, error::Problem, write::event::Form},
    write::{BytesPermit, Writer},
};

/// The limits of a batch: large enough to make the cost of a commit small, and small enough not to delay
/// readers.
const MAX_BATCH_EVENTS: usize = 500;
const MAX_BATCH_BYTES: usize = 256 << 10;

/// Each time this many bytes of a long line have arrived, the deadline for the line starts again.
const PROGRESS_BYTES: usize = 64 << 10;

/// The least interval between two reports, so that they do not fill the buffers of a connection whose client
/// reads only after it has sent everything.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// The response to a body of lines.
pub(super) fn import(
    app: Arc<App>,
    who: Principal,
    writer: &Writer,
    key: Option<Key>,
    body: Body,
) -> Response {
    let room = writer.bytes_permit(&who);
    let ended = app.access.ended(&who);
    let import = Import {
        app,
        who,
        key,
        body: body.into_data_stream(),
        rest: BytesMut::new(),
        lines: 0,
        written: 0,
        last: None,
        state: State::Reading,
        progress: Instant::now(),
        ended,
        room,
    };
    let progress = stream::unfold(import, async |mut import| {
        let report = import.next().await?;
        Some((Ok::<_, Infallible>(Frame::data(report)), import))
    });
    let headers =
        [(header::CONTENT_TYPE, "application/x-ndjson"), (header::CACHE_CONTROL, "no-store")];
    (headers, Body::new(StreamBody::new(progress))).into_response()
}

struct Import {
    app: Arc<App>,
    who: Principal,
    key: Option<Key>,
    body: BodyDataStream,
    /// Bytes that have arrived and were not yet read as lines.
    rest: BytesMut,
    /// The number of lines that were read.
    lines: u64,
    /// The number of lines that were written, from the first one on.
    written: u64,
    /// The id of the last event that was written.
    last: Option<i64>,
    state: State,
    /// When the client last made progress. Blank lines are not progress.
    progress: Instant,
    /// Resolves when the client's credentials become invalid.
    ended: BoxFuture<'static, ()>,
    room: BytesPermit,
}

#[derive(PartialEq, Eq)]
enum State {
    Reading,
    /// The body has ended; there may be lines left in `rest`.
    Read,
    /// The last report was sent.
    Done,
}

impl Import {
    /// The next report. `None`: the last one was sent.
    async fn next(&mut self) -> Option<Bytes> {
        if self.state == State::Done {
            return None;
        }
        let due = Instant::now() + REPORT_INTERVAL;
        let report = loop {
            match self.batch().await {
                Ok(true) if Instant::now() < due => {}
                Ok(true) => break json!({ "lines": self.written, "id": self.last }),
                Ok(false) => {
                    self.state = State::Done;
                    break json!({ "lines": self.written, "id": self.last, "done": true });
                }
                Err((line, problem)) => {
                    self.state = State::Done;
                    let error = problem.json();
                    break json!({
                        "lines": self.written, "id": self.last, "line": line, "error": error
                    });
                }
            }
        };
        Some(format!("{report}\n").into())
    }

    /// Reads and writes a batch. Returns whether there may be more. A problem comes with the number of the
    /// line that it is about.
    async fn batch(&mut self) -> Result<bool, (u64, Problem)> {
        let app = Arc::clone(&self.app);
        let writer = app.gateway.writer().expect("the caller has checked that writing is enabled");
        let (mut drafts, mut numbers, mut bytes) = (Vec::new(), Vec::new(), 0);
        while drafts.len() < MAX_BATCH_EVENTS && bytes < MAX_BATCH_BYTES {
            let line = self.line().await.map_err(|problem| (self.lines + 1, problem))?;
            let Some(line) = line else { break };
            self.lines += 1;
            let bare = line.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&line);
            if bare.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            self.progress = Instant::now();
            let draft = self.read(&line).map_err(|problem| (self.lines, problem))?;
            bytes = draft.weight().saturating_add(bytes);
            drafts.push(draft);
            numbers.push(self.lines);
        }
        if drafts.is_empty() {
            self.written = self.lines;
            return Ok(false);
        }
        let draft_indexes = dedup::by_uid(&mut drafts);
        let draft_indexes = draft_indexes.map_err(|(at, problem)| (numbers[at], problem))?;
        admit(&app, &self.who, &drafts).await.map_err(|problem| (self.written + 1, problem))?;
        let written = accept(&app, &self.who, writer, drafts).await;
        let written = written.map_err(|(at, problem)| {
            let line = at.and_then(|at| draft_indexes.iter().position(|index| *index == at));
            (line.map_or(self.written + 1, |line| numbers[line]), problem)
        })?;
        self.room.keep(self.rest.len());
        self.progress = Instant::now();
        self.last = draft_indexes.last().map(|index| written[*index].id.get());
        self.written = self.lines;
        Ok(true)
    }

    fn read(&self, line: &[u8]) -> Result<Draft, Problem> {
        let text = std::str::from_utf8(line);
        let text = text.map_err(|_| Problem::bad_request("the line is not UTF-8"))?;
        let mut draft = event::parse_one(text, Form::Event, self.app.settings.limits.event)?;
        let key = self.key.as_ref();
        draft.uid = draft.uid.or_else(|| key.map(|key| key.uid(self.lines - 1)));
        authorize::draft(&self.who, &draft).map(|()| draft)
    }

    /// The next line, without its line break. `None`: there are no more.
    async fn line(&mut self) -> Result<Option<Bytes>, Problem> {
        let max_bytes = self.app.settings.limits.event;
        let mut searched = 0;
        loop {
            if let Some(at) = memchr::memchr(b'\n', &self.rest[searched..]) {
                let mut line = self.rest.split_to(searched + at + 1);
                line.truncate(searched + at);
                return Ok(Some(line.freeze()));
            }
            searched = self.rest.len();
            if searched > max_bytes {
                let detail = format!("the event is larger than {max_bytes} bytes (--max-event)");
                return Err(Problem::too_large(detail));
            }
            if self.state == State::Read {
                let line = self.rest.split().freeze();
                return Ok((!line.is_empty()).then_some(line));
            }
            self.receive().await?;
        }
    }

    /// Appends the next part of the body to `rest`.
    async fn receive(&mut self) -> Result<(), Problem> {
        let part = select! {
            part = timeout_at(self.progress + ARRIVAL_DEADLINE, self.body.next()) => part,
            () = &mut self.ended => {
                let holds = self.app.access.holds(&self.who);
                return Err(holds.map_or_else(Problem::denied, |()| ended()));
            }
        };
        match part {
            Ok(Some(Ok(bytes))) => {
                self.room.take(bytes.len()).map_err(no_room)?;
                let before = self.rest.len() / PROGRESS_BYTES;
                self.rest.extend_from_slice(&bytes);
                if self.rest.len() / PROGRESS_BYTES > before {
                    self.progress = Instant::now();
                }
            }
            Ok(Some(Err(_))) => return Err(Problem::bad_request("the body is incomplete")),
            Ok(None) => self.state = State::Read,
            Err(_) => {
                let detail = format!("no event arrived for {} s", ARRIVAL_DEADLINE.as_secs());
                return Err(Problem::too_slow(detail));
            }
        }
        Ok(())
    }
}

/// Waits until the rates of the principal allow these events. An import is slowed down, not refused, unless
/// the credentials become invalid meanwhile.
async fn admit(app: &App, who: &Principal, drafts: &[Draft]) -> Result<(), Problem> {
    let bytes = authorize::rated_bytes(who, drafts);
    while let Err(RetryAfter(wait)) = app.access.append(who, drafts.len(), bytes) {
        sleep(wait).await;
        app.access.holds(who).map_err(Problem::denied)?;
    }
    app.access.holds(who).map_err(Problem::denied)
}

fn ended() -> Problem {
    Problem::unauthorized("the token or key is no longer valid")
}

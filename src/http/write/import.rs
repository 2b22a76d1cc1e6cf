//! Many events, a line each, as long as they come: written in batches, in their order, with a
//! word on the progress now and then.
//!
//! Each batch is written whole or not at all. The answer is lines of JSON: after how many lines
//! all is in the log. It ends with `done`, or with the problem and the line that it is about;
//! everything before that line's batch is written. Lines with a `uid`, and all of a request with an
//! `Idempotency-Key`, can be sent again.

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
    body::{ARRIVING, no_room},
    dedup, event,
    key::Key,
};
use crate::{
    access::{RetryAfter, principal::Principal},
    event::draft::Draft,
    http::{app::App, authorize, error::Problem, write::event::Form},
    write::{BytesPermit, Writer},
};

/// A batch: large enough that the wait for the disk is nothing, small enough that readers do
/// not wait for it.
const MOST_EVENTS: usize = 500;
const MOST_BYTES: usize = 256 << 10;

/// A line that comes slowly goes on, as long as this much of it comes in time.
const PROGRESS_BYTES: usize = 64 << 10;

/// Progress is told no more often, so that it does not fill the way to a client that listens
/// only once it has sent all.
const TELL: Duration = Duration::from_secs(1);

/// The answer to a body of lines.
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
        let told = import.next().await?;
        Some((Ok::<_, Infallible>(Frame::data(told)), import))
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
    /// What has come and was not read as lines yet.
    rest: BytesMut,
    /// Lines that were read.
    lines: u64,
    /// Lines up to which all is written.
    written: u64,
    last: Option<i64>,
    state: State,
    /// When it last said something: a blank line says nothing.
    progress: Instant,
    /// Ends when what its sender has shown counts no more.
    ended: BoxFuture<'static, ()>,
    room: BytesPermit,
}

#[derive(PartialEq, Eq)]
enum State {
    Reading,
    /// The body has ended; there may be lines left in `rest`.
    Read,
    /// The last word was said.
    Over,
}

impl Import {
    /// The next word on the progress.
    async fn next(&mut self) -> Option<Bytes> {
        if self.state == State::Over {
            return None;
        }
        let tell = Instant::now() + TELL;
        let told = loop {
            match self.batch().await {
                Ok(true) if Instant::now() < tell => {}
                Ok(true) => break json!({ "lines": self.written, "id": self.last }),
                Ok(false) => {
                    self.state = State::Over;
                    break json!({ "lines": self.written, "id": self.last, "done": true });
                }
                Err((line, problem)) => {
                    self.state = State::Over;
                    let error = problem.json();
                    break json!({
                        "lines": self.written, "id": self.last, "line": line, "error": error
                    });
                }
            }
        };
        Some(format!("{told}\n").into())
    }

    /// Reads and writes a batch; answers whether there may be more. A problem comes with the
    /// line that it is about.
    async fn batch(&mut self) -> Result<bool, (u64, Problem)> {
        let app = Arc::clone(&self.app);
        let writer = app.gateway.writer().expect("the caller has asked it");
        let (mut drafts, mut numbers, mut bytes) = (Vec::new(), Vec::new(), 0);
        while drafts.len() < MOST_EVENTS && bytes < MOST_BYTES {
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
        let places = dedup::by_uid(&mut drafts);
        let places = places.map_err(|(at, problem)| (numbers[at], problem))?;
        admit(&app, &self.who, &drafts).await.map_err(|problem| (self.written + 1, problem))?;
        let written = accept(&app, &self.who, writer, drafts).await;
        let written = written.map_err(|(at, problem)| {
            let line = at.and_then(|at| places.iter().position(|place| *place == at));
            (line.map_or(self.written + 1, |line| numbers[line]), problem)
        })?;
        self.room.keep(self.rest.len());
        self.progress = Instant::now();
        self.last = places.last().map(|place| written[*place].id.get());
        self.written = self.lines;
        Ok(true)
    }

    fn read(&self, line: &[u8]) -> Result<Draft, Problem> {
        let text = std::str::from_utf8(line);
        let text = text.map_err(|_| Problem::bad_request("the line is not UTF-8"))?;
        let mut draft = event::one(text, Form::Event, self.app.settings.limits.event)?;
        let key = self.key.as_ref();
        draft.uid = draft.uid.or_else(|| key.map(|key| key.uid(self.lines - 1)));
        authorize::one(&self.who, &draft).map(|()| draft)
    }

    /// The next line, without its end; none behind the last.
    async fn line(&mut self) -> Result<Option<Bytes>, Problem> {
        let most = self.app.settings.limits.event;
        let mut searched = 0;
        loop {
            if let Some(at) = memchr::memchr(b'\n', &self.rest[searched..]) {
                let mut line = self.rest.split_to(searched + at + 1);
                line.truncate(searched + at);
                return Ok(Some(line.freeze()));
            }
            searched = self.rest.len();
            if searched > most {
                let detail = format!("the event is larger than {most} bytes (--max-event)");
                return Err(Problem::too_large(detail));
            }
            if self.state == State::Read {
                let line = self.rest.split().freeze();
                return Ok((!line.is_empty()).then_some(line));
            }
            self.more().await?;
        }
    }

    async fn more(&mut self) -> Result<(), Problem> {
        let part = select! {
            part = timeout_at(self.progress + ARRIVING, self.body.next()) => part,
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
            Ok(Some(Err(_))) => return Err(Problem::bad_request("the body broke off")),
            Ok(None) => self.state = State::Read,
            Err(_) => {
                let detail = format!("no event came for {} s", ARRIVING.as_secs());
                return Err(Problem::too_slow(detail));
            }
        }
        Ok(())
    }
}

/// Waits until so many events may be written: who sends without end is slowed, not refused. A
/// proof that has ended meanwhile ends this, too.
async fn admit(app: &App, who: &Principal, drafts: &[Draft]) -> Result<(), Problem> {
    let bytes = authorize::rated_bytes(who, drafts);
    while let Err(RetryAfter(wait)) = app.access.append(who, drafts.len(), bytes) {
        sleep(wait).await;
        app.access.holds(who).map_err(Problem::denied)?;
    }
    app.access.holds(who).map_err(Problem::denied)
}

fn ended() -> Problem {
    Problem::unauthorized("the token or key counts no more")
}

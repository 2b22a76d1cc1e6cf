//! The session of one client's stream. Every stream uses it, whatever the source of its events is.
//!
//! A session sends the client its cursor first, then the events of its source. It sends heartbeats while the
//! source has none, and `$closing` when the gateway shuts down or the client's rights end.

use std::{convert::Infallible, mem, pin::Pin, time::Duration};

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures::{FutureExt, stream};
use http_body_util::StreamBody;
use hyper::body::Frame;
use tokio::{
    select,
    time::{Instant, Sleep, sleep},
};

use super::{app::Settings, encode::Sse, event_stream};
use crate::{
    access::Ending,
    item::{
        output::{Output, Progress, Source},
        signal::Signal,
    },
};

/// The stream of one client.
pub(super) struct Session<S> {
    source: S,
    /// Resolves to a reason when the stream must end. `None`: the source alone ends the stream.
    ending: Option<Ending>,
    heartbeat: Pin<Box<Sleep>>,
    interval: Duration,
    drain: Duration,
    stage: Stage,
    /// The reason for the end has been recorded. Later errors are consequences of it.
    end_noted: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    New,
    Open,
    Closed,
}

/// Clients reconnect one to two times this long after they lost the connection.
const RECONNECT_DELAY: Duration = Duration::from_secs(1);

impl<S: Source> Session<S> {
    /// A session that ends with its source, or when `ending` resolves.
    pub(super) fn new(settings: &Settings, source: S, ending: Option<Ending>) -> Self {
        let (interval, drain) = (settings.heartbeat, settings.drain);
        let heartbeat = Box::pin(sleep(interval));
        Self { source, ending, heartbeat, interval, drain, stage: Stage::New, end_noted: false }
    }

    /// The next bytes for the client. `None`: the session has ended.
    ///
    /// # Cancel safety
    /// Cancel safe: no bytes are lost.
    pub(super) async fn next(&mut self) -> Option<Bytes> {
        loop {
            let mut out = Sse::default();
            match self.stage {
                Stage::New => self.greet(&mut out),
                Stage::Open => self.advance(&mut out).await,
                Stage::Closed => return None,
            }
            // The source may have made progress without an event for this client.
            if let Some(bytes) = out.into_bytes() {
                self.heartbeat.as_mut().reset(Instant::now() + self.interval);
                return Some(bytes);
            }
        }
    }

    /// Waits until the stream must end; [`next`](Self::next) then returns `$closing`. This is for callers
    /// that are blocked in a write to the client.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(super) async fn ended(&mut self) {
        let reason = ended(&mut self.ending).await;
        self.note_end(reason);
        self.ending = Some(Box::pin(std::future::ready(reason)));
    }

    /// Records that the client was disconnected because it stopped reading.
    pub(super) fn stalled(&mut self) {
        self.note_end("stalled");
    }

    fn note_end(&mut self, reason: &'static str) {
        if !mem::replace(&mut self.end_noted, true) {
            self.source.note_end(reason);
        }
    }

    /// Sends the reconnect delay and the cursor at once.
    fn greet(&mut self, out: &mut Sse) {
        self.stage = Stage::Open;
        out.retry(RECONNECT_DELAY, RECONNECT_DELAY);
        if let Some(cursor) = self.source.cursor() {
            return out.signal(Signal::Cursor, Some(&cursor));
        }
        // Without a cursor from the client, the session takes the position at which the source begins.
        match self.source.next(out).now_or_never() {
            Some(Progress::Produced) => {}
            Some(Progress::Ended(reason)) => self.close(reason, out),
            None => out.signal(Signal::Cursor, None),
        }
    }

    async fn advance(&mut self, out: &mut Sse) {
        // The `select!` below polls the source first, so a busy source would hide the end.
        if let Some(reason) = self.ending.as_mut().and_then(FutureExt::now_or_never) {
            return self.close(reason, out);
        }
        let progress = select! {
            biased;
            progress = self.source.next(out) => Some(progress),
            reason = ended(&mut self.ending) => Some(Progress::Ended(reason)),
            () = &mut self.heartbeat => None,
        };
        // Poll the source again before a heartbeat, so that the cursor of a quiet client follows the log.
        let progress = progress.or_else(|| self.source.next(out).now_or_never());
        match progress {
            Some(Progress::Produced) => {}
            Some(Progress::Ended(reason)) => self.close(reason, out),
            None => out.signal(Signal::Cursor, self.source.cursor().as_ref()),
        }
    }

    /// Sends `$closing`. The reconnects of clients are spread over the time in which this gateway drains.
    fn close(&mut self, reason: &'static str, out: &mut Sse) {
        self.stage = Stage::Closed;
        self.note_end(reason);
        out.retry(Duration::ZERO, self.drain);
        out.signal(Signal::Closing { reason }, self.source.cursor().as_ref());
    }
}

async fn ended(ending: &mut Option<Ending>) -> &'static str {
    match ending {
        Some(ending) => ending.await,
        None => std::future::pending().await,
    }
}

/// The session as a response that hyper sends.
pub(super) fn streamed<S: Source + 'static>(session: Session<S>) -> Response {
    let frames = stream::unfold(session, async |mut session| {
        let bytes = session.next().await?;
        Some((Ok::<_, Infallible>(Frame::data(bytes)), session))
    });
    (event_stream::headers(), Body::new(StreamBody::new(frames))).into_response()
}

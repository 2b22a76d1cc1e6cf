//! One client's stream, from the greeting to the good-bye: the only one that there is, whatever the events
//! come from.
//!
//! It greets the client with its cursor, hands over what its source has, says that it lives while the
//! source is quiet, and says good-bye when the gateway closes or the client's rights end.

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

/// See the module.
pub(super) struct Session<S> {
    source: S,
    /// Answers why, when the stream is to end before its time.
    ending: Option<Ending>,
    heartbeat: Pin<Box<Sleep>>,
    interval: Duration,
    drain: Duration,
    stage: Stage,
    /// The reason why it ends was noted: what goes wrong behind that is no other one.
    noted: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    New,
    Open,
    Over,
}

/// Clients that lose the connection come back after this, and up to as much later again.
const RETRY: Duration = Duration::from_secs(1);

impl<S: Source> Session<S> {
    /// A session that ends when `ending` does.
    pub(super) fn new(settings: &Settings, source: S, ending: Option<Ending>) -> Self {
        let (interval, drain) = (settings.heartbeat, settings.drain);
        let heartbeat = Box::pin(sleep(interval));
        Self { source, ending, heartbeat, interval, drain, stage: Stage::New, noted: false }
    }

    /// The next bytes for the client; none after the last.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(super) async fn next(&mut self) -> Option<Bytes> {
        loop {
            let mut out = Sse::default();
            match self.stage {
                Stage::New => self.greet(&mut out),
                Stage::Open => self.go_on(&mut out).await,
                Stage::Over => return None,
            }
            // A page can turn out to be empty: that is no end.
            if let Some(bytes) = out.into_bytes() {
                self.heartbeat.as_mut().reset(Instant::now() + self.interval);
                return Some(bytes);
            }
        }
    }

    /// Waits until the stream is to end before its time; [`next`](Self::next) says good-bye then. For
    /// those who are busy with a client that does not take what it is sent.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(super) async fn ended(&mut self) {
        let reason = ended(&mut self.ending).await;
        self.note_end(reason);
        self.ending = Some(Box::pin(std::future::ready(reason)));
    }

    /// Notes that the client was cut off, for it took nothing.
    pub(super) fn stalled(&mut self) {
        self.note_end("stalled");
    }

    fn note_end(&mut self, reason: &'static str) {
        if !mem::replace(&mut self.noted, true) {
            self.source.note_end(reason);
        }
    }

    /// The client hears at once when to come back after a loss, and where it is.
    fn greet(&mut self, out: &mut Sse) {
        self.stage = Stage::Open;
        out.retry(RETRY, RETRY);
        if let Some(cursor) = self.source.cursor() {
            return out.signal(Signal::Cursor, Some(&cursor));
        }
        // Without a cursor of its own, it is where the source begins.
        match self.source.next(out).now_or_never() {
            Some(Progress::Produced) => {}
            Some(Progress::Ended(reason)) => self.close(reason, out),
            None => out.signal(Signal::Cursor, None),
        }
    }

    async fn go_on(&mut self, out: &mut Sse) {
        // A stream that always has something to say never waits.
        if let Some(reason) = self.ending.as_mut().and_then(FutureExt::now_or_never) {
            return self.close(reason, out);
        }
        let progress = select! {
            biased;
            progress = self.source.next(out) => Some(progress),
            reason = ended(&mut self.ending) => Some(Progress::Ended(reason)),
            () = &mut self.heartbeat => None,
        };
        // The source looks once more before a heartbeat: the cursor of a quiet client follows the log.
        let progress = progress.or_else(|| self.source.next(out).now_or_never());
        match progress {
            Some(Progress::Produced) => {}
            Some(Progress::Ended(reason)) => self.close(reason, out),
            None => out.signal(Signal::Cursor, self.source.cursor().as_ref()),
        }
    }

    /// Says good-bye. Clients come back spread over the time in which this gateway drains.
    fn close(&mut self, reason: &'static str, out: &mut Sse) {
        self.stage = Stage::Over;
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

/// The session as an answer that nothing on the way may buffer.
pub(super) fn streamed<S: Source + 'static>(session: Session<S>) -> Response {
    let frames = stream::unfold(session, async |mut session| {
        let bytes = session.next().await?;
        Some((Ok::<_, Infallible>(Frame::data(bytes)), session))
    });
    (event_stream::headers(), Body::new(StreamBody::new(frames))).into_response()
}

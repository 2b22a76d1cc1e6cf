//! Whole events as an event stream: `GET /all`, and a stream that is followed.

use std::{convert::Infallible, pin::Pin, sync::Arc, time::Duration};

use axum::{
    body::Body,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use bytes::{Bytes, BytesMut};
use futures::{FutureExt, future::BoxFuture, stream};
use http_body_util::StreamBody;
use hyper::body::Frame;
use tokio::{
    select,
    time::{Instant, Sleep, sleep},
};

use super::whole::Whole;
use crate::{
    cursor::Cursor,
    event::EventId,
    gateway::{
        Gateway, frame,
        hub::Seat,
        signal::{GapReason, Signal, put_retry},
        strict::{Piece, Strict},
        versions::{Step, Versions},
    },
    order::Position,
    postgres::history::WholeEvent,
};

/// Where whole events come from.
pub(super) enum Source {
    /// The whole log; the `id:` is the event's.
    All(Box<Strict>),
    /// One stream; the `id:` is the version.
    Stream(Box<Versions>),
}

/// What a source has to say.
enum Said {
    Events(Vec<WholeEvent>),
    Signal(Signal),
}

impl Source {
    async fn next(&mut self) -> Option<Said> {
        let gap = |from, to, reason| Said::Signal(Signal::Gap { from, to, reason });
        let (id, caught_up) = (EventId::new, Said::Signal(Signal::CaughtUp));
        Some(match self {
            Self::All(strict) => match strict.next().await? {
                Piece::Events { events, .. } => Said::Events(events),
                Piece::Gap { from, to, reason } => gap(from, to, reason),
                Piece::CaughtUp => caught_up,
            },
            Self::Stream(versions) => match versions.next().await? {
                Step::Events(events) => Said::Events(events),
                Step::Missing(from, to) => gap(id(from), id(to), GapReason::Pruned),
                Step::Reset(from, to) => gap(id(from), id(to), GapReason::Reset),
                Step::CaughtUp => caught_up,
            },
        })
    }

    /// How far it has got.
    fn after(&self) -> EventId {
        match self {
            Self::All(strict) => strict.after(),
            Self::Stream(versions) => EventId::new(versions.after()),
        }
    }

    /// What an event's `id:` says.
    fn place(&self, event: &WholeEvent) -> EventId {
        match self {
            Self::All(_) => event.id,
            Self::Stream(_) => EventId::new(event.version.unwrap_or_default()),
        }
    }
}

/// The source as an answer that nothing on the way may buffer.
pub(super) fn streamed(gateway: &Arc<Gateway>, source: Source) -> Response {
    let feed = Feed {
        gateway: Arc::clone(gateway),
        _seat: gateway.occupy(),
        after: source.after(),
        heartbeat: Box::pin(sleep(gateway.heartbeat())),
        said: Some(said(source)),
        greeted: false,
    };
    let frames = stream::unfold(feed, async |mut feed| {
        let bytes = feed.next().await?;
        Some((Ok::<_, Infallible>(Frame::data(bytes)), feed))
    });
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform")),
        (header::HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    (headers, Body::new(StreamBody::new(frames))).into_response()
}

struct Feed {
    gateway: Arc<Gateway>,
    _seat: Seat,
    after: EventId,
    heartbeat: Pin<Box<Sleep>>,
    /// The source, at work; none when it has ended.
    said: Option<BoxFuture<'static, (Source, Option<Said>)>>,
    greeted: bool,
}

/// Clients that lose the connection come back after this, and up to as much later again.
const RETRY: Duration = Duration::from_secs(1);

fn said(mut source: Source) -> BoxFuture<'static, (Source, Option<Said>)> {
    async move {
        let said = source.next().await;
        (source, said)
    }
    .boxed()
}

impl Feed {
    async fn next(&mut self) -> Option<Bytes> {
        let bytes = if std::mem::replace(&mut self.greeted, true) {
            self.wait().await?
        } else {
            let mut out = String::new();
            put_retry(&mut out, RETRY, RETRY);
            Signal::Heartbeat.put(&mut out, Some(&cursor(self.after)));
            out.into()
        };
        self.heartbeat.as_mut().reset(Instant::now() + self.gateway.heartbeat());
        Some(bytes)
    }

    async fn wait(&mut self) -> Option<Bytes> {
        let said = self.said.as_mut()?;
        let heard = select! {
            heard = said => heard,
            () = &mut self.heartbeat => return Some(self.text(Signal::Heartbeat)),
        };
        let (source, what) = heard;
        self.said = None;
        let Some(what) = what else { return Some(self.closing()) };
        self.after = source.after();
        let bytes = match what {
            Said::Events(events) => frames(&source, &events),
            Said::Signal(signal) => self.text(signal),
        };
        self.said = Some(self::said(source));
        Some(bytes)
    }

    fn text(&self, signal: Signal) -> Bytes {
        let mut out = String::new();
        signal.put(&mut out, Some(&cursor(self.after)));
        out.into()
    }

    /// Clients come back spread over the time in which this gateway drains.
    fn closing(&self) -> Bytes {
        let mut out = String::new();
        put_retry(&mut out, Duration::ZERO, self.gateway.drain());
        Signal::Closing { reason: "shutdown" }.put(&mut out, Some(&cursor(self.after)));
        out.into()
    }
}

fn frames(source: &Source, events: &[WholeEvent]) -> Bytes {
    let mut out = BytesMut::new();
    for event in events {
        let data = serde_json::to_vec(&Whole::from(event)).unwrap_or_default();
        let place = source.place(event);
        frame::put(&mut out, place, &cursor(place), &event.kind, &data);
    }
    out.freeze()
}

fn cursor(after: EventId) -> Cursor {
    Cursor::now(&Position { head: after, ..Position::default() })
}

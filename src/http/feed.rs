//! Full events as a source for a session: of `GET /all`, and of one stream that is followed.

use futures::{FutureExt, future::BoxFuture};

use super::event_json::EventJson;
use crate::{
    cursor::Cursor,
    event::EventId,
    item::{
        output::{Output, Progress, Source},
        signal::{GapReason, Signal},
    },
    live::hub::Registration,
    read::{
        strict::{Strict, StrictItem},
        versions::{StreamItem, Versions},
    },
    store::history::StoredEvent,
};

/// The log that a feed reads.
pub(super) enum Log {
    /// The whole log. The `id:` of a frame is the id of the event.
    All(Box<Strict>),
    /// One stream. The `id:` of a frame is the version of the event.
    Stream(Box<Versions>),
}

/// The result of one read.
enum Read {
    Events(Vec<StoredEvent>),
    Signal(Signal),
}

impl Log {
    async fn next(&mut self) -> Option<Read> {
        let gap = |from, to, reason| Read::Signal(Signal::Gap { from, to, reason });
        let (id, caught_up) = (EventId::new, Read::Signal(Signal::CaughtUp));
        Some(match self {
            Self::All(strict) => match strict.next().await? {
                StrictItem::Events { events, .. } => Read::Events(events),
                StrictItem::Gap { from, to, reason } => gap(from, to, reason),
                StrictItem::CaughtUp => caught_up,
            },
            Self::Stream(versions) => match versions.next().await? {
                StreamItem::Events(events) => Read::Events(events),
                StreamItem::Missing(from, to) => gap(id(from), id(to), GapReason::Pruned),
                StreamItem::Reset(from, to) => gap(id(from), id(to), GapReason::Reset),
                StreamItem::CaughtUp => caught_up,
            },
        })
    }

    /// The position of the reader. `None`: it is not known yet.
    fn cursor(&self) -> Option<Cursor> {
        match self {
            Self::All(strict) => strict.owed(),
            Self::Stream(versions) => Some(Cursor::behind(EventId::new(versions.after()))),
        }
    }

    /// The `id:` of the event's frame.
    fn frame_id(&self, event: &StoredEvent) -> EventId {
        match self {
            Self::All(_) => event.id,
            Self::Stream(_) => EventId::new(event.version.unwrap_or_default()),
        }
    }

    /// The cursor of a client that has got the event with this frame id.
    fn cursor_at(&self, id: EventId) -> Cursor {
        match self {
            Self::All(strict) => strict.cursor_at(id),
            Self::Stream(_) => Cursor::behind(id),
        }
    }

    fn put(&self, events: &[StoredEvent], out: &mut impl Output) {
        for event in events {
            let data = serde_json::to_vec(&EventJson::from(event)).unwrap_or_default();
            let id = self.frame_id(event);
            out.event(id, &self.cursor_at(id), &event.kind, &data);
        }
    }
}

/// A source of full events.
pub(super) struct Feed {
    /// Counts the feed among the open streams until it is dropped.
    _registration: Registration,
    cursor: Option<Cursor>,
    /// The read in progress, kept between two calls of `next`, so that cancelling a call loses no events.
    reading: Option<BoxFuture<'static, (Log, Option<Read>)>>,
}

impl Feed {
    pub(super) fn new(registration: Registration, log: Log) -> Self {
        Self { _registration: registration, cursor: log.cursor(), reading: Some(read(log)) }
    }
}

fn read(mut log: Log) -> BoxFuture<'static, (Log, Option<Read>)> {
    async move {
        let read = log.next().await;
        (log, read)
    }
    .boxed()
}

impl Source for Feed {
    async fn next(&mut self, out: &mut impl Output) -> Progress {
        let Some(reading) = &mut self.reading else { return Progress::Ended("shutdown") };
        let (log, what) = reading.await;
        self.reading = None;
        let Some(what) = what else { return Progress::Ended("shutdown") };
        if self.cursor.is_none() {
            // Every stream begins with a heartbeat. It carries the cursor only if no events follow:
            // otherwise the client would appear to have received them.
            let here = matches!(what, Read::Signal(Signal::CaughtUp));
            let here = log.cursor().filter(|_| here);
            out.signal(Signal::Cursor, here.as_ref());
        }
        self.cursor = log.cursor();
        match what {
            Read::Events(events) => log.put(&events, out),
            Read::Signal(signal) => out.signal(signal, self.cursor.as_ref()),
        }
        self.reading = Some(read(log));
        Progress::Produced
    }

    fn cursor(&self) -> Option<Cursor> {
        self.cursor.clone()
    }

    fn note_end(&mut self, _reason: &'static str) {}
}

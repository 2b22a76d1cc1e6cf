//! Full events as a source of a stream: `GET /all`, and a stream that is followed.

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

/// Where whole events come from.
pub(super) enum Log {
    /// The whole log; the `id:` is the event's.
    All(Box<Strict>),
    /// One stream; the `id:` is the version.
    Stream(Box<Versions>),
}

/// What was read.
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

    /// How far it has got, where that is known.
    fn cursor(&self) -> Option<Cursor> {
        match self {
            Self::All(strict) => strict.owed(),
            Self::Stream(versions) => Some(Cursor::behind(EventId::new(versions.after()))),
        }
    }

    /// What an event's `id:` says.
    fn place(&self, event: &StoredEvent) -> EventId {
        match self {
            Self::All(_) => event.id,
            Self::Stream(_) => EventId::new(event.version.unwrap_or_default()),
        }
    }

    fn put(&self, events: &[StoredEvent], out: &mut impl Output) {
        for event in events {
            let data = serde_json::to_vec(&EventJson::from(event)).unwrap_or_default();
            let place = self.place(event);
            out.event(place, &Cursor::behind(place), &event.kind, &data);
        }
    }
}

/// See the module.
pub(super) struct Feed {
    /// It is counted among the streams for as long as this lives.
    _registration: Registration,
    cursor: Option<Cursor>,
    /// The log, being read. It is not given up between two calls: what it had read would be lost.
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
            // A greeting like that of all other streams. Behind it may be events that the client must
            // not seem to have.
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

//! Batches for the aggregator: read and encoded ahead, while the last one is being posted.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use tokio::{sync::mpsc, task::JoinHandle};
use tracing::warn;

use super::{fields::Fields, sink::Form};
use crate::{
    event::EventId,
    item::signal::GapReason,
    read::{
        Read,
        strict::{Strict, StrictItem},
    },
    store::{history::WholeEvent, pumps::Checkpoint},
};

/// Which events are wanted: those that match in every respect in which something is named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Of these types.
    pub types: Vec<String>,
    /// For these consumers.
    pub subscribers: Vec<String>,
    /// Of streams whose names begin so.
    pub streams: Vec<String>,
}

impl Filter {
    fn admits(&self, event: &WholeEvent) -> bool {
        let one_of = |named: &[String], value: Option<&str>| {
            named.is_empty() || value.is_some_and(|value| named.iter().any(|name| name == value))
        };
        let begins = |stream: &String| self.streams.iter().any(|it| stream.starts_with(it));
        one_of(&self.types, Some(&event.kind))
            && one_of(&self.subscribers, event.subscriber.as_deref())
            && (self.streams.is_empty() || event.stream.as_ref().is_some_and(begins))
    }
}

/// Why reading has ended.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub enum ReadError {
    /// It is another log, or an older one.
    #[error(
        "the log ends at {end}, and the aggregator has been fed up to {position}: it was \
         truncated, or restored from a backup. Empty the aggregator, so that it is \
         bootstrapped anew, or restore the log"
    )]
    WentBack {
        /// Its last id.
        end: EventId,
        /// Where the aggregator is.
        position: EventId,
    },
    /// The program is about to leave.
    #[error("nothing is read any more")]
    Ended,
}

/// How large a batch gets. One event alone may be larger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchSize {
    /// Events.
    pub events: usize,
    /// Bytes of JSON.
    pub bytes: usize,
}

/// What is read and how it is passed on.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Which events.
    pub filter: Filter,
    /// With which fields.
    pub fields: Fields,
    /// How many at once.
    pub size: BatchSize,
}

/// Batches that are ready before they are needed, beside the one at hand.
const AHEAD: usize = 2;

/// Events in id order as a JSON array, and how far they reach in the log.
#[derive(Debug, Default)]
struct Batch {
    body: Bytes,
    events: Vec<Entry>,
    upto: EventId,
    idle: bool,
}

/// Where one event stands in the body.
#[derive(Clone, Debug)]
struct Entry {
    id: EventId,
    place: Range<usize>,
}

/// Some of a batch, to be posted.
#[derive(Clone, Debug)]
pub struct Portion {
    /// The first event.
    pub first: EventId,
    /// The last event.
    pub last: EventId,
    /// How many.
    pub count: usize,
    /// One event's object, and not an array.
    pub alone: bool,
    /// The JSON.
    pub body: Bytes,
}

impl Portion {
    /// One event's object, or an array.
    #[must_use]
    pub fn form(&self) -> Form {
        if self.alone { Form::Event } else { Form::Batch }
    }

    /// What the request is known by, also when it comes again.
    #[must_use]
    pub fn id(&self) -> String {
        if self.alone { self.first.to_string() } else { format!("{}-{}", self.first, self.last) }
    }
}

/// Batches behind an id, in strict order, each given until it is confirmed.
#[derive(Debug)]
pub struct Feed {
    batches: mpsc::Receiver<Result<Batch, ReadError>>,
    reading: JoinHandle<()>,
    batch: Batch,
    next: usize,
    position: EventId,
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

impl Feed {
    /// Begins to read behind this checkpoint.
    #[must_use]
    pub fn open(read: &Arc<Read>, shape: Shape, checkpoint: &Checkpoint) -> Self {
        let (ready, batches) = mpsc::channel(AHEAD);
        let position = checkpoint.position.unwrap_or_default();
        let mut log = read.strict_owed(checkpoint.cursor()).resumed_at(position);
        let reading = tokio::spawn(async move {
            if let Err(error) = read_batches(&mut log, shape, &ready).await {
                let _ = ready.send(Err(error)).await;
            }
        });
        Self { batches, reading, batch: Batch::default(), next: 0, position }
    }

    /// Waits until there is something to do: events, or a new position, or the end of what is
    /// there. May be abandoned at any time.
    pub async fn ready(&mut self) -> Result<(), ReadError> {
        if self.next == self.batch.events.len() {
            self.batch = self.batches.recv().await.unwrap_or(Err(ReadError::Ended))?;
            self.next = 0;
        }
        Ok(())
    }

    /// All that was given up to here is confirmed.
    #[must_use]
    pub fn position(&self) -> EventId {
        self.position
    }

    /// There is nothing more to be had just now.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.batch.idle && self.next == self.batch.events.len()
    }

    /// So many events can be had without waiting.
    #[must_use]
    pub fn at_hand(&self) -> usize {
        self.batch.events.len() - self.next
    }

    /// The next events as an array, at most so many.
    #[must_use]
    pub fn array(&self, most: usize) -> Option<Portion> {
        let all = &self.batch.events;
        let end = all.len().min(self.next.saturating_add(most));
        let (first, last) = (all.get(self.next)?, all[..end].last()?);
        let body = if end - self.next == all.len() {
            self.batch.body.clone()
        } else {
            let inner = &self.batch.body[first.place.start..last.place.end];
            [b"[", inner, b"]"].concat().into()
        };
        Some(Portion { first: first.id, last: last.id, count: end - self.next, alone: false, body })
    }

    /// The next event alone.
    #[must_use]
    pub fn single(&self) -> Option<Portion> {
        let entry = self.batch.events.get(self.next)?;
        let body = self.batch.body.slice(entry.place.clone());
        Some(Portion { first: entry.id, last: entry.id, count: 1, alone: true, body })
    }

    /// Goes on behind so many events.
    pub fn confirm(&mut self, count: usize) {
        self.next = (self.next + count).min(self.batch.events.len());
        self.position = match self.next.checked_sub(1).map(|last| self.batch.events[last].id) {
            _ if self.next == self.batch.events.len() => self.position.max(self.batch.upto),
            Some(last) => last,
            None => self.position,
        };
    }

    /// Goes on behind this id, if that is among what is at hand.
    pub fn seek(&mut self, position: EventId) -> bool {
        if position == self.position {
            return true;
        }
        let at_hand = position > self.position && position <= self.batch.upto;
        if at_hand {
            let known = self.batch.events[self.next..].iter();
            self.confirm(known.take_while(|entry| entry.id <= position).count());
            self.position = self.position.max(position);
        }
        at_hand
    }
}

async fn read_batches(
    log: &mut Strict,
    shape: Shape,
    ready: &mpsc::Sender<Result<Batch, ReadError>>,
) -> Result<(), ReadError> {
    let mut builder = Builder::new(shape);
    loop {
        while let Some(item) = log.available().await {
            pass(item, &mut builder, ready).await?;
        }
        builder.upto = log.after();
        give(ready, builder.take(true)).await?;
        let item = log.next().await.ok_or(ReadError::Ended)?;
        pass(item, &mut builder, ready).await?;
    }
}

/// Passes on what is wanted of an item of the log, in batches that are full; and where nothing
/// is wanted, how far that goes.
async fn pass(
    item: StrictItem,
    builder: &mut Builder,
    ready: &mpsc::Sender<Result<Batch, ReadError>>,
) -> Result<(), ReadError> {
    let (events, upto) = match item {
        StrictItem::Events { events, upto } => (events, upto),
        StrictItem::CaughtUp => return Ok(()),
        StrictItem::Gap { from, to, reason: GapReason::Reset } => {
            return Err(ReadError::WentBack { end: to, position: from });
        }
        StrictItem::Gap { from, to, reason: GapReason::Pruned } => {
            warn!(%from, %to, "events were pruned that an aggregator does not have");
            return Ok(());
        }
    };
    for event in events {
        if let Some(full) = builder.add(&event) {
            give(ready, full).await?;
        }
    }
    builder.upto = upto;
    if builder.events.is_empty() {
        give(ready, builder.take(false)).await?;
    }
    Ok(())
}

async fn give(
    ready: &mpsc::Sender<Result<Batch, ReadError>>,
    batch: Batch,
) -> Result<(), ReadError> {
    ready.send(Ok(batch)).await.map_err(|_| ReadError::Ended)
}

struct Builder {
    shape: Shape,
    body: Vec<u8>,
    events: Vec<Entry>,
    upto: EventId,
}

impl Builder {
    fn new(shape: Shape) -> Self {
        Self { shape, body: Vec::new(), events: Vec::new(), upto: EventId::ZERO }
    }

    /// Adds an event, if it is wanted; gives the batch that was full before it.
    fn add(&mut self, event: &WholeEvent) -> Option<Batch> {
        if !self.shape.filter.admits(event) {
            return None;
        }
        let begin = self.body.len();
        self.body.push(if self.events.is_empty() { b'[' } else { b',' });
        self.shape.fields.put(&mut self.body, event);
        let BatchSize { events, bytes } = self.shape.size;
        let full = self.events.len() >= events || self.body.len() >= bytes;
        let before = (full && !self.events.is_empty()).then(|| {
            let mut own = Vec::with_capacity(self.body.capacity().min(bytes.saturating_add(1024)));
            own.push(b'[');
            own.extend_from_slice(&self.body[begin + 1..]);
            self.body.truncate(begin);
            let batch = self.take(false);
            self.body = own;
            batch
        });
        let begin = if before.is_some() { 0 } else { begin };
        let place = begin + 1..self.body.len();
        self.events.push(Entry { id: event.id, place });
        self.upto = event.id;
        before
    }

    /// What there is, as a batch.
    fn take(&mut self, idle: bool) -> Batch {
        let mut body = std::mem::take(&mut self.body);
        if body.is_empty() {
            body.push(b'[');
        }
        body.push(b']');
        let events = std::mem::take(&mut self.events);
        Batch { body: body.into(), events, upto: self.upto, idle }
    }
}

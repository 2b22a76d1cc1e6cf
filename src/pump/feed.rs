//! Batches of events for an aggregator. They are read and encoded ahead, while the previous one is posted.

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
    store::{history::StoredEvent, pumps::Checkpoint},
};

/// Selects events. An event must match each list that is not empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Accepted types.
    pub types: Vec<String>,
    /// Accepted consumers.
    pub subscribers: Vec<String>,
    /// Accepted prefixes of stream names.
    pub streams: Vec<String>,
}

impl Filter {
    fn admits(&self, event: &StoredEvent) -> bool {
        let one_of = |named: &[String], value: Option<&str>| {
            named.is_empty() || value.is_some_and(|value| named.iter().any(|name| name == value))
        };
        let begins = |stream: &String| self.streams.iter().any(|it| stream.starts_with(it));
        one_of(&self.types, Some(&event.kind))
            && one_of(&self.subscribers, event.subscriber.as_deref())
            && (self.streams.is_empty() || event.stream.as_ref().is_some_and(begins))
    }
}

/// Why reading the log has ended.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub enum ReadError {
    /// The log is another one, or an older state of it.
    #[error(
        "the log ends at {end}, and the aggregator has been fed up to {position}: it was \
         truncated, or restored from a backup. Empty the aggregator, so that it is \
         bootstrapped again, or restore the log"
    )]
    WentBack {
        /// The last id of the log.
        end: EventId,
        /// The position of the aggregator.
        position: EventId,
    },
    /// The program is shutting down.
    #[error("the log is no longer read")]
    Ended,
}

/// The size of a batch at which it is complete. A single event may be larger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchSize {
    /// The number of events.
    pub events: usize,
    /// The length of the JSON in bytes.
    pub bytes: usize,
}

/// Which events are delivered, and in which form.
#[derive(Clone, Debug)]
pub struct EventFormat {
    /// Selects the events.
    pub filter: Filter,
    /// The fields of their JSON.
    pub fields: Fields,
    /// The size of batches.
    pub size: BatchSize,
}

/// The number of batches that are read ahead, in addition to the current one.
const PREFETCH_BATCHES: usize = 2;

/// Events in id order, as a JSON array.
#[derive(Debug, Default)]
struct Batch {
    body: Bytes,
    events: Vec<Entry>,
    /// All events up to this id have been read; those that are not in here did not match the filter.
    upto: EventId,
    /// Whether the end of the log was reached.
    idle: bool,
}

/// The place of one event in the body.
#[derive(Clone, Debug)]
struct Entry {
    id: EventId,
    place: Range<usize>,
}

/// A part of a batch that is posted in one request.
#[derive(Clone, Debug)]
pub struct Portion {
    /// The id of the first event.
    pub first: EventId,
    /// The id of the last event.
    pub last: EventId,
    /// The number of events.
    pub count: usize,
    /// Whether the body is the object of one event rather than an array.
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

    /// The id of the request. It is the same when the request is repeated.
    #[must_use]
    pub fn id(&self) -> String {
        if self.alone { self.first.to_string() } else { format!("{}-{}", self.first, self.last) }
    }
}

/// The events after a position, in strict order. Events are returned until they are confirmed.
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
    /// Starts to read after a checkpoint.
    #[must_use]
    pub fn open(read: &Arc<Read>, format: EventFormat, checkpoint: &Checkpoint) -> Self {
        let (ready, batches) = mpsc::channel(PREFETCH_BATCHES);
        let position = checkpoint.position.unwrap_or_default();
        let mut log = read.strict_owed(checkpoint.cursor()).resumed_at(position);
        let reading = tokio::spawn(async move {
            if let Err(error) = read_batches(&mut log, format, &ready).await {
                let _ = ready.send(Err(error)).await;
            }
        });
        Self { batches, reading, batch: Batch::default(), next: 0, position }
    }

    /// Waits for events, for a new position, or for the end of the log.
    ///
    /// # Cancel safety
    /// Dropping the future loses no events.
    pub async fn ready(&mut self) -> Result<(), ReadError> {
        if self.next == self.batch.events.len() {
            self.batch = self.batches.recv().await.unwrap_or(Err(ReadError::Ended))?;
            self.next = 0;
        }
        Ok(())
    }

    /// All events up to this position are confirmed, or did not match the filter.
    #[must_use]
    pub fn position(&self) -> EventId {
        self.position
    }

    /// Whether the end of the log has been reached and everything is confirmed.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.batch.idle && self.next == self.batch.events.len()
    }

    /// The number of events that can be posted without waiting.
    #[must_use]
    pub fn available(&self) -> usize {
        self.batch.events.len() - self.next
    }

    /// The next events as an array, at most `max_events`.
    #[must_use]
    pub fn array(&self, max_events: usize) -> Option<Portion> {
        let all = &self.batch.events;
        let end = all.len().min(self.next.saturating_add(max_events));
        let (first, last) = (all.get(self.next)?, all[..end].last()?);
        let body = if end - self.next == all.len() {
            self.batch.body.clone()
        } else {
            let inner = &self.batch.body[first.place.start..last.place.end];
            [b"[", inner, b"]"].concat().into()
        };
        Some(Portion { first: first.id, last: last.id, count: end - self.next, alone: false, body })
    }

    /// The next event as an object.
    #[must_use]
    pub fn single(&self) -> Option<Portion> {
        let entry = self.batch.events.get(self.next)?;
        let body = self.batch.body.slice(entry.place.clone());
        Some(Portion { first: entry.id, last: entry.id, count: 1, alone: true, body })
    }

    /// Marks the next `count` events as confirmed.
    pub fn confirm(&mut self, count: usize) {
        self.next = (self.next + count).min(self.batch.events.len());
        self.position = match self.next.checked_sub(1).map(|last| self.batch.events[last].id) {
            _ if self.next == self.batch.events.len() => self.position.max(self.batch.upto),
            Some(last) => last,
            None => self.position,
        };
    }

    /// Moves to a later position if it lies in the current batch. Returns `false` if it does not.
    pub fn seek(&mut self, position: EventId) -> bool {
        if position == self.position {
            return true;
        }
        let is_in_batch = position > self.position && position <= self.batch.upto;
        if is_in_batch {
            let known = self.batch.events[self.next..].iter();
            self.confirm(known.take_while(|entry| entry.id <= position).count());
            self.position = self.position.max(position);
        }
        is_in_batch
    }
}

async fn read_batches(
    log: &mut Strict,
    format: EventFormat,
    ready: &mpsc::Sender<Result<Batch, ReadError>>,
) -> Result<(), ReadError> {
    let mut builder = Builder::new(format);
    loop {
        while let Some(item) = log.available().await {
            forward(item, &mut builder, ready).await?;
        }
        builder.upto = log.after();
        send(ready, builder.take(true)).await?;
        let item = log.next().await.ok_or(ReadError::Ended)?;
        forward(item, &mut builder, ready).await?;
    }
}

/// Adds the matching events of a item of the log to batches, and sends full ones. If no event
/// matches, it sends an empty batch, which moves the position.
async fn forward(
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
            warn!(%from, %to, "events were pruned before an aggregator got them");
            return Ok(());
        }
    };
    for event in events {
        if let Some(full) = builder.add(&event) {
            send(ready, full).await?;
        }
    }
    builder.upto = upto;
    if builder.events.is_empty() {
        send(ready, builder.take(false)).await?;
    }
    Ok(())
}

async fn send(
    ready: &mpsc::Sender<Result<Batch, ReadError>>,
    batch: Batch,
) -> Result<(), ReadError> {
    ready.send(Ok(batch)).await.map_err(|_| ReadError::Ended)
}

struct Builder {
    format: EventFormat,
    body: Vec<u8>,
    events: Vec<Entry>,
    upto: EventId,
}

impl Builder {
    fn new(format: EventFormat) -> Self {
        Self { format, body: Vec::new(), events: Vec::new(), upto: EventId::ZERO }
    }

    /// Adds an event if it matches the filter. Returns the batch that was full before the event.
    fn add(&mut self, event: &StoredEvent) -> Option<Batch> {
        if !self.format.filter.admits(event) {
            return None;
        }
        let begin = self.body.len();
        self.body.push(if self.events.is_empty() { b'[' } else { b',' });
        self.format.fields.put(&mut self.body, event);
        let BatchSize { events, bytes } = self.format.size;
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

    /// The events so far, as a batch.
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

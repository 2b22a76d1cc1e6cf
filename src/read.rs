//! Reads the table for everything but subscriptions: the whole log in [strict order](strict),
//! [one stream](versions), single events, and events with their [amendments applied](amended).
//!
//! Nothing here reads beyond the [`horizon`], up to which the log is settled.

pub mod amended;
pub mod horizon;
pub(crate) mod page;
pub mod streams;
pub mod strict;
pub mod versions;
pub mod waiter;

use std::{iter, sync::Arc, time::Instant};

use self::{
    amended::{Correction, Patcher},
    horizon::Horizons,
    streams::Streams,
    strict::Strict,
    versions::Versions,
};
use crate::{
    cursor::Cursor,
    event::{EventId, name::StreamName},
    store::history::{History, HistoryError, StoredEvent},
};

/// The engine that reads the table.
#[derive(Debug)]
pub struct Read {
    history: Arc<History>,
    horizons: Arc<Horizons>,
    streams: Arc<Streams>,
    patcher: Arc<Patcher>,
}

impl Read {
    /// An engine that reads on the connections of `history`.
    #[must_use]
    pub fn new(history: Arc<History>) -> Self {
        let (horizons, streams) = (Arc::default(), Arc::default());
        Self { history, horizons, streams, patcher: Arc::new(Patcher::new()) }
    }

    /// Shows readers how far the log is settled.
    #[must_use]
    pub fn horizons(&self) -> &Arc<Horizons> {
        &self.horizons
    }

    /// Notifies the readers of streams.
    #[must_use]
    pub fn streams(&self) -> &Arc<Streams> {
        &self.streams
    }

    /// Applies amendments.
    #[must_use]
    pub fn patcher(&self) -> &Arc<Patcher> {
        &self.patcher
    }

    /// The queries on the table.
    #[must_use]
    pub fn history(&self) -> &Arc<History> {
        &self.history
    }

    /// The queries on the table, in the name of this caller. Callers take turns.
    #[must_use]
    pub fn history_for(&self, caller: &Arc<str>) -> History {
        self.history.of(caller)
    }

    /// Reads the whole log in strict order, after the id `after`: see [`strict`].
    #[must_use]
    pub fn strict(&self, after: EventId) -> Strict {
        self.strict_owed(Cursor::behind(after))
    }

    /// Like [`strict`](Self::strict), but reads the events that this cursor admits.
    #[must_use]
    pub fn strict_owed(&self, cursor: Cursor) -> Strict {
        Strict::new(Arc::clone(&self.history), self.horizons.subscribe(), Some(cursor))
    }

    /// Like [`strict`](Self::strict), but starts at the end of the log.
    #[must_use]
    pub fn strict_from_now(&self) -> Strict {
        Strict::new(Arc::clone(&self.history), self.horizons.subscribe(), None)
    }

    /// A cursor at the end of the log, which admits exactly the events that become visible later. Waits until
    /// the end is known. `None` if the process shuts down.
    ///
    /// # Cancel safety
    /// Cancel safe: the future can be dropped at any time.
    pub async fn now(&self) -> Option<Cursor> {
        let mut horizon = self.horizons.subscribe();
        let known = horizon.wait_for(|horizon| horizon.closing || horizon.epoch > 0).await.ok()?;
        (!known.closing).then(|| known.now())
    }

    /// Follows a stream after version `after`: its history, then each new event.
    ///
    /// New events are noticed only if [`streams`](Self::streams) is notified of them. A gateway does that; a
    /// process that only pumps does not.
    #[must_use]
    pub fn versions(&self, stream: StreamName, after: i64) -> Versions {
        let registration = self.streams.register(stream.clone());
        let horizon = self.horizons.subscribe();
        Versions::new(Arc::clone(&self.history), horizon, registration, stream, after)
    }

    /// One event with all of its columns. `None` if there is no event with this id.
    ///
    /// # Errors
    /// Fails if PostgreSQL did not answer.
    pub async fn event(&self, id: EventId) -> Result<Option<StoredEvent>, HistoryError> {
        self.history.event(id).await
    }

    /// The correction of one event by its amendments; `None` if it has none. The queries run in the name of
    /// this caller.
    ///
    /// # Errors
    /// Fails if PostgreSQL did not answer.
    pub async fn correction(
        &self,
        caller: &Arc<str>,
        event: &StoredEvent,
    ) -> Result<Option<Correction>, HistoryError> {
        if event.amends.is_some() {
            return Ok(None);
        }
        let events = iter::once((event.id, event.payload.as_bytes()));
        let corrected = self.patcher.corrections(&self.history_for(caller), events).await?;
        let mut corrections = corrected.corrections;
        Ok(corrections.remove(&event.id))
    }

    /// Checks whether these patches can be applied to an event, one after another, after the amendments that
    /// it has, with a result of at most `max_bytes` bytes. The inner error is the index of the patch that
    /// does not apply, and the reason.
    ///
    /// # Errors
    /// Fails if PostgreSQL did not answer.
    pub async fn try_patches(
        &self,
        caller: &Arc<str>,
        event: &StoredEvent,
        patches: Vec<String>,
        max_bytes: usize,
    ) -> Result<Result<(), (usize, String)>, HistoryError> {
        let history = self.history_for(caller);
        self.patcher.try_patches(&history, (event.id, &event.payload), patches, max_bytes).await
    }

    /// Checks that queries succeed.
    ///
    /// # Errors
    /// The reason why they do not, in words for an operator.
    pub fn ready(&self, now: Instant) -> Result<(), String> {
        self.history.check(now)
    }
}

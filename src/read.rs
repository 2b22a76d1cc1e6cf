//! Reads the table for everyone but subscribers: the whole log in [strict order](strict), [one stream](versions),
//! single events, and events as [later ones correct them](amended).
//!
//! Nothing here reads the tail of the log: the [`horizon`] says how far it is settled.

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
    store::history::{History, HistoryError, WholeEvent},
};

/// Reads the table.
#[derive(Debug)]
pub struct Read {
    history: Arc<History>,
    horizons: Arc<Horizons>,
    streams: Arc<Streams>,
    patcher: Arc<Patcher>,
}

impl Read {
    /// Reads by these connections.
    #[must_use]
    pub fn new(history: Arc<History>) -> Self {
        let (horizons, streams) = (Arc::default(), Arc::default());
        Self { history, horizons, streams, patcher: Arc::new(Patcher::new()) }
    }

    /// What shows readers how far the log is settled.
    #[must_use]
    pub fn horizons(&self) -> &Arc<Horizons> {
        &self.horizons
    }

    /// What notifies the readers of streams.
    #[must_use]
    pub fn streams(&self) -> &Arc<Streams> {
        &self.streams
    }

    /// What applies amendments.
    #[must_use]
    pub fn patcher(&self) -> &Arc<Patcher> {
        &self.patcher
    }

    /// What is in the table.
    #[must_use]
    pub fn history(&self) -> &Arc<History> {
        &self.history
    }

    /// What is in the table, read in the name of this caller: callers take turns.
    #[must_use]
    pub fn history_for(&self, caller: &Arc<str>) -> History {
        self.history.of(caller)
    }

    /// Reads the whole log in strict order, from behind `after` on: see [`strict`].
    #[must_use]
    pub fn strict(&self, after: EventId) -> Strict {
        self.strict_owed(Cursor::behind(after))
    }

    /// The same of what this cursor has not got.
    #[must_use]
    pub fn strict_owed(&self, cursor: Cursor) -> Strict {
        Strict::new(Arc::clone(&self.history), self.horizons.subscribe(), Some(cursor))
    }

    /// The same from the end of the log on.
    #[must_use]
    pub fn strict_from_now(&self) -> Strict {
        Strict::new(Arc::clone(&self.history), self.horizons.subscribe(), None)
    }

    /// The end of the log, as soon as that is known: what becomes visible later is behind it. `None` when the
    /// process ends.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn now(&self) -> Option<Cursor> {
        let mut horizon = self.horizons.subscribe();
        let known = horizon.wait_for(|horizon| horizon.closing || horizon.epoch > 0).await.ok()?;
        (!known.closing).then(|| known.now())
    }

    /// Follows a stream behind version `after`: its history, then each new event.
    ///
    /// Somebody has to publish to [`streams`](Self::streams): a gateway does, a process that only pumps does not.
    #[must_use]
    pub fn versions(&self, stream: StreamName, after: i64) -> Versions {
        let registration = self.streams.register(stream.clone());
        let horizon = self.horizons.subscribe();
        Versions::new(Arc::clone(&self.history), horizon, registration, stream, after)
    }

    /// One event, whole.
    ///
    /// # Errors
    /// PostgreSQL did not answer.
    pub async fn event(&self, id: EventId) -> Result<Option<WholeEvent>, HistoryError> {
        self.history.event(id).await
    }

    /// How one event is corrected by later ones, where it is. All is read in the name of this caller.
    ///
    /// # Errors
    /// PostgreSQL did not answer.
    pub async fn correction(
        &self,
        caller: &Arc<str>,
        event: &WholeEvent,
    ) -> Result<Option<Correction>, HistoryError> {
        if event.amends.is_some() {
            return Ok(None);
        }
        let events = iter::once((event.id, event.payload.as_bytes()));
        let corrected = self.patcher.corrections(&self.history_for(caller), events).await?;
        let mut corrections = corrected.corrections;
        Ok(corrections.remove(&event.id))
    }

    /// Whether these patches can correct an event, one after another, behind what corrects it by now, so
    /// that no more than `max_bytes` come out; if not, which one cannot, and why.
    ///
    /// # Errors
    /// PostgreSQL did not answer.
    pub async fn try_patches(
        &self,
        caller: &Arc<str>,
        event: &WholeEvent,
        patches: Vec<String>,
        max_bytes: usize,
    ) -> Result<Result<(), (usize, String)>, HistoryError> {
        let history = self.history_for(caller);
        self.patcher.try_patches(&history, (event.id, &event.payload), patches, max_bytes).await
    }

    /// Nothing, or why queries fail.
    ///
    /// # Errors
    /// The reason, in words for an operator.
    pub fn ready(&self, now: Instant) -> Result<(), String> {
        self.history.check(now)
    }
}

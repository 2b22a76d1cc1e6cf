//! The whole log in strict id order, for whoever keeps a plain number as its checkpoint.
//!
//! The tailer passes over transactions that stay open for longer than the hold; their events
//! follow out of order, which a plain number cannot express. A strict reader therefore stays
//! behind the *horizon*: the greatest id up to which nothing can appear any more, neither by
//! a writer at a hole nor by a late transaction
//! ([`Position::horizon`](crate::order::Position::horizon)). Up to there it reads the table,
//! a page at a time, and holds no connection in between. A transaction that writes events and
//! stays open holds strict readers back, from its first id on, for as long as it lasts;
//! nobody else.
//!
//! Any number of strict readers share the one tailer: they cost it nothing.
//!
//! ```no_run
//! # use event_piper::{event::EventId, gateway::followed::FollowedLog, read::strict::StrictItem};
//! # async fn handle(_: &event_piper::store::history::WholeEvent) {}
//! # async fn store(_: EventId) {}
//! # async fn follow(log: &FollowedLog, checkpoint: EventId) {
//! let mut log = log.read().strict(checkpoint);
//! while let Some(item) = log.next().await {
//!     match item {
//!         StrictItem::Events { events, upto } => {
//!             for event in &events {
//!                 handle(event).await;
//!             }
//!             store(upto).await;
//!         }
//!         StrictItem::Gap { from, to, reason } => {
//!             eprintln!("{from} to {to} cannot be read any more: {reason:?}");
//!         }
//!         StrictItem::CaughtUp => {}
//!     }
//! }
//! # }
//! ```

use std::sync::Arc;

use tokio::sync::watch;

use super::{
    horizon::Horizon,
    page::{memory_for_page, with_retries},
};
use crate::{
    access::budget::{Account, Share},
    cursor::Cursor,
    event::EventId,
    item::signal::GapReason,
    store::{
        event_log::{PageSize, Paging},
        history::{History, HistoryError, WholeEvent, WholePage},
    },
};

/// See the module. It reads on only when it is asked, so a slow caller costs nothing.
#[derive(Debug)]
pub struct Strict {
    history: Arc<History>,
    horizon: watch::Receiver<Horizon>,
    /// The log that `after` belongs to; none before the first look.
    epoch: Option<u64>,
    after: EventId,
    /// What was pruned up to here has been told.
    told: EventId,
    /// It begins at the end, as soon as that is known.
    from_now: bool,
    /// Where it began, if that is not a plain id.
    began: Option<Beginning>,
    caught_up: bool,
    paging: Paging,
    /// Where pages are counted, if they are.
    account: Option<Account>,
    /// Room for the page that is being dealt with.
    page: Option<Share>,
}

/// A place in the log beside transactions that are late there: of what they wrote, some is owed that has a
/// lower id than what is not owed.
#[derive(Debug)]
struct Beginning {
    /// Below the first id that can be owed.
    after: EventId,
    /// What is owed.
    owed: Cursor,
}

impl Beginning {
    /// None for a place that a plain id tells.
    fn at(owed: Cursor) -> Option<Self> {
        let after = owed.settled();
        (!owed.marks().is_empty()).then_some(Self { after, owed })
    }
}

/// What comes next in the log.
#[derive(Debug)]
pub enum StrictItem {
    /// At least one event, in id order. All up to `upto` has been handed over with these: it
    /// is the checkpoint to store once they are dealt with.
    Events {
        /// The events.
        events: Vec<WholeEvent>,
        /// At or behind the last of their ids.
        upto: EventId,
    },
    /// Events of these ids cannot be read any more. Where they were pruned, those that were
    /// not still follow; where the log was replaced, it goes on behind `to`.
    Gap {
        /// The last id that the reader has.
        from: EventId,
        /// The last id that is missing.
        to: EventId,
        /// Why.
        reason: GapReason,
    },
    /// Everything that was settled by now has been handed over. It comes once.
    CaughtUp,
}

/// A page: what a slow reader costs while it deals with it.
const STRICT_PAGE: PageSize = PageSize { rows: 1000, bytes: 1 << 20 };

impl Strict {
    /// Without a cursor it begins at the end of the log.
    pub(super) fn new(
        history: Arc<History>,
        horizon: watch::Receiver<Horizon>,
        cursor: Option<Cursor>,
    ) -> Self {
        let from_now = cursor.is_none();
        let cursor = cursor.unwrap_or_default();
        let after = cursor.settled();
        let (caught_up, account, page) = (false, None, None);
        let (told, epoch, paging) = (after, None, Paging::new(STRICT_PAGE));
        let began = Beginning::at(cursor);
        Self {
            history,
            horizon,
            epoch,
            after,
            told,
            from_now,
            began,
            caught_up,
            paging,
            account,
            page,
        }
    }

    /// Reads in the name of this caller.
    #[must_use]
    pub fn on_behalf_of(mut self, caller: &Arc<str>) -> Self {
        self.history = Arc::new(self.history.of(caller));
        self
    }

    /// Counts each page here, from before it is read until the next item is asked for.
    #[must_use]
    pub fn counted_in(mut self, account: Account) -> Self {
        self.account = Some(account);
        self
    }

    /// Everything up to here was handed over, or is not there.
    #[must_use]
    pub fn after(&self) -> EventId {
        self.after
    }

    /// Passes over what it would hand over up to this id: that was handed over before.
    #[must_use]
    pub fn resumed_at(mut self, after: EventId) -> Self {
        self.after = self.after.max(after);
        self
    }

    /// What it still has to hand over. That is not known of a reader that begins at the end, before the end is
    /// known.
    #[must_use]
    pub fn owed(&self) -> Option<Cursor> {
        let began = self.began.as_ref().filter(|began| self.after == began.after);
        let owed = began.map_or_else(|| Cursor::behind(self.after), |began| began.owed.clone());
        (!self.from_now).then_some(owed)
    }

    /// Whether it has handed over all that is settled by now. What comes later may be there
    /// the next moment.
    #[must_use]
    pub fn is_caught_up(&self) -> bool {
        let horizon = self.horizon.borrow().clone();
        Some(horizon.epoch) == self.epoch && self.after >= horizon.settled
    }

    /// The next item of the log, however long that takes; `None` when the gateway ends.
    ///
    /// Nothing is lost when the future is dropped before it is ready.
    pub async fn next(&mut self) -> Option<StrictItem> {
        loop {
            let horizon = self.horizon.borrow_and_update().clone();
            if horizon.closing {
                return None;
            }
            if horizon.epoch > 0
                && let Some(item) = self.look(&horizon).await
            {
                return Some(item);
            }
            if horizon.epoch > 0 && self.after < horizon.settled {
                continue;
            }
            if horizon.epoch > 0 && !std::mem::replace(&mut self.caught_up, true) {
                return Some(StrictItem::CaughtUp);
            }
            self.horizon.changed().await.ok()?;
        }
    }

    /// The next item that is there already; nothing when all that is settled by now was
    /// handed over, or the gateway ends.
    ///
    /// Nothing is lost when the future is dropped before it is ready.
    pub async fn available(&mut self) -> Option<StrictItem> {
        loop {
            let horizon = self.horizon.borrow_and_update().clone();
            let known = Some(horizon.epoch) == self.epoch;
            if horizon.closing || (known && self.after >= horizon.settled) {
                return None;
            }
            if horizon.epoch == 0 {
                self.horizon.changed().await.ok()?;
            } else if let Some(item) = self.look(&horizon).await {
                return Some(item);
            }
        }
    }

    /// Reads on as far as the log is settled. Nothing, when nothing came of it.
    async fn look(&mut self, horizon: &Horizon) -> Option<StrictItem> {
        self.page = None;
        if std::mem::take(&mut self.from_now) {
            let now = horizon.now();
            (self.after, self.told) = (now.settled(), now.head());
            self.began = Beginning::at(now);
        }
        match self.epoch {
            Some(epoch) if epoch == horizon.epoch => {}
            None if self.is_of(horizon).await => self.epoch = Some(horizon.epoch),
            Some(_) | None => return Some(self.begin_anew(horizon)),
        }
        if self.after >= horizon.settled {
            return None;
        }
        let mut share = memory_for_page(self.account.as_ref(), STRICT_PAGE).await;
        let (page, upto, pruned) = self.read(horizon.settled).await;
        self.paging.learn_of(page.events.len(), page.bytes(), page.last);
        if let Some(share) = &mut share {
            share.settle(page.bytes());
        }
        if let Some(to) = pruned {
            self.told = to;
            return Some(StrictItem::Gap { from: self.after, to, reason: GapReason::Pruned });
        }
        let read = page.events.last().map_or(self.after, |event| event.id);
        self.after = if page.last { upto } else { read };
        let upto = self.after;
        if page.events.is_empty() {
            return None;
        }
        self.page = share;
        Some(StrictItem::Events { events: page.events, upto })
    }

    /// Whether the checkpoint is of this log: some instance may be ahead of this one, but an
    /// id that was never drawn is of another log.
    async fn is_of(&self, horizon: &Horizon) -> bool {
        let reached = self.began.as_ref().map_or(self.after, |began| began.owed.head());
        let reached = reached.max(self.after);
        if reached <= horizon.head {
            return true;
        }
        let drawn = with_retries(|| self.history.drawn()).await;
        drawn.is_none_or(|drawn| reached <= drawn)
    }

    /// The log was replaced: the reader goes on from its end.
    fn begin_anew(&mut self, horizon: &Horizon) -> StrictItem {
        let from = std::mem::replace(&mut self.after, horizon.head);
        self.epoch = Some(horizon.epoch);
        (self.told, self.began) = (self.after, None);
        StrictItem::Gap { from, to: self.after, reason: GapReason::Reset }
    }

    /// A page, and the id that it reaches when it is the last; where ids are missing in it, also the id up to
    /// which something was pruned that was not told yet. That is asked after the page was read, so that it
    /// knows of all that the page lacks.
    async fn read(&self, upto: EventId) -> (WholePage, EventId, Option<EventId>) {
        with_retries(|| self.try_read(upto)).await
    }

    async fn try_read(
        &self,
        upto: EventId,
    ) -> Result<(WholePage, EventId, Option<EventId>), HistoryError> {
        let begins = self.began.as_ref().filter(|began| self.after < began.owed.head());
        if let Some(Beginning { owed, .. }) = begins {
            let upto = upto.min(owed.head());
            let range = (self.after, upto);
            let (page, upto) = self.history.everybodys_of(owed.marks(), range, self.paging).await?;
            return Ok((page, upto, self.pruned().await?));
        }
        let page = self.history.everybodys((self.after, upto), self.paging).await?;
        if is_whole(&page, self.after, upto) {
            return Ok((page, upto, None));
        }
        Ok((page, upto, self.pruned().await?))
    }

    async fn pruned(&self) -> Result<Option<EventId>, HistoryError> {
        let pruned = self.history.ever_pruned().await?;
        Ok(Some(pruned).filter(|pruned| *pruned > self.told.max(self.after)))
    }
}

/// Whether no id is missing in a page of what stands between these two.
fn is_whole(page: &WholePage, after: EventId, upto: EventId) -> bool {
    let last = page.events.last().map_or(after, |event| event.id);
    let upto = if page.last { upto } else { last };
    i64::try_from(page.events.len()) == Ok(upto.get() - after.get())
}

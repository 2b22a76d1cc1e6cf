//! The whole log in strict id order, for a reader that stores a plain number as its checkpoint.
//!
//! The tail passes over transactions that stay open for longer than the hold. Their events follow out of
//! order, which a plain number cannot express. A strict reader therefore reads no further than the
//! [*horizon*](super::horizon), the greatest id up to which nothing can appear any more
//! ([`Position::horizon`](crate::order::Position::horizon)). Up to there it reads the table, a page at a
//! time, and holds no connection in between. A transaction that writes events and stays open delays strict
//! readers, from its first id on and for as long as it lasts, but no other readers.
//!
//! Any number of strict readers share the one tail, and cost it nothing.
//!
//! ```no_run
//! # use event_piper::{event::EventId, gateway::followed::FollowedLog, read::strict::StrictItem};
//! # async fn handle(_: &event_piper::store::history::StoredEvent) {}
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
//!             eprintln!("{from} to {to} cannot be read any more: {}", reason.as_str());
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
    cursor::{Cursor, Mark},
    event::{EventId, Xid},
    item::signal::GapReason,
    order::{Late, Position},
    store::{
        event_log::{PageSize, Paging},
        history::{EventPage, History, HistoryError, StoredEvent},
    },
};

/// A reader of the whole log in strict id order. It reads only on demand, so a slow caller costs nothing.
#[derive(Debug)]
pub struct Strict {
    history: Arc<History>,
    horizon: watch::Receiver<Horizon>,
    /// The epoch of the log that `after` belongs to; `None` before the first read.
    epoch: Option<u64>,
    after: EventId,
    /// The id up to which pruned events were reported as a gap.
    reported: EventId,
    /// The reader starts at the end of the log, as soon as that is known.
    from_now: bool,
    /// The events that are still owed, if a plain id does not say it: of late transactions, or after a
    /// snapshot, events are owed that have lower ids than events that are not.
    owed: Option<Cursor>,
    /// How far the snapshot of `owed` reaches. `None`: not known yet.
    reach: Option<Reach>,
    /// The events that were owed before the current page.
    before_page: Cursor,
    caught_up: bool,
    paging: Paging,
    /// The account that pages are counted in, if they are counted.
    account: Option<Account>,
    /// The memory share of the page that the caller is handling.
    page: Option<Share>,
}

/// How far a snapshot reaches into the log.
#[derive(Debug)]
struct Reach {
    /// Up to this id, only transactions in the snapshot's list wrote events that are owed. It is no greater than
    /// the horizon before it was asked: above that, others may still appear.
    listed_upto: EventId,
    /// At least the greatest id of a row that the snapshot sees.
    seen_upto: EventId,
}

/// What comes next in the log.
#[derive(Debug)]
pub enum StrictItem {
    /// At least one event, in id order. With these, everything up to `upto` has been returned, so `upto` is
    /// the checkpoint to store once they are handled.
    Events {
        /// The events.
        events: Vec<StoredEvent>,
        /// The last of their ids, or an id after that.
        upto: EventId,
    },
    /// Events with these ids cannot be read any more. If they were pruned, the remaining ones follow. If the
    /// log was replaced, the reader continues after `to`.
    Gap {
        /// The last id that the reader has.
        from: EventId,
        /// The last id that is missing.
        to: EventId,
        /// The reason.
        reason: GapReason,
    },
    /// Everything that is settled by now has been returned. It is returned once.
    CaughtUp,
}

/// The size of a page, which is in memory while the caller handles it.
const STRICT_PAGE: PageSize = PageSize { rows: 1000, bytes: 1 << 20 };

impl Strict {
    /// A reader of the events that the cursor admits. Without a cursor, it starts at the end of the log.
    pub(super) fn new(
        history: Arc<History>,
        horizon: watch::Receiver<Horizon>,
        cursor: Option<Cursor>,
    ) -> Self {
        let from_now = cursor.is_none();
        let cursor = cursor.unwrap_or_default();
        let after = cursor.settled();
        let (caught_up, account, page) = (false, None, None);
        let (reported, epoch, paging) = (after, None, Paging::new(STRICT_PAGE));
        let (before_page, reach) = (cursor.clone(), None);
        let owed = (!cursor.is_plain_id()).then_some(cursor);
        Self {
            history,
            horizon,
            epoch,
            after,
            reported,
            from_now,
            owed,
            reach,
            before_page,
            caught_up,
            paging,
            account,
            page,
        }
    }

    /// Sets the caller in whose name the table is read.
    #[must_use]
    pub fn on_behalf_of(mut self, caller: &Arc<str>) -> Self {
        self.history = Arc::new(self.history.of(caller));
        self
    }

    /// Counts each page in this account, from before it is read until the next item is requested.
    #[must_use]
    pub fn counted_in(mut self, account: Account) -> Self {
        self.account = Some(account);
        self
    }

    /// The id up to which everything that exists was returned.
    #[must_use]
    pub fn after(&self) -> EventId {
        self.after
    }

    /// Skips the events up to this id, which an earlier reader returned.
    #[must_use]
    pub fn resumed_at(mut self, after: EventId) -> Self {
        self.move_to(self.after.max(after));
        self
    }

    /// A cursor that admits the events that are still to be returned. `None` if the reader starts at the end
    /// of the log and that is not known yet.
    #[must_use]
    pub fn owed(&self) -> Option<Cursor> {
        (!self.from_now).then(|| self.still_owed())
    }

    /// The cursor of a client that has got the events of the current page up to this one.
    #[must_use]
    pub fn cursor_at(&self, event: EventId) -> Cursor {
        let mut cursor = self.before_page.clone();
        cursor.settle(event);
        cursor
    }

    fn still_owed(&self) -> Cursor {
        self.owed.clone().unwrap_or_else(|| Cursor::behind(self.after))
    }

    /// Moves to this id. All events that are owed up to it were returned.
    fn move_to(&mut self, after: EventId) {
        self.after = after;
        let Some(owed) = &mut self.owed else { return };
        owed.settle(after);
        if let Some(reach) = &self.reach {
            let position = Position { head: after, late: Late::default() };
            owed.release_snapshot(reach.seen_upto, &position);
        }
        if owed.is_plain_id() {
            self.owed = None;
        }
    }

    /// Whether everything that is settled by now was returned. More may be settled a moment later.
    #[must_use]
    pub fn is_caught_up(&self) -> bool {
        let horizon = self.horizon.borrow().clone();
        Some(horizon.epoch) == self.epoch && self.after >= horizon.settled
    }

    /// Waits for the next item of the log. `None` if the process shuts down.
    ///
    /// # Cancel safety
    /// Cancel safe: if the future is dropped before it is ready, nothing is lost.
    pub async fn next(&mut self) -> Option<StrictItem> {
        loop {
            let horizon = self.horizon.borrow_and_update().clone();
            if horizon.closing {
                return None;
            }
            if horizon.epoch > 0
                && let Some(item) = self.read_next(&horizon).await
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

    /// The next item that is available already. `None` if everything that is settled by now was returned, or
    /// the process shuts down.
    ///
    /// # Cancel safety
    /// Cancel safe: if the future is dropped before it is ready, nothing is lost.
    pub async fn available(&mut self) -> Option<StrictItem> {
        loop {
            let horizon = self.horizon.borrow_and_update().clone();
            let known = Some(horizon.epoch) == self.epoch;
            if horizon.closing || (known && self.after >= horizon.settled) {
                return None;
            }
            if horizon.epoch == 0 {
                self.horizon.changed().await.ok()?;
            } else if let Some(item) = self.read_next(&horizon).await {
                return Some(item);
            }
        }
    }

    /// Reads the next page, up to the horizon. `None` if that gave no item.
    async fn read_next(&mut self, horizon: &Horizon) -> Option<StrictItem> {
        self.page = None;
        if std::mem::take(&mut self.from_now) {
            let now = horizon.now();
            (self.after, self.reported) = (now.settled(), now.head());
            self.owed = (!now.is_plain_id()).then_some(now);
        }
        match self.epoch {
            Some(epoch) if epoch == horizon.epoch => {}
            None if self.belongs_to(horizon).await => self.epoch = Some(horizon.epoch),
            Some(_) | None => return Some(self.restart(horizon)),
        }
        if self.after >= horizon.settled {
            return None;
        }
        self.find_reach(horizon.settled).await;
        self.before_page = self.still_owed();
        let mut share = memory_for_page(self.account.as_ref(), STRICT_PAGE).await;
        let (page, upto, pruned) = self.read(horizon.settled).await;
        self.paging.learn_of(page.events.len(), page.bytes(), page.last);
        if let Some(share) = &mut share {
            share.settle(page.bytes());
        }
        if let Some(to) = pruned {
            self.reported = to;
            return Some(StrictItem::Gap { from: self.after, to, reason: GapReason::Pruned });
        }
        let read = page.events.last().map_or(self.after, |event| event.id);
        self.move_to(if page.last { upto } else { read });
        let (mut events, upto) = (page.events, self.after);
        events.retain(|event| !self.before_page.sees(event));
        if events.is_empty() {
            return None;
        }
        self.page = share;
        Some(StrictItem::Events { events, upto })
    }

    /// Whether the checkpoint belongs to this log. Another instance may be ahead of this one, but an id that
    /// was never drawn from the sequence belongs to another log.
    async fn belongs_to(&self, horizon: &Horizon) -> bool {
        let reached = self.owed.as_ref().map_or(self.after, Cursor::head);
        let reached = reached.max(self.after);
        if reached <= horizon.head {
            return true;
        }
        let drawn = with_retries(|| self.history.drawn()).await;
        drawn.is_none_or(|drawn| reached <= drawn)
    }

    /// The log was replaced: continues from the end of the new one.
    fn restart(&mut self, horizon: &Horizon) -> StrictItem {
        let from = std::mem::replace(&mut self.after, horizon.head);
        self.epoch = Some(horizon.epoch);
        (self.reported, self.owed, self.reach) = (self.after, None, None);
        StrictItem::Gap { from, to: self.after, reason: GapReason::Reset }
    }

    /// Reads a page. Also returns the id that the page reaches if it is the last one, and, if ids are missing
    /// in it, the id up to which events were pruned and not reported yet. The latter is queried after the
    /// page was read, so that it covers every row that the page lacks.
    async fn read(&self, upto: EventId) -> (EventPage, EventId, Option<EventId>) {
        with_retries(|| self.try_read(upto)).await
    }

    async fn try_read(
        &self,
        upto: EventId,
    ) -> Result<(EventPage, EventId, Option<EventId>), HistoryError> {
        if let Some((marks, upto)) = self.owed_of_some(upto) {
            let range = (self.after, upto);
            let (page, upto) = if marks.is_empty() {
                (EventPage::empty(), upto)
            } else {
                self.history.all_events_of(&marks, range, self.paging).await?
            };
            return Ok((page, upto, self.pruned().await?));
        }
        let page = self.history.all_events((self.after, upto), self.paging).await?;
        if is_whole(&page, self.after, upto) {
            return Ok((page, upto, None));
        }
        Ok((page, upto, self.pruned().await?))
    }

    /// The transactions that wrote all events that are owed next, up to the returned id. `None`: any transaction
    /// may have written them.
    fn owed_of_some(&self, upto: EventId) -> Option<(Vec<Mark>, EventId)> {
        let owed = self.owed.as_ref()?;
        if self.after < owed.head() {
            return Some((owed.marks().to_vec(), upto.min(owed.head())));
        }
        let listed_upto = self.reach.as_ref()?.listed_upto;
        let mark = |&xid: &Xid| Mark { xid, upto: self.after };
        let marks = owed.snapshot()?.in_progress().iter().map(mark).collect();
        (self.after < listed_upto).then_some((marks, listed_upto))
    }

    /// Asks how far the snapshot reaches, unless that is known. Up to `settled`, all events are visible by now.
    async fn find_reach(&mut self, settled: EventId) {
        let Some(snapshot) = self.owed.as_ref().and_then(Cursor::snapshot) else { return };
        if self.reach.is_some() {
            return;
        }
        let reach = with_retries(|| self.history.reach_of_all(snapshot)).await;
        if !reach.pruned_since {
            self.reported = self.reported.max(reach.pruned);
        }
        let before_owed = reach.first_owed.map_or(settled, EventId::previous);
        let listed_upto = before_owed.min(settled);
        self.reach = Some(Reach { listed_upto, seen_upto: reach.seen_upto });
    }

    async fn pruned(&self) -> Result<Option<EventId>, HistoryError> {
        let pruned = self.history.ever_pruned().await?;
        Ok(Some(pruned).filter(|pruned| *pruned > self.reported.max(self.after)))
    }
}

/// Whether a page of the rows above `after` and at most `upto` has every id.
fn is_whole(page: &EventPage, after: EventId, upto: EventId) -> bool {
    let last = page.events.last().map_or(after, |event| event.id);
    let upto = if page.last { upto } else { last };
    i64::try_from(page.events.len()) == Ok(upto.get() - after.get())
}

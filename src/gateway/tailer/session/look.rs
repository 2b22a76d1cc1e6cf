//! One look at the log: reads a page, asks the rules what may go, and publishes that.

use std::{collections::HashSet, time::Instant};

use super::{Lost, Session, within};
use crate::{
    consumer::ConsumerId,
    event::{EventId, Logged, Xid},
    gateway::{
        frame::{self, Frame},
        recent::Recent,
    },
    order::{Advance, Order, Position},
    postgres::{
        doorbell,
        event_log::{EventRow, Page, PageSize, Paging},
    },
};

/// What a look at the log came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// There is more to read.
    More,
    /// A hole is waited for.
    Held,
    /// All that is visible has been read.
    Whole,
}

/// A page of the tail: so many rows at most, and so many stored bytes.
pub(super) const PAGE: PageSize = PageSize { rows: 1000, bytes: 1 << 20 };

/// What late transactions wrote is delivered in one piece, so that nobody joins in its midst.
/// Where it is more than this, its consumers read it from the table instead.
const FOLLOWERS: usize = 8 << 20;

impl Session<'_> {
    /// One look at the log: reads a page, and does what the rules say about it.
    pub(super) async fn look(&mut self, order: &mut Order) -> Result<Look, Lost> {
        let mut look = Look::Whole;
        if self.may_have_moved(order).await? {
            look = self.read_on(order).await?;
        }
        self.follow_up(order).await?;
        self.note_hold(order).await?;
        Ok(if order.hole().is_some() { Look::Held } else { look })
    }

    /// Whether a read can find anything to pass. At a hole it can only when one of those
    /// who may fill it has ended.
    async fn may_have_moved(&mut self, order: &mut Order) -> Result<bool, Lost> {
        let Some(hole) = order.hole() else { return Ok(true) };
        let waited_for = hole.open.len();
        let open = self.still_open(&hole.open).await?;
        let ended = open.len() < waited_for;
        Ok(order.settle(open, Instant::now()) || ended)
    }

    async fn read_on(&mut self, order: &mut Order) -> Result<Look, Lost> {
        let (log, client) = (&self.log, self.listener.client());
        let tail = log.tail(client, order.position().head, self.paging);
        let page = within("reading the tail of the log", tail).await?;
        self.paging.learn(&page);
        self.vigil.rows(page.rows.len(), Instant::now());
        let advance = self.advance(order, &page);
        self.announce(&page).await?;
        if let Advance::Hole { upto } = advance
            && order.hole().is_none()
        {
            // With many writers at it, most holes fill by themselves within a moment. To ask
            // who writes takes every partition of the lock table, which those very writers
            // need, so a hole is looked at twice before that is asked.
            let head = order.position().head;
            if self.vigil.patient() && self.patient_at.replace(head) != Some(head) {
                return Ok(Look::Held);
            }
            let writers = self.writers().await?;
            let xids = writers.iter().map(|writer| writer.xid).collect();
            order.found_hole(upto, xids, Instant::now());
            // Most holes are a rollback's, or were filled meanwhile: nobody is waited for.
            let open = order.hole().map(|hole| hole.open.clone()).unwrap_or_default();
            if order.settle(open, Instant::now()) {
                return Ok(Look::More);
            }
        }
        Ok(if page.last { Look::Whole } else { Look::More })
    }

    /// Takes note of rows that were not seen before, and wakes the other readers for them.
    async fn announce(&mut self, page: &Page) -> Result<(), Lost> {
        let Some(last) = page.rows.last().filter(|last| last.id() > self.seen) else {
            return Ok(());
        };
        self.seen = last.id();
        self.vigil.news(Instant::now());
        self.wake_others().await
    }

    async fn wake_others(&self) -> Result<(), Lost> {
        if self.vigil.keeper && self.others {
            within("waking the other readers", doorbell::ring(self.listener.client())).await?;
        }
        Ok(())
    }

    /// Publishes what may go of a page.
    fn advance(&mut self, order: &mut Order, page: &Page) -> Advance {
        let before = order.position().head;
        let mut go = Vec::with_capacity(page.rows.len());
        let advance = order.advance(&page.rows, page.last, |row| go.push(row));
        if order.position().head > before {
            self.tailer.metrics.events_read.inc_by(go.len() as u64);
            let late = &order.position().late;
            let after = |row: &EventRow| Position { head: row.id(), late: late.clone() };
            self.publish(&go, after, order.position(), false);
            self.auditor.remember(order.take_passed(), Instant::now());
        }
        advance
    }

    /// Delivers what transactions wrote that were late, and have ended.
    async fn follow_up(&mut self, order: &mut Order) -> Result<(), Lost> {
        if order.position().late.is_empty() {
            return Ok(());
        }
        let late: Vec<Xid> = order.position().late.as_slice().iter().map(|l| l.xid).collect();
        let (log, client) = (&self.log, self.listener.client());
        let ended = within("asking who has ended", log.ended(client, &late)).await?;
        if ended.is_empty() {
            return Ok(());
        }
        self.deliver_followers(order, &ended).await
    }

    async fn deliver_followers(&mut self, order: &mut Order, ended: &[Xid]) -> Result<(), Lost> {
        let head = order.position().head;
        let late = order.position().late.as_slice().iter();
        let since = late.filter(|late| ended.contains(&late.xid)).map(|late| late.since).min();
        let since = since.unwrap_or(head);
        let rows = self.followers(ended, since, head).await?;
        let whose = match rows {
            Some(_) => HashSet::new(),
            None => self.whose(ended, since, head).await?,
        };
        for &xid in ended {
            order.ended(xid);
        }
        self.vigil.news(Instant::now());
        let position = order.position().clone();
        if let Some(rows) = rows {
            let rows: Vec<_> = rows.iter().collect();
            self.publish(&rows, |_| position.clone(), &position, false);
        } else {
            self.tailer.hub.publish(|recent| recent.let_go(&whose, &position));
            self.tailer.hub.tell_all_streams();
        }
        self.wake_others().await
    }

    /// What these transactions wrote up to the head; none when it is more than is taken into
    /// memory at once.
    async fn followers(
        &self,
        ended: &[Xid],
        mut after: EventId,
        head: EventId,
    ) -> Result<Option<Vec<EventRow>>, Lost> {
        let (mut rows, mut bytes, mut paging) = (Vec::new(), 0, Paging::new(PAGE));
        while bytes < FOLLOWERS {
            let (client, size) = (self.listener.client(), paging.size());
            let read = self.log.followers(client, ended, (after, head), size);
            let page = within("reading what a late transaction wrote", read).await?;
            paging.learn(&page);
            after = page.rows.last().map_or(after, Logged::id);
            bytes += page.bytes();
            rows.extend(page.rows);
            if page.last {
                return Ok(Some(rows));
            }
        }
        Ok(None)
    }

    async fn whose(
        &self,
        ended: &[Xid],
        since: EventId,
        head: EventId,
    ) -> Result<HashSet<ConsumerId>, Lost> {
        let (log, client) = (&self.log, self.listener.client());
        let asked = log.followers_subscribers(client, ended, (since, head));
        within("asking for whom a late transaction wrote", asked).await
    }

    /// Encodes rows, publishes them, and moves the recent events up to `position`.
    pub(super) fn publish(
        &mut self,
        rows: &[&EventRow],
        after: impl Fn(&EventRow) -> Position,
        position: &Position,
        found: bool,
    ) {
        let mut frames: Vec<(ConsumerId, Frame, Position)> = Vec::with_capacity(rows.len());
        for row in rows {
            if let Some(age) = row.age() {
                self.tailer.metrics.commit_to_delivery.observe(age.as_secs_f64());
            }
            if let Some(consumer) = row.subscriber() {
                let data = frame::data(row.amends(), row.payload());
                let frame = self.encoder.encode(*row, row.kind(), &data);
                frames.push((consumer, frame, after(row)));
            }
        }
        self.tailer.hub.publish(|recent: &mut Recent| {
            for (consumer, frame, after) in frames {
                recent.publish(&consumer, frame, &after, found);
            }
            recent.moved_to(position);
        });
        self.tailer.hub.tell_streams(rows.iter().filter_map(|row| row.stream()));
        self.tailer.metrics.head.set(position.head.get());
        self.tailer.metrics.late.set(position.late.len().try_into().unwrap_or(i64::MAX));
    }
}

//! Delivers what transactions wrote that were late, and have ended: some rows with each poll of
//! the log, so that a large one is never in the way of everybody else's events.

use std::{collections::VecDeque, time::Instant};

use super::{At, Look, Origin, Publication, Reader, Step};
use crate::{
    event::{EventId, Logged, Xid},
    order::{Late, LateTransaction},
};

/// Which rows of late transactions to read: of each those above its `since`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LateRange {
    /// The transactions.
    pub transactions: Vec<LateTransaction>,
    /// Rows above this id.
    pub after: EventId,
    /// And up to this one.
    pub upto: EventId,
}

/// Late transactions that have ended, and whose rows are being delivered.
#[derive(Debug, Default)]
pub(super) struct LateReads {
    /// Those that ended together are read together. They take turns.
    together: VecDeque<Vec<Xid>>,
}

impl LateReads {
    /// The late transactions that are not known to have ended.
    pub(super) fn open(&self, late: &Late) -> Vec<Xid> {
        let xids = late.as_slice().iter().map(|late| late.xid);
        xids.filter(|xid| !self.together.iter().flatten().any(|ended| ended == xid)).collect()
    }

    /// These have ended: their rows are to be delivered. Answers whether there are any.
    pub(super) fn begin(&mut self, late: &Late, ended: &[Xid]) -> bool {
        let ended: Vec<Xid> = ended.iter().copied().filter(|xid| late.contains(*xid)).collect();
        let any = !ended.is_empty();
        if any {
            self.together.push_back(ended);
        }
        any
    }

    fn next_range(&self, late: &Late, head: EventId) -> Option<LateRange> {
        let xids = self.together.front()?;
        let transactions: Vec<_> = xids.iter().filter_map(|xid| late.get(*xid)).collect();
        let after = transactions.iter().map(|late| late.since).min().unwrap_or(head);
        Some(LateRange { transactions, after, upto: head })
    }

    /// Takes the transactions whose rows were read; the next ones are read next.
    fn take_turn(&mut self) -> Vec<Xid> {
        self.together.pop_front().unwrap_or_default()
    }

    fn is_empty(&self) -> bool {
        self.together.is_empty()
    }
}

impl<E: Logged> Reader<E> {
    /// Goes on with late transactions, when the tail has been looked at.
    pub(super) fn look_at_late(&mut self) {
        let open = self.late_reads.open(&self.order().position().late);
        if open.is_empty() { self.read_late() } else { self.at = At::Late }
    }

    pub(super) fn read_late(&mut self) {
        let position = self.order().position();
        let range = self.late_reads.next_range(&position.late, position.head);
        self.at = range.map_or(At::Rest, At::LateRows);
    }

    /// Some rows of late transactions, in id order, that stand in the range that was asked for;
    /// all there are up to `upto`, which is the end of the range when these are the last.
    pub fn late_rows(&mut self, mut rows: Vec<E>, upto: EventId, now: Instant) {
        let At::LateRows(range) = &self.at else { return };
        let its: Late = range.transactions.iter().copied().collect();
        rows.retain(|row| its.has(row));
        let last = upto >= range.upto;
        let xids = self.late_reads.take_turn();
        let order = self.order_mut();
        if last {
            // Rows above the head are read with the tail: these are late no more.
            for &xid in &xids {
                order.ended(xid);
            }
        } else {
            order.delivered_late(&xids, upto);
            self.late_reads.together.push_back(xids);
        }
        if last || !rows.is_empty() {
            let (position, origin) = (self.order().position().clone(), Origin::Late);
            self.steps.push_back(Step::Publish(Publication { rows, position, origin }));
            self.news(now);
        }
        self.at = At::Rest;
    }

    /// Whether something is left to do at once.
    pub(super) fn look_came_to(&self) -> Look {
        match self.look {
            _ if !self.late_reads.is_empty() => Look::More,
            _ if self.order().hole().is_some() && self.may_move => Look::More,
            _ if self.order().hole().is_some() => Look::Held,
            look => look,
        }
    }
}

//! Delivers what transactions wrote that were late, and have ended: some rows with each poll of
//! the log, so that a large one is never in the way of everybody else's events.

use std::time::Instant;

use super::state::{At, Look, Reader};
use super::step::{Origin, Publication, Step};
use crate::{
    event::{EventId, Logged},
    order::Late,
};

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
            self.late_reads.requeue(xids);
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

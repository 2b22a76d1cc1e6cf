//! Delivers the rows of late transactions that have ended: some rows with each poll of the log, so that a
//! large transaction does not delay other events.

use std::time::Instant;

use super::state::{At, PollOutcome, Reader};
use super::step::{Origin, Publication, Step};
use crate::{
    event::{EventId, Logged},
    order::Late,
};

impl<E: Logged> Reader<E> {
    /// Continues with late transactions after the tail was read.
    pub(super) fn check_late(&mut self) {
        let open = self.late_reads.open(&self.order().position().late);
        if open.is_empty() { self.read_late() } else { self.at = At::Late }
    }

    pub(super) fn read_late(&mut self) {
        let position = self.order().position();
        let range = self.late_reads.next_range(&position.late, position.head);
        self.at = range.map_or(At::Rest, At::LateRows);
    }

    /// Answers [`Step::Late`]: rows of late transactions in the range that was asked for, in id order. They
    /// are all rows up to `upto`, which is the end of the range if there are no more.
    pub fn late_rows(&mut self, mut rows: Vec<E>, upto: EventId, now: Instant) {
        let At::LateRows(range) = &self.at else { return };
        let its: Late = range.transactions.iter().copied().collect();
        rows.retain(|row| its.has(row));
        let last = upto >= range.upto;
        let xids = self.late_reads.take_turn();
        let order = self.order_mut();
        if last {
            // Rows above the head are read with the tail, so these transactions are no longer late.
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

    /// The result of this poll: whether something is left to do at once.
    pub(super) fn poll_outcome(&self) -> PollOutcome {
        match self.outcome {
            _ if !self.late_reads.is_empty() => PollOutcome::More,
            _ if self.order().hole().is_some() && self.may_move => PollOutcome::More,
            _ if self.order().hole().is_some() => PollOutcome::Held,
            outcome => outcome,
        }
    }
}

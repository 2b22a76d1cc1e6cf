//! Late transactions that have ended, and which of their rows to read next.

use std::collections::VecDeque;

use crate::{
    event::{EventId, Xid},
    order::{Late, LateTransaction},
};

/// Which rows of late transactions to read: those above the `since` of each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LateRange {
    /// The transactions.
    pub transactions: Vec<LateTransaction>,
    /// Rows above this id ...
    pub after: EventId,
    /// ... and up to this one.
    pub upto: EventId,
}

/// Late transactions that have ended, and whose rows are being delivered.
#[derive(Debug, Default)]
pub(super) struct LateReads {
    /// Transactions that ended together are read together. The groups take turns.
    together: VecDeque<Vec<Xid>>,
}

impl LateReads {
    /// Returns the late transactions that are not known to have ended.
    pub(super) fn open(&self, late: &Late) -> Vec<Xid> {
        let xids = late.as_slice().iter().map(|late| late.xid);
        xids.filter(|xid| !self.together.iter().flatten().any(|ended| ended == xid)).collect()
    }

    /// Queues those late transactions that have ended, to deliver their rows. Returns whether there are any.
    pub(super) fn begin(&mut self, late: &Late, ended: &[Xid]) -> bool {
        let ended: Vec<Xid> = ended.iter().copied().filter(|xid| late.contains(*xid)).collect();
        let any = !ended.is_empty();
        if any {
            self.together.push_back(ended);
        }
        any
    }

    pub(super) fn next_range(&self, late: &Late, head: EventId) -> Option<LateRange> {
        let xids = self.together.front()?;
        let transactions: Vec<_> = xids.iter().filter_map(|xid| late.get(*xid)).collect();
        let after = transactions.iter().map(|late| late.since).min().unwrap_or(head);
        Some(LateRange { transactions, after, upto: head })
    }

    /// Takes the transactions whose rows were read. The next group is read next.
    pub(super) fn take_turn(&mut self) -> Vec<Xid> {
        self.together.pop_front().unwrap_or_default()
    }

    /// Queues transactions again that have more rows to read.
    pub(super) fn requeue(&mut self, xids: Vec<Xid>) {
        self.together.push_back(xids);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.together.is_empty()
    }
}

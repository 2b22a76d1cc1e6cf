//! The open transactions that were passed over.

use std::sync::Arc;

use crate::event::{EventId, Logged, Xid};

/// The transactions that were still open when the hold ran out. Their events were passed over, and follow
/// when they commit. A snapshot, cheap to clone and to share.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Late(Option<Arc<[LateTransaction]>>);

/// One transaction that was passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LateTransaction {
    /// The transaction's id.
    pub xid: Xid,
    /// The transaction has no event at or before this id that was not delivered. At first this is the head
    /// when the transaction was passed over. A row at or before this id with the same transaction id was
    /// delivered when the head passed it, or comes from another cluster.
    pub since: EventId,
}

impl Late {
    /// The most transactions that may be late at once. With more, delivery is held instead, so that a cursor
    /// stays short enough for a header.
    pub const MAX: usize = 16;

    /// The most transactions that may be late at a start. A gateway that has not started serves nothing, not
    /// even history. So it starts with more late transactions, and its cursors are longer until these end.
    pub const MAX_AT_START: usize = 64;

    /// Whether no transaction is late, which is the usual case.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// The number of late transactions.
    #[must_use]
    pub fn len(&self) -> usize {
        self.as_slice().len()
    }

    /// The late transactions, ascending by xid.
    #[must_use]
    pub fn as_slice(&self) -> &[LateTransaction] {
        self.0.as_deref().unwrap_or_default()
    }

    /// Whether this transaction is late.
    #[must_use]
    pub fn contains(&self, xid: Xid) -> bool {
        self.get(xid).is_some()
    }

    /// Whether this row was written by a late transaction and is still to be delivered.
    #[must_use]
    pub fn has(&self, row: &impl Logged) -> bool {
        self.get(row.xid()).is_some_and(|late| row.id() > late.since)
    }

    /// Returns the transaction if it is late.
    #[must_use]
    pub fn get(&self, xid: Xid) -> Option<LateTransaction> {
        let late = self.as_slice();
        late.binary_search_by_key(&xid, |late| late.xid).ok().map(|at| late[at])
    }

    /// Returns these and the `open` transactions, which have no event at or before `since`.
    #[must_use]
    pub(super) fn with(&self, open: &[Xid], since: EventId) -> Self {
        let new = open.iter().filter(|xid| !self.contains(**xid));
        let new = new.map(|&xid| LateTransaction { xid, since });
        self.as_slice().iter().copied().chain(new).collect()
    }

    /// Returns these after the rows of `xids` up to this id were delivered.
    #[must_use]
    pub(super) fn delivered(&self, xids: &[Xid], upto: EventId) -> Self {
        let late = self.as_slice().iter().map(|&late| {
            let since = if xids.contains(&late.xid) { late.since.max(upto) } else { late.since };
            LateTransaction { since, ..late }
        });
        late.collect()
    }

    /// Returns these without `ended`.
    #[must_use]
    pub(super) fn without(&self, ended: Xid) -> Self {
        self.as_slice().iter().copied().filter(|late| late.xid != ended).collect()
    }
}

impl FromIterator<LateTransaction> for Late {
    fn from_iter<I: IntoIterator<Item = LateTransaction>>(late: I) -> Self {
        let mut late: Vec<_> = late.into_iter().collect();
        late.sort_unstable_by_key(|late| late.xid);
        Self((!late.is_empty()).then(|| late.into()))
    }
}

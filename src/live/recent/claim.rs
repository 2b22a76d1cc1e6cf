//! Which clients memory is complete for.

use super::entry::Sequence;
use crate::{
    cursor::{Cursor, Mark},
    order::Position,
};

/// States that everything that was delivered after the reader was at `after` is in the log, at the
/// place `from` or later.
///
/// A claim is always derived from the content of the log. It starts with an empty log, at the place and the
/// position where the reader starts. It is lowered only when history is loaded that ends exactly where the
/// claim begins. It is raised whenever an entry before its new place is evicted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    from: Sequence,
    after: Position,
}

impl Claim {
    /// The caller must make sure that the claim is true: either nothing has been delivered after `after`
    /// yet and the next entry gets the place `from`, or the claim follows from another one.
    pub(super) fn new(from: Sequence, after: Position) -> Self {
        Self { from, after }
    }

    /// The first place that the claim covers.
    pub(super) fn from(&self) -> Sequence {
        self.from
    }

    /// The reader's position before that place.
    pub(super) fn after(&self) -> &Position {
        &self.after
    }

    /// Reduces this claim to `other`, if that is weaker. A claim with a later first place is weaker.
    pub(super) fn raise(&mut self, other: &Self) {
        if other.from > self.from {
            assert!(other.after.head >= self.after.head, "the reader went back");
            self.clone_from(other);
        }
    }

    /// Whether the log has every event that a client with this cursor lacks, while the reader is at `now`.
    ///
    /// Events above the cursor's head were delivered later than `after` if the cursor's head has reached the
    /// head of `after`. For the events of a marked transaction there are three cases:
    ///
    /// - The transaction was late at `after`. Its events were delivered later if no more of it had been
    ///   delivered at `after` than the client has.
    /// - The transaction is late only at `now`. Its events came later, or are still to come.
    /// - The mark has reached the head of `after`. Then the events above the mark are like events above the
    ///   cursor's head.
    pub(super) fn covers(&self, cursor: &Cursor, now: &Position) -> bool {
        let after = &self.after;
        let late = |mark: &Mark| match after.late.get(mark.xid) {
            Some(late) => late.since <= mark.upto,
            None => now.late.contains(mark.xid),
        };
        let marks = cursor.marks();
        cursor.head() >= after.head
            && marks.iter().all(|mark| mark.upto >= after.head || late(mark))
    }
}

//! What memory claims to be complete for.

use super::entry::Sequence;
use crate::{
    cursor::{Cursor, Mark},
    order::Position,
};

/// Everything that was delivered after the reader was at `after` stands in the log, at the
/// place `from` or behind it.
///
/// A claim is never set to a wish. It begins with an empty log, where it is true of the place
/// and the position at which the reader starts; it is lowered only by history that joins it
/// without a seam; and it is raised whenever an entry before the new place is let go of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    from: Sequence,
    after: Position,
}

impl Claim {
    /// True when nothing has been delivered yet behind `after`, and the next entry gets the
    /// place `from`; or when it follows from another claim.
    pub(super) fn new(from: Sequence, after: Position) -> Self {
        Self { from, after }
    }

    /// The first place that it speaks of.
    pub(super) fn from(&self) -> Sequence {
        self.from
    }

    /// Where the reader was before that place.
    pub(super) fn after(&self) -> &Position {
        &self.after
    }

    /// Claims no more than this other one does. A claim that begins later is the weaker one.
    pub(super) fn raise(&mut self, other: &Self) {
        if other.from > self.from {
            assert!(other.after.head >= self.after.head, "a reader does not go back");
            self.clone_from(other);
        }
    }

    /// Whether the log has all that a client with this cursor lacks, while the reader is at `now`.
    ///
    /// Events above the cursor's head were delivered later than `after` when the head has
    /// reached that. Events of a marked transaction were, too, if it was late there, and no more
    /// of it had been delivered than the client has; they are still to come, or came later, if it
    /// is late only now; and those above a mark that has reached `after` are like events above the
    /// head.
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

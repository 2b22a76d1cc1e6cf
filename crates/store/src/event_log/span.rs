//! How far a query for certain transactions' rows has to look.

use crate::event::EventId;

/// How much of the log lies between two ids among which some transactions' rows are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Span {
    /// So little that it is read from one end to the other, in the order of the ids.
    Short,
    /// Perhaps the whole log: whoever was late when a gateway started may have written anywhere.
    /// Only the index on `xid` may be used, and the planner does not know that: a row that it finds
    /// by walking through the ids is the next one in order, and it believes that one comes soon.
    Long,
}

impl Span {
    /// So many rows are read in some tens of milliseconds.
    const SHORT: i64 = 50_000;

    /// Of the ids above `after` and up to `upto`.
    pub(crate) fn of((after, upto): (EventId, EventId)) -> Self {
        if upto.get() - after.get() <= Self::SHORT { Self::Short } else { Self::Long }
    }

    /// The query, for a span like this.
    pub(super) fn query(self, query: &str) -> String {
        // No index is on this sum.
        query.replace("PLACE", if self == Self::Short { "log.id" } else { "(log.id + 0)" })
    }

    /// The last id of a short span behind this one.
    pub(crate) fn short_end(after: EventId) -> EventId {
        EventId::new(after.get().saturating_add(Self::SHORT))
    }
}

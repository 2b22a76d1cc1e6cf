//! How far a query for the rows of certain transactions has to look.

use crate::event::EventId;

/// The length of the range of ids in which the rows of certain transactions are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Span {
    /// The range is so short that it is read from one end to the other, in the order of ids.
    Short,
    /// The range may be the whole log: a transaction that was late when a gateway started may have written
    /// anywhere. Only the index on `xid` may be used then. The planner does not know that: it would walk
    /// through the ids, and expect the next row of the transactions soon.
    Long,
}

impl Span {
    /// The length of a short range. This many rows are read in some tens of milliseconds.
    const SHORT: i64 = 50_000;

    /// The span of the ids above `after` and up to `upto`.
    pub(crate) fn of((after, upto): (EventId, EventId)) -> Self {
        if upto.get() - after.get() <= Self::SHORT { Self::Short } else { Self::Long }
    }

    /// Adapts the query to this span.
    pub(super) fn query(self, query: &str) -> String {
        // There is no index on this sum.
        query.replace("PLACE", if self == Self::Short { "log.id" } else { "(log.id + 0)" })
    }

    /// The last id of a short span behind this id.
    pub(crate) fn short_end(after: EventId) -> EventId {
        EventId::new(after.get().saturating_add(Self::SHORT))
    }
}

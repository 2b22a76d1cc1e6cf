//! How far a query for certain transactions' rows has to look.

use futures::try_join;
use tokio_postgres::{Client, Statement};

use crate::event::EventId;

/// How much of the log lies between two ids among which some transactions' rows are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::postgres) enum Span {
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
    pub(in crate::postgres) fn of((after, upto): (EventId, EventId)) -> Self {
        if upto.get() - after.get() <= Self::SHORT { Self::Short } else { Self::Long }
    }

    /// The query, for a span like this.
    fn query(self, query: &str) -> String {
        // No index is on this sum.
        query.replace("PLACE", if self == Self::Short { "log.id" } else { "(log.id + 0)" })
    }
}

/// A query for spans of either kind.
#[derive(Debug)]
pub(super) struct Spanning {
    short: Statement,
    long: Statement,
}

impl Spanning {
    /// Prepares it for both. Where it says PLACE, it means the id.
    pub(super) async fn prepare(
        client: &Client,
        query: &str,
    ) -> Result<Self, tokio_postgres::Error> {
        let (short, long) = (Span::Short.query(query), Span::Long.query(query));
        let (short, long) = try_join!(client.prepare(&short), client.prepare(&long))?;
        Ok(Self { short, long })
    }

    /// The one for this span.
    pub(super) fn over(&self, range: (EventId, EventId)) -> &Statement {
        match Span::of(range) {
            Span::Short => &self.short,
            Span::Long => &self.long,
        }
    }
}

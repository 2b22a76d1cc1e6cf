//! Which ids a page of history covers.

use crate::event::{EventId, Logged};

/// Which ids a page of history covers, and where the next page ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    /// The page has every event that ever existed above this id and up to the end of the page.
    pub after: EventId,
    /// The greatest id of the next page; `None` if there is nothing more to load.
    pub next: Option<EventId>,
}

impl Reach {
    /// The reach of `rows`, which are in descending order and were read from `upto` downwards. `last_page`
    /// means that there was no row below them.
    ///
    /// `pruned` is the greatest id that was pruned. It must be queried after the rows were read, so that no
    /// pruned row that is missing among them is above it. A client that lacks pruned events must get a
    /// `$gap`, which only a replay from the table sends. The page therefore does not cover ids up to
    /// `pruned`.
    #[must_use]
    pub fn of<E: Logged>(rows: &[E], last_page: bool, upto: EventId, pruned: EventId) -> Self {
        let read = match rows.last() {
            Some(row) if !last_page => row.id().previous(),
            _ => EventId::ZERO,
        };
        Self { after: read.max(pruned).min(upto), next: (read > pruned).then_some(read) }
    }
}

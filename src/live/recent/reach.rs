//! How far back a page of history reaches.

use crate::event::{EventId, Logged};

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    /// All that there ever was above this id, up to the end of the page, is in the page.
    pub after: EventId,
    /// Where the next page ends, if there is more to load.
    pub next: Option<EventId>,
}

impl Reach {
    /// Of rows in descending order that were read from `upto` on; `last_page` says that no row
    /// stood before them.
    ///
    /// `pruned` is the greatest id that was pruned, asked after the rows were read: what is missing
    /// among them lies there. Clients that lack some of it have to be told, so they are left to the
    /// table.
    #[must_use]
    pub fn of<E: Logged>(rows: &[E], last_page: bool, upto: EventId, pruned: EventId) -> Self {
        let read = match rows.last() {
            Some(row) if !last_page => row.id().previous(),
            _ => EventId::ZERO,
        };
        Self { after: read.max(pruned).min(upto), next: (read > pruned).then_some(read) }
    }
}

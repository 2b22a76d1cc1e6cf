//! What a reader asks for.

use std::time::{Duration, Instant};

use super::late_reads::LateRange;
use crate::{
    event::{EventId, Logged, Xid},
    order::{Passed, Position},
};

/// The next thing to do. Where it names a method, the answer goes there.
#[derive(Debug)]
pub enum Step<E> {
    /// Take a snapshot of the log: [`snapshot`](super::Reader::snapshot).
    Snapshot,
    /// Ask for the greatest visible id: [`newest`](super::Reader::newest).
    Newest,
    /// Ask which transactions hold an id, or could draw one:
    /// [`writers`](super::Reader::writers).
    Writers,
    /// Ask which of these have ended: [`ended`](super::Reader::ended).
    Ended(Vec<Xid>),
    /// Read a page of rows: [`tail`](super::Reader::tail).
    Tail {
        /// Behind this id.
        after: EventId,
    },
    /// Read some rows of late transactions: [`late_rows`](super::Reader::late_rows).
    Late(LateRange),
    /// Look for rows at ids that were passed over: [`passed`](super::Reader::passed).
    Passed(Vec<Passed>),
    /// Look at what no bell announces: [`polled`](super::Reader::polled).
    Poll {
        /// Rows that were read: whether they are still there is asked, too.
        known: Vec<EventId>,
    },
    /// Let go of what is kept in memory of events that were changed. No answer.
    CheckErased,
    /// Try to become the keeper of the bell: [`kept`](super::Reader::kept).
    TryKeep,
    /// Try to take the bell: [`slept`](super::Reader::slept).
    TrySleep,
    /// Give the bell back. No answer.
    Wake,
    /// Wake the other readers. No answer.
    Ring,
    /// Begin here: all that is in memory is of another log. No answer.
    Restart {
        /// Where the reader is.
        position: Position,
        /// A snapshot that is older than anything that it will read.
        as_of: String,
        /// Whoever was there before goes on behind this id.
        origin: EventId,
    },
    /// Publish these rows and this position, in one piece. No answer.
    Publish(Publication<E>),
    /// A poll of the log is over. No answer.
    Looked,
    /// The log is another one, or an older one. No answer.
    Replaced {
        /// The greatest id that was passed.
        head: EventId,
        /// Up to here it is the same.
        origin: EventId,
    },
    /// The safety poll found events that no bell had announced. No answer.
    Unannounced,
    /// Wait this long, or for the bell: [`woken`](super::Reader::woken).
    Pause(Duration),
    /// Wait until then, or for the bell: [`woken`](super::Reader::woken).
    Listen(Instant),
}

/// Rows that may go to clients, and where the reader is after them.
#[derive(Debug)]
pub struct Publication<E> {
    /// The rows, in id order.
    pub rows: Vec<E>,
    /// Where the reader is after all of them.
    pub position: Position,
    /// Where they come from.
    pub origin: Origin,
}

/// Where rows come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// They were read behind the head.
    Tail,
    /// A late transaction wrote them.
    Late,
    /// They turned up where nothing could be any more.
    Found,
}

impl<E: Logged> Publication<E> {
    /// Where the reader is after this row.
    #[must_use]
    pub fn position_after(&self, row: &E) -> Position {
        match self.origin {
            Origin::Tail => Position { head: row.id(), late: self.position.late.clone() },
            Origin::Late | Origin::Found => self.position.clone(),
        }
    }
}

/// What the safety poll found.
#[derive(Clone, Debug)]
pub struct Polled {
    /// The last id that was drawn, where that can be known.
    pub drawn: Option<EventId>,
    /// Other readers are connected.
    pub others: bool,
    /// Of the rows that were asked about, those that are there, and whose they are.
    pub found: Vec<(EventId, Xid)>,
    /// Who rings has to wait.
    pub ringing_waits: bool,
}

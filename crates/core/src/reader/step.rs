//! The steps that a reader asks its driver to carry out.

use std::time::{Duration, Instant};

use super::late_reads::LateRange;
use crate::{
    event::{EventId, Logged, Xid},
    order::{Passed, Position},
};

/// The next thing to do. Where a step names a method, the answer goes to that method.
#[derive(Debug)]
pub enum Step<E> {
    /// Take a snapshot of the log. Answer: [`snapshot`](super::Reader::snapshot).
    Snapshot,
    /// Ask for the greatest visible id. Answer: [`newest`](super::Reader::newest).
    Newest,
    /// Ask which transactions hold an id, or could draw one. Answer: [`writers`](super::Reader::writers).
    Writers,
    /// Ask which of these transactions have ended. Answer: [`ended`](super::Reader::ended).
    Ended(Vec<Xid>),
    /// Read a page of rows. Answer: [`tail`](super::Reader::tail).
    Tail {
        /// Rows behind this id.
        after: EventId,
    },
    /// Read some rows of late transactions. Answer: [`late_rows`](super::Reader::late_rows).
    Late(LateRange),
    /// Look for rows at ids that were passed over. Answer: [`passed`](super::Reader::passed).
    Passed(Vec<Passed>),
    /// Run the safety poll, which finds what no ring announces. Answer:
    /// [`safety_polled`](super::Reader::safety_polled).
    SafetyPoll {
        /// Ids of rows that were read: the answer says which of them are still there.
        known: Vec<EventId>,
    },
    /// Evict events from memory that were changed in the table. No answer.
    CheckErased,
    /// Try to become the keeper of the bell. Answer: [`kept`](super::Reader::kept).
    TryKeep,
    /// Try to take the bell. Answer: [`slept`](super::Reader::slept).
    TrySleep,
    /// Give the bell back. No answer.
    Wake,
    /// Wake the other readers. No answer.
    Ring,
    /// Begin at this position: all events in memory are of another log. No answer.
    Restart {
        /// The reader's position.
        position: Position,
        /// A snapshot that is older than everything that will be read.
        as_of: String,
        /// Subscribers of the log before continue behind this id.
        origin: EventId,
    },
    /// Publish these rows and this position, atomically. No answer.
    Publish(Publication<E>),
    /// A poll of the log has ended. No answer.
    PollEnded,
    /// The log was replaced by another one, or by an older state of itself. No answer.
    Replaced {
        /// The greatest id that was passed.
        head: EventId,
        /// The id up to which both logs are the same.
        origin: EventId,
    },
    /// The safety poll found events that no ring had announced. No answer.
    Unannounced,
    /// Wait this long, or for a ring. Answer: [`woken`](super::Reader::woken).
    Pause(Duration),
    /// Wait until then, or for a ring. Answer: [`woken`](super::Reader::woken).
    Listen(Instant),
}

/// Rows that may go to subscribers, and the reader's position after them.
#[derive(Debug)]
pub struct Publication<E> {
    /// The rows, in id order.
    pub rows: Vec<E>,
    /// The position after all of them.
    pub position: Position,
    /// How the rows were found.
    pub origin: Origin,
}

/// How rows were found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// They were read behind the head.
    Tail,
    /// A late transaction wrote them.
    Late,
    /// They have ids that had been passed over as dead.
    Unexpected,
}

impl<E: Logged> Publication<E> {
    /// The reader's position after this row.
    #[must_use]
    pub fn position_after(&self, row: &E) -> Position {
        match self.origin {
            Origin::Tail => Position { head: row.id(), late: self.position.late.clone() },
            Origin::Late | Origin::Unexpected => self.position.clone(),
        }
    }
}

/// The answer to the safety poll.
#[derive(Clone, Debug)]
pub struct SafetyPollResult {
    /// The last id that was drawn. `None` where the role may not see the sequence.
    pub drawn: Option<EventId>,
    /// Whether other readers are connected.
    pub others: bool,
    /// Those of the known rows that are there, and the transactions that wrote them.
    pub found: Vec<(EventId, Xid)>,
    /// Whether some transaction that notifies has to wait for another one to commit.
    pub ringing_waits: bool,
}

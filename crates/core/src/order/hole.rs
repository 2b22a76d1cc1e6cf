//! A hole in the ids, and how long it is waited for.

use std::time::{Duration, Instant};

use super::late::Late;
use crate::event::{EventId, Xid};

/// How long a hole in the ids may hold back the events behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// At most this long. A transaction that is still open then is *late*, and its events follow.
    For(Duration),
    /// Until the transaction has ended: strict id order.
    Unlimited,
}

impl Hold {
    fn has_run_out(self, held: Duration) -> bool {
        self.left(held).is_zero()
    }

    /// The time that is left of the hold after this time.
    pub(super) fn left(self, held: Duration) -> Duration {
        match self {
            Self::For(limit) => limit.saturating_sub(held),
            Self::Unlimited => Duration::MAX,
        }
    }
}

/// Ids that are missing up to `upto`, and the transactions that may still fill them.
#[derive(Clone, Debug)]
pub struct Hole {
    /// None of the open transactions has an id at or before this.
    pub after: EventId,
    /// The greatest id that was visible when the hole was found.
    pub upto: EventId,
    /// The transactions that held an id, or could draw one, at that time, and have not ended since.
    pub open: Vec<Xid>,
    /// When the hole was found.
    pub since: Instant,
}

impl Hole {
    /// Whether the wait is over: no transaction is left to wait for; or the hold has run out, and there is
    /// room to remember the transactions that are left as late.
    pub(super) fn settles(&self, hold: Hold, late: &Late, max_late: usize, now: Instant) -> bool {
        let held = now.saturating_duration_since(self.since);
        let fits = late.len() + self.open.len() <= max_late;
        self.open.is_empty() || (hold.has_run_out(held) && fits)
    }
}

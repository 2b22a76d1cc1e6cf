//! What a reader does at a hole: it asks which transactions may fill it, and what becomes visible behind it
//! in the meantime.

use std::time::Instant;

use super::state::{At, PollOutcome, Reader};
use crate::event::{EventId, Logged};

impl<E: Logged> Reader<E> {
    /// Asks which transactions may fill a new hole. While many writers are active, most holes fill by
    /// themselves within a moment, and the question takes every partition of the lock table, which those same
    /// writers need. So a busy reader asks only when the hole is still there at the next poll.
    pub(super) fn check_new_hole(&mut self, upto: EventId, last_page: bool) {
        let head = self.order().position().head;
        if self.policy.holes_fill_quickly() && self.deferred_hole.replace(head) != Some(head) {
            self.outcome = PollOutcome::Held;
            self.check_late();
        } else if last_page {
            self.at = At::HoleWriters { upto };
        } else {
            self.at = At::HoleEnd { upto };
        }
    }

    /// Nothing has changed at the hole. What becomes visible behind it meanwhile is not read yet, but waits
    /// from now on, and other readers have to hear of it.
    pub(super) fn wait_at_hole(&mut self, now: Instant) {
        let since =
            self.order().hole().map_or(now, |hole| hole.since).max(self.checked_behind_hole);
        if now.saturating_duration_since(since) < self.order().looks_behind_hole_after() {
            return self.check_late();
        }
        self.checked_behind_hole = now;
        self.at = At::BehindHole;
    }

    pub(super) fn behind_hole(&mut self, newest: EventId, now: Instant) {
        if newest > self.seen {
            self.seen = newest;
            self.news(now);
        }
        if self.order().wants_behind_hole(newest) {
            self.at = At::BehindHoleWriters { upto: newest };
        } else {
            self.check_late();
        }
    }
}

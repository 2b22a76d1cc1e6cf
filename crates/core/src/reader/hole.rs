//! What a reader does at a hole: asks who may fill it, and meanwhile what becomes visible behind it.

use std::time::Instant;

use super::state::{At, Look, Reader};
use crate::event::{EventId, Logged};

impl<E: Logged> Reader<E> {
    /// With many writers at it, most holes fill by themselves within a moment. To ask who writes
    /// takes every partition of the lock table, which those very writers need, so a hole is
    /// looked at twice before that is asked.
    pub(super) fn doubt(&mut self, upto: EventId, last_page: bool) {
        let head = self.order().position().head;
        if self.vigil.patient() && self.patient_at.replace(head) != Some(head) {
            self.look = Look::Held;
            self.look_at_late();
        } else if last_page {
            self.at = At::HoleWriters { upto };
        } else {
            self.at = At::HoleEnd { upto };
        }
    }

    /// Nothing has changed at the hole. What becomes visible behind it meanwhile is not read yet, but waits
    /// from now on, and other readers have to hear of it.
    pub(super) fn wait_at_hole(&mut self, now: Instant) {
        let since = self.order().hole().map_or(now, |hole| hole.since).max(self.looked_behind_hole);
        if now.saturating_duration_since(since) < self.order().looks_behind_hole_after() {
            return self.look_at_late();
        }
        self.looked_behind_hole = now;
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
            self.look_at_late();
        }
    }
}

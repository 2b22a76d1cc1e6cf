//! When to look at the log next, and what the safety poll looks at.

use std::time::{Duration, Instant};

use super::{
    auditor,
    late_reads::LateReads,
    state::{At, Look, Reader, Woken},
    step::{Origin, Polled, Publication, Step},
    vigil::{Wait, growing_pause},
};
use crate::{event::Logged, order::Order};

/// The safety poll finds what no bell announced, and proves that the connection lives.
const SAFETY_POLL: Duration = Duration::from_secs(1);

impl<E: Logged> Reader<E> {
    /// What the safety poll found.
    pub fn polled(&mut self, polled: &Polled, now: Instant) {
        self.next_poll = now + SAFETY_POLL;
        self.others = polled.others;
        if polled.ringing_waits {
            // Writers that ring wait, too. While it is awake they need not.
            self.vigil.unannounced(now);
            self.wake_up();
        }
        let head = self.order().position().head;
        let behind = polled.drawn.is_some_and(|drawn| drawn < head);
        if self.anchors.compare(&polled.found) || behind {
            self.origin = self.anchors.keep(&polled.found);
            self.steps.push_back(Step::Replaced { head, origin: self.origin });
            self.auditor.forget();
            self.late_reads = LateReads::default();
            // On the next connection, too, it starts again: nothing else would tell it then.
            self.order = None;
            self.at = At::Snapshot;
        } else if self.vigil.keeper {
            self.check_memory(now);
        } else {
            self.at = At::Keep;
        }
    }

    /// Whether it keeps the bell now.
    pub fn kept(&mut self, keeper: bool, now: Instant) {
        self.vigil.keeper = keeper;
        self.check_memory(now);
    }

    fn check_memory(&mut self, now: Instant) {
        self.steps.push_back(Step::CheckErased);
        let due = self.auditor.take_due(now);
        if due.is_empty() { self.begin_look() } else { self.at = At::Audit(due) }
    }

    /// The rows that stand where ids had been passed over. Those that cannot be there go to
    /// everybody who is live.
    pub fn passed(&mut self, rows: Vec<E>) {
        if let At::Audit(due) = &self.at {
            let rows = auditor::surprises(due, rows);
            if !rows.is_empty() {
                let (position, origin) = (self.order().position().clone(), Origin::Found);
                self.steps.push_back(Step::Publish(Publication { rows, position, origin }));
            }
        }
        self.begin_look();
    }

    /// A poll of the log is over: decides how to wait for the next one.
    pub(super) fn rest(&mut self, now: Instant) {
        self.steps.push_back(Step::Looked);
        if self.woken == Woken::SafetyPoll && self.seen > self.seen_before {
            self.at = At::Unannounced;
        } else {
            self.wait(now);
        }
    }

    fn wait(&mut self, now: Instant) {
        self.woken = Woken::Itself;
        self.at = match self.look_came_to() {
            Look::More => At::Top,
            Look::Held => At::Pause(self.held_pause(now)),
            Look::Whole => match self.vigil.wait(now) {
                Wait::Look(pause) => At::Pause(pause),
                Wait::Listen => At::Listen,
                Wait::FallAsleep => At::FallAsleep,
            },
        };
    }

    /// How long to wait at a hole. Where it can last, because the hold is unlimited or too many
    /// transactions are late, the pauses grow.
    fn held_pause(&self, now: Instant) -> Duration {
        let restless = self.vigil.restless(now);
        let Some(hole) = self.order().hole() else { return restless };
        let grown = growing_pause(now.saturating_duration_since(hole.since)).max(restless);
        match self.order.as_ref().map_or(Duration::ZERO, |order| Order::hold_left(order, now)) {
            Duration::ZERO => grown,
            left => grown.min(left),
        }
    }

    /// Whether the bell was taken.
    pub fn slept(&mut self, asleep: bool, now: Instant) {
        self.vigil.sleep(asleep);
        self.at = if asleep { At::Top } else { At::Pause(self.vigil.restless(now)) };
    }

    /// The bell rang before the rows are read that the reader asks for now: whatever they are,
    /// they were announced.
    pub fn rang(&mut self) {
        if self.woken == Woken::SafetyPoll {
            self.woken = Woken::Bell;
        }
    }

    /// A wait is over; `heard` says that the bell ended it.
    pub fn woken(&mut self, heard: bool, now: Instant) {
        if heard {
            self.vigil.news(now);
        }
        match std::mem::replace(&mut self.at, At::Top) {
            At::StartPause { as_of, start, .. } => self.at = At::Starting { as_of, start },
            At::Unannounced if !heard => {
                // Nobody announces anything: it looks for itself for a while.
                self.steps.push_back(Step::Unannounced);
                self.vigil.unannounced(now);
                self.wake_up();
                self.wait(now);
            }
            // What rings behind a safety poll may be what the poll found, or something newer.
            At::Pause(_) | At::Listen | At::Unannounced if heard => {
                self.woken = Woken::Bell;
                if self.vigil.bell(now) {
                    self.wake_up();
                }
            }
            At::Listen => self.woken = Woken::SafetyPoll,
            At::Pause(_) => {}
            at => self.at = at,
        }
    }

    fn wake_up(&mut self) {
        if self.vigil.is_asleep() {
            self.vigil.sleep(false);
            self.steps.push_back(Step::Wake);
        }
    }
}

//! Decides when to poll the log next, and handles the answers to the safety poll.

use std::time::{Duration, Instant};

use super::{
    auditor,
    late_reads::LateReads,
    poll_policy::{Wait, growing_pause},
    state::{At, PollOutcome, Reader, WakeReason},
    step::{Origin, Publication, SafetyPollResult, Step},
};
use crate::{event::Logged, order::Order};

/// How often the safety poll runs. It finds what no ring announced, and proves that the connection is alive.
const SAFETY_POLL: Duration = Duration::from_secs(1);

impl<E: Logged> Reader<E> {
    /// Answers [`Step::SafetyPoll`]: what the safety poll found.
    pub fn safety_polled(&mut self, polled: &SafetyPollResult, now: Instant) {
        self.next_safety_poll = now + SAFETY_POLL;
        self.other_readers = polled.others;
        if polled.ringing_waits {
            // Writers that ring have to wait. While this reader is awake, they need not ring.
            self.policy.record_unannounced(now);
            self.wake_up();
        }
        let head = self.order().position().head;
        let behind = polled.drawn.is_some_and(|drawn| drawn < head);
        if self.anchors.compare(&polled.found) || behind {
            self.origin = self.anchors.keep(&polled.found);
            self.steps.push_back(Step::Replaced { head, origin: self.origin });
            self.auditor.forget();
            self.late_reads = LateReads::default();
            // If the connection is lost now, the reader starts again on the next one: nothing else would show
            // there that the log was replaced.
            self.order = None;
            self.at = At::Snapshot;
        } else if self.policy.keeper {
            self.check_memory(now);
        } else {
            self.at = At::Keep;
        }
    }

    /// Answers [`Step::TryKeep`]: whether this reader is the keeper of the bell now.
    pub fn kept(&mut self, keeper: bool, now: Instant) {
        self.policy.keeper = keeper;
        self.check_memory(now);
    }

    fn check_memory(&mut self, now: Instant) {
        self.steps.push_back(Step::CheckErased);
        let due = self.auditor.take_due(now);
        if due.is_empty() { self.begin_poll() } else { self.at = At::Audit(due) }
    }

    /// Answers [`Step::Passed`]: the rows with ids that had been passed over as dead. Unexpected ones are
    /// published to live subscribers.
    pub fn passed(&mut self, rows: Vec<E>) {
        if let At::Audit(due) = &self.at {
            let rows = auditor::unexpected_rows(due, rows);
            if !rows.is_empty() {
                let (position, origin) = (self.order().position().clone(), Origin::Unexpected);
                self.steps.push_back(Step::Publish(Publication { rows, position, origin }));
            }
        }
        self.begin_poll();
    }

    /// Ends a poll of the log, and decides how to wait for the next one.
    pub(super) fn rest(&mut self, now: Instant) {
        self.steps.push_back(Step::PollEnded);
        if self.wake_reason == WakeReason::SafetyPoll && self.seen > self.seen_before {
            self.at = At::Unannounced;
        } else {
            self.wait(now);
        }
    }

    fn wait(&mut self, now: Instant) {
        self.wake_reason = WakeReason::Timer;
        self.at = match self.poll_outcome() {
            PollOutcome::More => At::Top,
            PollOutcome::Held => At::Pause(self.held_pause(now)),
            PollOutcome::CaughtUp => match self.policy.wait(now) {
                Wait::PollAfter(pause) => At::Pause(pause),
                Wait::Listen => At::Listen,
                Wait::FallAsleep => At::FallAsleep,
            },
        };
    }

    /// How long to wait at a hole. The pauses grow where the wait can be long, because the hold is unlimited
    /// or too many transactions are late.
    fn held_pause(&self, now: Instant) -> Duration {
        let poll_interval = self.policy.poll_interval(now);
        let Some(hole) = self.order().hole() else { return poll_interval };
        let grown = growing_pause(now.saturating_duration_since(hole.since)).max(poll_interval);
        match self.order.as_ref().map_or(Duration::ZERO, |order| Order::hold_left(order, now)) {
            Duration::ZERO => grown,
            left => grown.min(left),
        }
    }

    /// Answers [`Step::TrySleep`]: whether the bell was taken.
    pub fn slept(&mut self, asleep: bool, now: Instant) {
        self.policy.set_asleep(asleep);
        self.at = if asleep { At::Top } else { At::Pause(self.policy.poll_interval(now)) };
    }

    /// Reports a ring that was heard before the rows are read that the reader is asking for: whatever these
    /// rows are, they were announced.
    pub fn rang(&mut self) {
        if self.wake_reason == WakeReason::SafetyPoll {
            self.wake_reason = WakeReason::Bell;
        }
    }

    /// Answers [`Step::Pause`] and [`Step::Listen`]: the wait is over. `heard` says that a ring ended it.
    pub fn woken(&mut self, heard: bool, now: Instant) {
        if heard {
            self.policy.record_news(now);
        }
        match std::mem::replace(&mut self.at, At::Top) {
            At::StartPause { as_of, start, .. } => self.at = At::Starting { as_of, start },
            At::Unannounced if !heard => {
                // No writer rings: this reader polls by itself for a while.
                self.steps.push_back(Step::Unannounced);
                self.policy.record_unannounced(now);
                self.wake_up();
                self.wait(now);
            }
            // A ring that follows a safety poll may be for what the poll found, or for something newer.
            At::Pause(_) | At::Listen | At::Unannounced if heard => {
                self.wake_reason = WakeReason::Bell;
                if self.policy.bell_rang(now) {
                    self.wake_up();
                }
            }
            At::Listen => self.wake_reason = WakeReason::SafetyPoll,
            At::Pause(_) => {}
            at => self.at = at,
        }
    }

    fn wake_up(&mut self) {
        if self.policy.is_asleep() {
            self.policy.set_asleep(false);
            self.steps.push_back(Step::Wake);
        }
    }
}

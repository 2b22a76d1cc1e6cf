//! Decides what a reader of the log does next. No other place decides it.
//!
//! A [`Reader`] has no I/O and no clock. [`Reader::next`] returns the next [`Step`]: a question for the
//! database, rows to publish, or a time to wait. The driver carries the step out, passes the answer to the
//! method that the step names, and decides nothing itself. So the same reader follows a PostgreSQL log in
//! `tail`, and a simulated one in the tests.
//!
//! A reader outlives its connections. When a connection is lost, what the reader has decided to publish is
//! published all the same; every question is asked again on the next connection.

mod anchors;
mod auditor;
mod hole;
mod late_reads;
mod late_rows;
mod poll_policy;
mod polling;
mod state;
mod step;

use std::{mem, time::Instant};

pub use self::{
    late_reads::LateRange,
    state::Reader,
    step::{Origin, Publication, SafetyPollResult, Step},
};
use self::{
    poll_policy::{BELL_ON_ITS_WAY, growing_pause},
    state::{At, PollOutcome},
};
use crate::{
    event::{EventId, Logged, Xid},
    order::{Advance, Start},
};

impl<E: Logged> Reader<E> {
    /// Returns what to do now.
    pub fn next(&mut self, now: Instant) -> Step<E> {
        loop {
            if let Some(step) = self.steps.pop_front() {
                return step;
            }
            if let Some(step) = self.ask() {
                return step;
            }
            self.proceed(now);
        }
    }

    /// The question or the wait that the current state needs, if any.
    fn ask(&self) -> Option<Step<E>> {
        Some(match &self.at {
            At::Snapshot => Step::Snapshot,
            At::Newest { .. } | At::HoleEnd { .. } | At::BehindHole => Step::Newest,
            At::FirstWriters { .. } | At::HoleWriters { .. } | At::BehindHoleWriters { .. } => {
                Step::Writers
            }
            At::Starting { start, .. } => Step::Ended(start.hole().open.clone()),
            At::StartPause { pause, .. } | At::Pause(pause) => Step::Pause(*pause),
            At::SafetyPoll => {
                Step::SafetyPoll { known: self.anchors.ids(self.order().position().head) }
            }
            At::Keep => Step::TryKeep,
            At::Audit(passed) => Step::Passed(passed.clone()),
            At::Hole | At::NewHole => Step::Ended(self.order().hole()?.open.clone()),
            At::Tail => Step::Tail { after: self.order().position().head },
            At::Late => Step::Ended(self.late_reads.open(&self.order().position().late)),
            At::LateRows(range) => Step::Late(range.clone()),
            At::Unannounced => Step::Pause(BELL_ON_ITS_WAY),
            At::FallAsleep => Step::TrySleep,
            At::Listen => Step::Listen(self.next_safety_poll),
            At::Top | At::Rest => return None,
        })
    }

    /// Moves on from a state that needs no answer.
    fn proceed(&mut self, now: Instant) {
        match self.at {
            At::Top if now >= self.next_safety_poll => self.at = At::SafetyPoll,
            At::Top => self.begin_poll(),
            _ => self.rest(now),
        }
    }

    // Starting.

    /// Answers [`Step::Snapshot`]: nothing that this snapshot of the log does not see has been read.
    pub fn snapshot(&mut self, as_of: String) {
        self.at = At::Newest { as_of };
    }

    /// Answers [`Step::Newest`]: the greatest visible id.
    pub fn newest(&mut self, newest: EventId, now: Instant) {
        self.at = match mem::replace(&mut self.at, At::Top) {
            At::Newest { as_of } => At::FirstWriters { as_of, head: newest },
            // All that is visible by now waits for the same writers, and only once.
            At::HoleEnd { upto } => At::HoleWriters { upto: upto.max(newest) },
            At::BehindHole => return self.behind_hole(newest, now),
            at => at,
        };
    }

    /// Answers [`Step::Writers`]: the transactions that hold an id, or could draw one.
    pub fn writers(&mut self, writers: Vec<Xid>, now: Instant) {
        match mem::replace(&mut self.at, At::Top) {
            At::FirstWriters { as_of, head } => {
                let start = Start::after(head, writers, self.hold, now);
                self.at = At::Starting { as_of, start };
                self.skip_if_none_open(now);
            }
            At::HoleWriters { upto } => {
                self.order_mut().found_hole(upto, writers, now);
                self.at = At::NewHole;
                self.skip_if_none_open(now);
            }
            At::BehindHoleWriters { upto } => {
                self.order_mut().found_behind_hole(upto, writers, now);
                self.check_late();
            }
            at => self.at = at,
        }
    }

    /// Answers [`Step::Ended`]: which of the transactions are no longer in progress. What they wrote is
    /// visible.
    pub fn ended(&mut self, ended: &[Xid], now: Instant) {
        let still = |open: &[Xid]| -> Vec<Xid> {
            open.iter().copied().filter(|xid| !ended.contains(xid)).collect()
        };
        match mem::replace(&mut self.at, At::Top) {
            At::Starting { as_of, start } => {
                let open = still(&start.hole().open);
                self.start(as_of, start, open, now);
            }
            At::Hole => {
                let waited_for = self.order().hole().map_or(&[][..], |hole| &hole.open);
                let (before, open) = (waited_for.len(), still(waited_for));
                let some_ended = open.len() < before;
                let settled = self.order_mut().settle(open, now);
                // If neither is the case, a read would find nothing that may be passed.
                if settled || some_ended {
                    self.awaited_ended |= some_ended;
                    self.at = At::Tail;
                } else {
                    self.wait_at_hole(now);
                }
            }
            At::NewHole => {
                let open = self.order().hole().map_or(Vec::new(), |hole| still(&hole.open));
                // Most holes are a rollback's, or were filled meanwhile: no transaction is waited for.
                if self.order_mut().settle(open, now) {
                    self.outcome = PollOutcome::More;
                    self.check_late();
                } else {
                    // A transaction that filled the hole after the page was read is not waited for: its rows
                    // are read now.
                    self.at = At::Tail;
                }
            }
            At::Late => {
                let late = self.order().position().late.clone();
                self.may_move |= self.late_reads.begin(&late, ended);
                self.read_late();
            }
            at => self.at = at,
        }
    }

    /// Where no transaction is waited for, there is no need to ask which ones have ended.
    fn skip_if_none_open(&mut self, now: Instant) {
        if self.waits_for().is_some_and(|hole| hole.open.is_empty()) {
            self.ended(&[], now);
        }
    }

    fn start(&mut self, as_of: String, mut start: Start, open: Vec<Xid>, now: Instant) {
        let Some(order) = start.settle(open, now) else {
            let pause = growing_pause(now - start.hole().since);
            self.at = At::StartPause { as_of, start, pause };
            return;
        };
        let position = order.position().clone();
        self.seen = position.head;
        self.order = Some(order);
        self.steps.push_back(Step::Restart { position, as_of, origin: self.origin });
        self.at = At::Top;
    }

    // Polling.

    fn begin_poll(&mut self) {
        self.outcome = PollOutcome::CaughtUp;
        self.seen_before = self.seen;
        // At a hole, a read finds something to pass only when one of the transactions that may fill it has
        // ended.
        let may_move = mem::take(&mut self.may_move);
        self.at = if self.order().hole().is_some() && !may_move { At::Hole } else { At::Tail };
    }

    /// Answers [`Step::Tail`]: the rows behind the head, in id order. `last_page` says that there was no row
    /// behind them.
    pub fn tail(&mut self, rows: Vec<E>, last_page: bool, now: Instant) {
        self.policy.record_rows(rows.len(), now);
        self.outcome = if last_page { PollOutcome::CaughtUp } else { PollOutcome::More };
        let last = rows.last().map(Logged::id);
        if let Some(row) = rows.last() {
            self.anchors.remember(row);
        }
        let advance = self.advance(rows, last_page, now);
        self.may_move |= advance == Advance::All && !last_page;
        let newest = last.map_or(self.seen, |last| last.max(self.seen));
        if mem::take(&mut self.awaited_ended) || newest > self.seen {
            self.seen = newest;
            self.news(now);
        }
        match advance {
            Advance::Hole { upto } if self.order().hole().is_none() => {
                self.check_new_hole(upto, last_page);
            }
            _ => self.check_late(),
        }
    }

    /// Publishes those rows of a page that may go. The position is published even if no row may go, because
    /// clients' cursors follow the head.
    fn advance(&mut self, rows: Vec<E>, last_page: bool, now: Instant) -> Advance {
        let order = self.order.as_mut().expect("the reader has started");
        let before = order.position().head;
        let (rows, advance) = order.advance(rows, last_page);
        if order.position().head > before {
            let (position, origin) = (order.position().clone(), Origin::Tail);
            self.auditor.remember(order.take_passed(), now);
            self.steps.push_back(Step::Publish(Publication { rows, position, origin }));
        }
        advance
    }

    /// Records that something new was seen, and wakes the other readers if this one is the keeper.
    fn news(&mut self, now: Instant) {
        self.policy.record_news(now);
        if self.policy.keeper && self.other_readers {
            self.steps.push_back(Step::Ring);
        }
    }
}

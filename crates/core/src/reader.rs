//! What a reader of the log does next: the one place that decides it.
//!
//! A [`Reader`] has no I/O and no clock. [`Reader::next`] answers the next [`Step`]: a question
//! for the database, rows to publish, a time to wait. Whoever drives it carries that out, and
//! gives the answer to the method of the same name. The driver decides nothing; so the same
//! reader follows a PostgreSQL log in `tail`, and a simulated one in tests.
//!
//! A reader outlives its connections. What it has decided to publish is published even when the
//! connection is lost; every question is asked again on the next one.

mod anchors;
mod auditor;
mod hole;
mod late_reads;
mod late_rows;
mod polling;
mod state;
mod step;
mod vigil;

use std::{mem, time::Instant};

pub use self::{
    late_reads::LateRange,
    state::Reader,
    step::{Origin, Polled, Publication, Step},
};
use self::{
    state::{At, Look},
    vigil::{BELL_ON_ITS_WAY, growing_pause},
};
use crate::{
    event::{EventId, Logged, Xid},
    order::{Advance, Start},
};

impl<E: Logged> Reader<E> {
    /// What to do now.
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

    /// What has to be asked or waited for here, if anything.
    fn ask(&self) -> Option<Step<E>> {
        Some(match &self.at {
            At::Snapshot => Step::Snapshot,
            At::Newest { .. } | At::HoleEnd { .. } | At::BehindHole => Step::Newest,
            At::FirstWriters { .. } | At::HoleWriters { .. } | At::BehindHoleWriters { .. } => {
                Step::Writers
            }
            At::Starting { start, .. } => Step::Ended(start.hole().open.clone()),
            At::StartPause { pause, .. } | At::Pause(pause) => Step::Pause(*pause),
            At::Poll => Step::Poll { known: self.anchors.ids(self.order().position().head) },
            At::Keep => Step::TryKeep,
            At::Audit(passed) => Step::Passed(passed.clone()),
            At::Hole | At::NewHole => Step::Ended(self.order().hole()?.open.clone()),
            At::Tail => Step::Tail { after: self.order().position().head },
            At::Late => Step::Ended(self.late_reads.open(&self.order().position().late)),
            At::LateRows(range) => Step::Late(range.clone()),
            At::Unannounced => Step::Pause(BELL_ON_ITS_WAY),
            At::FallAsleep => Step::TrySleep,
            At::Listen => Step::Listen(self.next_poll),
            At::Top | At::Rest => return None,
        })
    }

    /// Goes on where nothing has to be asked.
    fn proceed(&mut self, now: Instant) {
        match self.at {
            At::Top if now >= self.next_poll => self.at = At::Poll,
            At::Top => self.begin_look(),
            _ => self.rest(now),
        }
    }

    // Starting.

    /// Behind this snapshot of the log, nothing has been read.
    pub fn snapshot(&mut self, as_of: String) {
        self.at = At::Newest { as_of };
    }

    /// The greatest visible id.
    pub fn newest(&mut self, newest: EventId, now: Instant) {
        self.at = match mem::replace(&mut self.at, At::Top) {
            At::Newest { as_of } => At::FirstWriters { as_of, head: newest },
            // All that is visible by now waits for the same writers, and for them only once.
            At::HoleEnd { upto } => At::HoleWriters { upto: upto.max(newest) },
            At::BehindHole => return self.behind_hole(newest, now),
            at => at,
        };
    }

    /// The transactions that hold an id, or could draw one.
    pub fn writers(&mut self, writers: Vec<Xid>, now: Instant) {
        match mem::replace(&mut self.at, At::Top) {
            At::FirstWriters { as_of, head } => {
                let start = Start::after(head, writers, self.hold, now);
                self.at = At::Starting { as_of, start };
                self.skip_if_nobody(now);
            }
            At::HoleWriters { upto } => {
                self.order_mut().found_hole(upto, writers, now);
                self.at = At::NewHole;
                self.skip_if_nobody(now);
            }
            At::BehindHoleWriters { upto } => {
                self.order_mut().found_behind_hole(upto, writers, now);
                self.look_at_late();
            }
            at => self.at = at,
        }
    }

    /// Which of those that were asked about are in progress no more; what they wrote is visible.
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
                // Without either, a read could find nothing that may be passed.
                if settled || some_ended {
                    self.awaited_ended |= some_ended;
                    self.at = At::Tail;
                } else {
                    self.wait_at_hole(now);
                }
            }
            At::NewHole => {
                let open = self.order().hole().map_or(Vec::new(), |hole| still(&hole.open));
                // Most holes are a rollback's, or were filled meanwhile: nobody is waited for.
                if self.order_mut().settle(open, now) {
                    self.look = Look::More;
                    self.look_at_late();
                } else {
                    // Whoever filled the hole between the page and this is not waited for: what
                    // it wrote is read now.
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

    /// Who waits for nobody need not ask which of them have ended.
    fn skip_if_nobody(&mut self, now: Instant) {
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

    // A poll of the log.

    fn begin_look(&mut self) {
        self.look = Look::Whole;
        self.seen_before = self.seen;
        // At a hole a read can find something to pass only when one of those who may fill it
        // has ended.
        let may_move = mem::take(&mut self.may_move);
        self.at = if self.order().hole().is_some() && !may_move { At::Hole } else { At::Tail };
    }

    /// The rows behind the head, in id order; `last_page` says that no row stood behind them.
    pub fn tail(&mut self, rows: Vec<E>, last_page: bool, now: Instant) {
        self.vigil.rows(rows.len(), now);
        self.look = if last_page { Look::Whole } else { Look::More };
        let last = rows.last().map(Logged::id);
        if let Some(row) = rows.last() {
            self.anchors.remember(row);
        }
        let advance = self.advance(rows, last_page, now);
        self.may_move |= advance == Advance::Whole && !last_page;
        let newest = last.map_or(self.seen, |last| last.max(self.seen));
        if mem::take(&mut self.awaited_ended) || newest > self.seen {
            self.seen = newest;
            self.news(now);
        }
        match advance {
            Advance::Hole { upto } if self.order().hole().is_none() => {
                self.doubt(upto, last_page);
            }
            _ => self.look_at_late(),
        }
    }

    /// Publishes what may go of a page. That is due even if no row of it may: clients' cursors
    /// follow the head.
    fn advance(&mut self, rows: Vec<E>, last_page: bool, now: Instant) -> Advance {
        let order = self.order.as_mut().expect("it has started");
        let before = order.position().head;
        let (rows, advance) = order.advance(rows, last_page);
        if order.position().head > before {
            let (position, origin) = (order.position().clone(), Origin::Tail);
            self.auditor.remember(order.take_passed(), now);
            self.steps.push_back(Step::Publish(Publication { rows, position, origin }));
        }
        advance
    }

    /// Something new was seen, and other readers have to hear of it.
    fn news(&mut self, now: Instant) {
        self.vigil.news(now);
        if self.vigil.keeper && self.others {
            self.steps.push_back(Step::Ring);
        }
    }
}

//! What follows what: which rows of the log may be delivered now, and in what order.
//!
//! A sequence hands out ids before COMMIT, so an id that is missing may be a rollback's, or
//! belong to a transaction that is still open. [`Order`] delivers while ids are contiguous;
//! at a hole it asks who may still fill it, waits for those at most the [`Hold`], and passes
//! over what is still open then: that transaction is [`Late`], and its events follow when it
//! ends. It is told what was read, when, and which transactions are open; it never asks.
//!
//! The one rule that everything hangs on: *locks first, then a fresh read*. A transaction
//! releases its locks only after its rows are visible, so rows that are read after the locks
//! were seen released contain all that it wrote.

mod late;

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

pub use late::{Late, LateTransaction};

use crate::event::{EventId, Logged, Xid};

/// How long a hole in the ids may hold back the events behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// At most this long; then the open transaction is *late*, and its events follow.
    For(Duration),
    /// Until the transaction ends: strict id order.
    Unlimited,
}

impl Hold {
    fn has_run_out(self, held: Duration) -> bool {
        self.left(held).is_zero()
    }

    /// How much longer it may hold what was held so long.
    fn left(self, held: Duration) -> Duration {
        match self {
            Self::For(limit) => limit.saturating_sub(held),
            Self::Unlimited => Duration::MAX,
        }
    }
}

/// Where a reader is in the log: everything up to `head` is delivered, dead, or belongs to
/// a late transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// The greatest id that was passed.
    pub head: EventId,
    /// The open transactions that were passed over.
    pub late: Late,
}

impl Position {
    /// Nothing at or before this can appear any more: what is there now is all there will
    /// ever be. Readers that want strict order go no further.
    #[must_use]
    pub fn horizon(&self) -> EventId {
        let late = self.late.as_slice().iter().map(|late| late.since);
        late.min().map_or(self.head, |since| since.min(self.head))
    }
}

/// The reader's state. Feed it pages of rows ([`advance`](Self::advance)); while it has a
/// hole, say who can fill it ([`found_hole`](Self::found_hole)) and who of those is still
/// open ([`settle`](Self::settle)); tell it when a late transaction has ended
/// ([`ended`](Self::ended)).
#[derive(Debug)]
pub struct Order {
    hold: Hold,
    position: Position,
    /// Nothing up to here can still appear, save by late transactions.
    settled: EventId,
    hole: Option<Hole>,
    /// What became visible behind the hole while that was waited for, oldest first: each waits for the
    /// transactions that were open then, from that time on. So nothing waits for two holds.
    next_holes: VecDeque<Hole>,
    passed: VecDeque<Passed>,
}

/// Ids that are missing up to `upto`, and the transactions that may still fill them.
#[derive(Clone, Debug)]
pub struct Hole {
    /// None of the open transactions has an id at or before this.
    pub after: EventId,
    /// The greatest id that was visible when the hole was found.
    pub upto: EventId,
    /// Those that held an id, or could draw one, at that time, and have not ended since.
    pub open: Vec<Xid>,
    /// When it was found.
    pub since: Instant,
}

impl Hole {
    /// Whether the wait is over: nobody is left to wait for, or the hold has run out and
    /// those who are left can all be remembered as late.
    fn settles(&self, hold: Hold, late: &Late, most: usize, now: Instant) -> bool {
        let held = now.saturating_duration_since(self.since);
        let fits = late.len() + self.open.len() <= most;
        self.open.is_empty() || (hold.has_run_out(held) && fits)
    }
}

/// A reader that is about to start after all that is visible. It waits for the writers
/// that it finds, as at a hole, so that only those are late that really are slow.
#[derive(Debug)]
pub struct Start {
    hold: Hold,
    hole: Hole,
}

impl Start {
    /// Begins after `head`, the greatest visible id; `writers` are the transactions that
    /// held an id, or could draw one, after that was read.
    #[must_use]
    pub fn after(head: EventId, writers: Vec<Xid>, hold: Hold, now: Instant) -> Self {
        // Nothing is known of the ids before the head: a writer's may be anywhere.
        let hole = Hole { after: EventId::ZERO, upto: head, open: writers, since: now };
        Self { hold, hole }
    }

    /// Who is waited for.
    #[must_use]
    pub fn hole(&self) -> &Hole {
        &self.hole
    }

    /// Says which of the writers are `still_open`; answers the reader once it may start.
    pub fn settle(&mut self, still_open: Vec<Xid>, now: Instant) -> Option<Order> {
        self.hole.open = still_open;
        let none = Late::default();
        self.hole.settles(self.hold, &none, Late::MOST_AT_START, now).then(|| {
            let late = none.with(&self.hole.open, self.hole.after);
            Order::new(Position { head: self.hole.upto, late }, self.hold)
        })
    }
}

/// Ids that were passed over as dead: an auditor looks at them again, later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passed {
    /// The first missing id.
    pub from: EventId,
    /// The last missing id.
    pub to: EventId,
    /// The late transactions that some of them may belong to.
    pub late: Late,
}

impl Passed {
    /// Whether this row may well turn up here: its transaction was late, and known to be.
    #[must_use]
    pub fn expects(&self, row: &impl Logged) -> bool {
        (self.from..=self.to).contains(&row.id()) && self.late.has(row)
    }
}

/// What became of a page of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advance {
    /// All of it was passed.
    Whole,
    /// A hole stands before the rest. `upto` is the last id of the page.
    Hole {
        /// The last id of the page.
        upto: EventId,
    },
}

impl Order {
    /// As many ids passed over as dead as are remembered for the auditor: rollback storms
    /// beyond that go unaudited, not unbounded.
    const MAX_PASSED: usize = 4096;

    /// As many times in a hold is asked what became visible behind a hole, unless that is too often.
    const NEXT_HOLES: u32 = 8;
    const BETWEEN_LOOKS: Duration = Duration::from_millis(5);
    /// What counts as a hold where that is unlimited.
    const LONG_HOLD: Duration = Duration::from_secs(1);

    /// A reader that goes on after a stored `checkpoint` in strict order: nothing is ever
    /// late, so a plain number is all that it has to remember.
    #[must_use]
    pub fn strict(checkpoint: EventId) -> Self {
        Self::new(Position { head: checkpoint, late: Late::default() }, Hold::Unlimited)
    }

    fn new(position: Position, hold: Hold) -> Self {
        let settled = position.head;
        let (next_holes, passed) = (VecDeque::new(), VecDeque::new());
        Self { hold, position, settled, hole: None, next_holes, passed }
    }

    /// Where the reader is.
    #[must_use]
    pub fn position(&self) -> &Position {
        &self.position
    }

    /// The hole that is waited for.
    #[must_use]
    pub fn hole(&self) -> Option<&Hole> {
        self.hole.as_ref()
    }

    /// Forgets what is waited for: it is found again, if it is still there. The log may have been
    /// restored since, and have less than up to there.
    pub fn forget_holes(&mut self) {
        self.hole = None;
        self.next_holes.clear();
        self.settled = self.position.head;
    }

    /// How much longer the hole can hold anything back; without one, for ever.
    #[must_use]
    pub fn hold_left(&self, now: Instant) -> Duration {
        let held = |hole: &Hole| now.saturating_duration_since(hole.since);
        self.hole.as_ref().map_or(Duration::MAX, |hole| self.hold.left(held(hole)))
    }

    /// Passes `rows`, read after the head in id order, while nothing can be missing before
    /// them, and answers those that may go. `last_page` says that no row stood behind these
    /// when they were read.
    ///
    /// While a hole is waited for, only rows before it move.
    pub fn advance<E: Logged>(&mut self, mut rows: Vec<E>, last_page: bool) -> (Vec<E>, Advance) {
        let upto = rows.last().map_or(self.position.head, Logged::id);
        let mut at_hole = false;
        rows.retain(|row| {
            at_hole = at_hole || !self.reaches(row);
            !at_hole && self.pass(row)
        });
        if !at_hole && last_page {
            self.pass_to(self.settled);
        }
        // It may have been filled, and another one stand behind it, which others may fill.
        while self.hole.take_if(|hole| hole.upto <= self.position.head).is_some() {
            self.take_next_hole();
        }
        (rows, if at_hole { Advance::Hole { upto } } else { Advance::Whole })
    }

    /// Whether nothing can be missing before this row.
    fn reaches(&mut self, row: &impl Logged) -> bool {
        if row.id() > self.settled {
            // Rows come in id order: all that are visible up to `settled` have come.
            self.pass_to(self.settled);
        }
        row.id() <= self.settled || row.id() == self.position.head.next()
    }

    /// Moves the head over this row; answers whether it may go.
    fn pass(&mut self, row: &impl Logged) -> bool {
        self.pass_to(row.id().previous());
        self.position.head = row.id();
        !self.position.late.has(row)
    }

    /// Remembers a hole that [`advance`](Self::advance) came to; `writers` are the
    /// transactions that held an id, or could draw one, *after* that page was read.
    pub fn found_hole(&mut self, upto: EventId, writers: Vec<Xid>, now: Instant) {
        let open = writers.into_iter().filter(|xid| !self.position.late.contains(*xid)).collect();
        self.hole = Some(Hole { after: self.position.head, upto, open, since: now });
    }

    /// How long after the hole was found, or this was asked last, to ask what became visible behind it.
    #[must_use]
    pub fn looks_behind_hole_after(&self) -> Duration {
        let limit = match self.hold {
            Hold::For(limit) => limit,
            Hold::Unlimited => Self::LONG_HOLD,
        };
        (limit / Self::NEXT_HOLES).max(Self::BETWEEN_LOOKS)
    }

    /// Whether rows up to this id are to be remembered as behind the hole: they are behind all that is waited
    /// for, and there is room.
    #[must_use]
    pub fn wants_behind_hole(&self, id: EventId) -> bool {
        let last = self.next_holes.back().or(self.hole.as_ref());
        let room = self.next_holes.len() < Self::NEXT_HOLES as usize;
        room && last.is_some_and(|last| id > last.upto)
    }

    /// Remembers that rows up to `upto` have become visible behind the hole; `writers` are the transactions
    /// that held an id, or could draw one, *after* that was seen.
    pub fn found_behind_hole(&mut self, upto: EventId, writers: Vec<Xid>, now: Instant) {
        let Some(last) = self.next_holes.back().or(self.hole.as_ref()) else { return };
        // Those that held an id up to there are waited for already.
        let after = last.upto;
        self.next_holes.push_back(Hole { after, upto, open: writers, since: now });
    }

    /// Says which of the hole's transactions are `still_open`. When none is, or the hold
    /// has run out, the hole is settled, what is still open is late, and `true` says: read
    /// again, from the head, now.
    pub fn settle(&mut self, still_open: Vec<Xid>, now: Instant) -> bool {
        let Some(hole) = &mut self.hole else { return false };
        hole.open = still_open;
        if !hole.settles(self.hold, &self.position.late, Late::MAX, now) {
            return false;
        }
        self.settled = hole.upto;
        self.position.late = self.position.late.with(&hole.open, hole.after);
        self.hole = None;
        self.take_next_hole();
        true
    }

    /// Goes on with what became visible behind the hole that was waited for.
    fn take_next_hole(&mut self) {
        while let Some(mut next) = self.next_holes.pop_front() {
            next.open.retain(|xid| !self.position.late.contains(*xid));
            if !next.open.is_empty() {
                self.hole = Some(next);
                return;
            }
            self.settled = self.settled.max(next.upto);
        }
    }

    /// These late transactions are no longer in progress, and their rows with an id up to
    /// `upto` were read *after* that was known, and delivered.
    pub fn delivered_late(&mut self, xids: &[Xid], upto: EventId) {
        self.position.late = self.position.late.delivered(xids, upto);
    }

    /// The same of all its rows with an id up to the head: it is late no more.
    pub fn ended(&mut self, xid: Xid) {
        self.position.late = self.position.late.without(xid);
    }

    /// The ids passed over as dead since this was asked last.
    pub fn take_passed(&mut self) -> VecDeque<Passed> {
        std::mem::take(&mut self.passed)
    }

    /// Moves the head over ids that are missing for good, or late.
    fn pass_to(&mut self, id: EventId) {
        if id <= self.position.head {
            return;
        }
        if self.passed.len() < Self::MAX_PASSED {
            let (from, late) = (self.position.head.next(), self.position.late.clone());
            self.passed.push_back(Passed { from, to: id, late });
        }
        self.position.head = id;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::testing::Row;

    const HOLD: Duration = Duration::from_millis(20);

    fn xids(numbers: &[u64]) -> Vec<Xid> {
        numbers.iter().copied().map(Xid::new).collect()
    }

    /// A reader behind event 10, for which transaction 7 is late.
    fn late(now: Instant) -> Order {
        let mut start = Start::after(EventId::new(10), xids(&[7]), Hold::For(HOLD), now);
        start.settle(xids(&[7]), now + HOLD).expect("the hold has run out")
    }

    #[test]
    fn a_start_waits_for_writers_as_long_as_the_hold() {
        let now = Instant::now();
        let start = |hold| Start::after(EventId::new(10), xids(&[7]), hold, now);
        assert!(start(Hold::For(HOLD)).settle(xids(&[7]), now + HOLD / 2).is_none());
        assert!(start(Hold::For(HOLD)).settle(xids(&[7]), now + HOLD).is_some());
        assert!(start(Hold::For(HOLD)).settle(Vec::new(), now).is_some());

        let much_later = now + Duration::from_hours(1);
        assert!(start(Hold::Unlimited).settle(xids(&[7]), much_later).is_none());
        let order = start(Hold::Unlimited).settle(Vec::new(), much_later).unwrap();
        assert!(order.position().late.is_empty());
    }

    #[test]
    fn a_transaction_that_is_late_already_holds_nothing_back() {
        let now = Instant::now();
        let mut order = late(now);
        let rows = || vec![Row(12, 9)];
        let upto = EventId::new(12);
        assert_eq!(order.advance(rows(), true).1, Advance::Hole { upto });
        order.found_hole(upto, xids(&[7, 8]), now);
        assert_eq!(order.hole().unwrap().open, xids(&[8]));
        assert!(order.settle(Vec::new(), now), "8 has ended, and nobody waits for 7");
        let (went, advance) = order.advance(rows(), true);
        assert_eq!(advance, Advance::Whole);
        assert_eq!(went.iter().map(|row| row.0).collect::<Vec<_>>(), [12]);
        let since = EventId::ZERO;
        let seven = LateTransaction { xid: Xid::new(7), since };
        assert_eq!(order.position().late.as_slice(), [seven], "it is late since it was first");
    }

    #[test]
    fn a_hole_that_was_filled_is_forgotten_when_another_one_stands_behind_it() {
        let now = Instant::now();
        let mut order = Order::strict(EventId::ZERO);
        let upto = EventId::new(2);
        assert_eq!(order.advance(vec![Row(2, 9)], true).1, Advance::Hole { upto });
        order.found_hole(upto, xids(&[7, 8]), now);
        assert!(!order.settle(xids(&[7]), now), "7 may still have 1");
        let (went, advance) = order.advance(vec![Row(1, 8), Row(2, 9), Row(4, 9)], true);
        assert_eq!((went.len(), advance), (2, Advance::Hole { upto: EventId::new(4) }));
        assert!(order.hole().is_none(), "whoever has 3 may have begun since");
    }

    #[test]
    fn as_many_may_be_late_as_a_cursor_can_name_and_one_more_is_waited_for() {
        let now = Instant::now();
        let writers: Vec<u64> = (100..=100 + u64::try_from(Late::MAX).unwrap()).collect();
        // Transaction 7 is late already.
        for (open, settles) in
            [(Late::MAX - 1, true), (Late::MAX, false), (Late::MAX + 1, false), (0, true)]
        {
            let (mut order, open) = (late(now), xids(&writers[..open]));
            order.found_hole(EventId::new(12), open.clone(), now);
            assert_eq!(order.settle(open, now + HOLD), settles);
        }
    }

    #[test]
    fn as_many_holes_are_remembered_for_the_auditor_and_no_more() {
        let now = Instant::now();
        let mut order = Order::strict(EventId::ZERO);
        let many = i64::try_from(Order::MAX_PASSED).unwrap() + 100;
        let rows: Vec<_> = (1..=many).map(|id| Row(2 * id, 9)).collect();
        order.found_hole(EventId::new(2 * many), Vec::new(), now);
        assert!(order.settle(Vec::new(), now));
        assert_eq!(order.advance(rows, true).1, Advance::Whole);
        assert_eq!(order.take_passed().len(), Order::MAX_PASSED);
        assert!(order.take_passed().is_empty(), "they are told once");
    }

    #[test]
    fn what_a_late_transaction_wrote_where_it_was_passed_over_is_no_surprise() {
        let mut order = late(Instant::now());
        order.found_hole(EventId::new(13), Vec::new(), Instant::now());
        order.settle(Vec::new(), Instant::now());
        let _ = order.advance(vec![Row(13, 9)], true);
        let passed = order.take_passed().pop_front().unwrap();
        assert_eq!((passed.from, passed.to), (EventId::new(11), EventId::new(12)));
        assert!(passed.expects(&Row(12, 7)));
        assert!(!passed.expects(&Row(12, 8)), "it was not late then");
        assert!(!passed.expects(&Row(13, 7)), "nothing was missing there");
    }
}

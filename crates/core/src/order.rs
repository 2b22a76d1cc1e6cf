//! Decides which rows of the log may be delivered now, and in what order.
//!
//! A sequence hands out ids before COMMIT. So a missing id may be a rollback's, or may belong to a
//! transaction that is still open. [`Order`] delivers rows while ids are contiguous. At a hole it asks which
//! transactions may still fill it, and waits for them at most as long as the [`Hold`]. A transaction that is
//! still open then is passed over: it is [`Late`], and its events follow when it ends. `Order` is told what
//! was read, when, and which transactions are open; it has no I/O.
//!
//! Everything rests on one rule: *locks first, then a fresh read*. A transaction releases its locks only
//! after its rows are visible. So rows that are read after its locks were seen released contain all that it
//! wrote.

mod hole;
mod late;

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

pub use hole::{Hold, Hole};
pub use late::{Late, LateTransaction};

use crate::event::{EventId, Logged, Xid};

/// A reader's position in the log: every row up to `head` is delivered, missing for good, or written by a
/// late transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// The greatest id that was passed.
    pub head: EventId,
    /// The open transactions that were passed over.
    pub late: Late,
}

impl Position {
    /// The id up to which the log is complete: no row can appear at or before it any more. Readers that need
    /// strict order read no further.
    #[must_use]
    pub fn horizon(&self) -> EventId {
        let late = self.late.as_slice().iter().map(|late| late.since);
        late.min().map_or(self.head, |since| since.min(self.head))
    }
}

/// The state of a reader. Its user feeds it pages of rows ([`advance`](Self::advance)). While there is a
/// hole, the user says which transactions may fill it ([`found_hole`](Self::found_hole)) and which of them
/// are still open ([`settle`](Self::settle)). It also says when a late transaction has ended
/// ([`ended`](Self::ended)).
#[derive(Debug)]
pub struct Order {
    hold: Hold,
    position: Position,
    /// No row can appear at or before this id any more, except rows of late transactions.
    settled: EventId,
    hole: Option<Hole>,
    /// What became visible behind the hole while the hole was waited for, oldest first. Each entry waits for
    /// the transactions that were open when it was found, from that time on, so that nothing waits for two
    /// holds.
    next_holes: VecDeque<Hole>,
    passed: VecDeque<Passed>,
}

/// A reader that is about to start behind all that is visible. It waits for the writers that it finds, as at
/// a hole, so that only transactions are late that really are slow.
#[derive(Debug)]
pub struct Start {
    hold: Hold,
    hole: Hole,
}

impl Start {
    /// Begins behind `head`, the greatest visible id. `writers` are the transactions that held an id, or
    /// could draw one, after that id was read.
    #[must_use]
    pub fn after(head: EventId, writers: Vec<Xid>, hold: Hold, now: Instant) -> Self {
        // Nothing is known of the ids before the head: a writer may have any of them.
        let hole = Hole { after: EventId::ZERO, upto: head, open: writers, since: now };
        Self { hold, hole }
    }

    /// The writers that are waited for.
    #[must_use]
    pub fn hole(&self) -> &Hole {
        &self.hole
    }

    /// Takes those of the writers that are `still_open`. Returns the reader once it may start.
    pub fn settle(&mut self, still_open: Vec<Xid>, now: Instant) -> Option<Order> {
        self.hole.open = still_open;
        let none = Late::default();
        self.hole.settles(self.hold, &none, Late::MAX_AT_START, now).then(|| {
            let late = none.with(&self.hole.open, self.hole.after);
            Order::new(Position { head: self.hole.upto, late }, self.hold)
        })
    }
}

/// A range of ids that were passed over as dead. The auditor checks them again, later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passed {
    /// The first missing id.
    pub from: EventId,
    /// The last missing id.
    pub to: EventId,
    /// The transactions that were late then. Some of the ids may be theirs.
    pub late: Late,
}

impl Passed {
    /// Whether this row is expected here, because its transaction was late.
    #[must_use]
    pub fn expects(&self, row: &impl Logged) -> bool {
        (self.from..=self.to).contains(&row.id()) && self.late.has(row)
    }
}

/// The result of a page of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advance {
    /// All rows of the page were passed.
    All,
    /// There is a hole before the other rows.
    Hole {
        /// The last id of the page.
        upto: EventId,
    },
}

impl Order {
    /// The most ranges that are remembered for the auditor. Ids of a rollback storm beyond that are not
    /// audited.
    const MAX_PASSED: usize = 4096;

    /// How often in one hold to ask what became visible behind a hole, unless that is too often.
    const NEXT_HOLES: u32 = 8;
    /// The shortest time between two such questions.
    const MIN_CHECK_INTERVAL: Duration = Duration::from_millis(5);
    /// The hold that this is calculated from where the hold is unlimited.
    const LONG_HOLD: Duration = Duration::from_secs(1);

    /// Creates a reader that continues behind a stored `checkpoint` in strict order: no transaction is ever
    /// late, so a plain id is all that has to be stored.
    #[must_use]
    pub fn strict(checkpoint: EventId) -> Self {
        Self::new(Position { head: checkpoint, late: Late::default() }, Hold::Unlimited)
    }

    fn new(position: Position, hold: Hold) -> Self {
        let settled = position.head;
        let (next_holes, passed) = (VecDeque::new(), VecDeque::new());
        Self { hold, position, settled, hole: None, next_holes, passed }
    }

    /// The reader's position.
    #[must_use]
    pub fn position(&self) -> &Position {
        &self.position
    }

    /// The hole that is waited for.
    #[must_use]
    pub fn hole(&self) -> Option<&Hole> {
        self.hole.as_ref()
    }

    /// Forgets the holes. They are found again if they are still there. The log may have been restored in the
    /// meantime, and not reach that far.
    pub fn forget_holes(&mut self) {
        self.hole = None;
        self.next_holes.clear();
        self.settled = self.position.head;
    }

    /// How much longer the hole can hold rows back; [`Duration::MAX`] without one.
    #[must_use]
    pub fn hold_left(&self, now: Instant) -> Duration {
        let held = |hole: &Hole| now.saturating_duration_since(hole.since);
        self.hole.as_ref().map_or(Duration::MAX, |hole| self.hold.left(held(hole)))
    }

    /// Passes `rows`, which were read behind the head in id order, as long as no row can be missing before
    /// them. Returns those that may be delivered. `last_page` says that there was no row behind these when
    /// they were read.
    ///
    /// While a hole is waited for, only rows before it are passed.
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
        // The hole may have been filled, and another one follow that other transactions may fill.
        while self.hole.take_if(|hole| hole.upto <= self.position.head).is_some() {
            self.take_next_hole();
        }
        (rows, if at_hole { Advance::Hole { upto } } else { Advance::All })
    }

    /// Whether no row can be missing before this one.
    fn reaches(&mut self, row: &impl Logged) -> bool {
        if row.id() > self.settled {
            // Rows come in id order: all visible ones up to `settled` have come.
            self.pass_to(self.settled);
        }
        row.id() <= self.settled || row.id() == self.position.head.next()
    }

    /// Moves the head to this row. Returns whether the row may be delivered.
    fn pass(&mut self, row: &impl Logged) -> bool {
        self.pass_to(row.id().previous());
        self.position.head = row.id();
        !self.position.late.has(row)
    }

    /// Remembers a hole that [`advance`](Self::advance) found. `writers` are the transactions that held an
    /// id, or could draw one, *after* that page was read.
    pub fn found_hole(&mut self, upto: EventId, writers: Vec<Xid>, now: Instant) {
        let open = writers.into_iter().filter(|xid| !self.position.late.contains(*xid)).collect();
        self.hole = Some(Hole { after: self.position.head, upto, open, since: now });
    }

    /// How long after the hole was found, or after the last answer, to ask what became visible behind it.
    #[must_use]
    pub fn looks_behind_hole_after(&self) -> Duration {
        let limit = match self.hold {
            Hold::For(limit) => limit,
            Hold::Unlimited => Self::LONG_HOLD,
        };
        (limit / Self::NEXT_HOLES).max(Self::MIN_CHECK_INTERVAL)
    }

    /// Whether to remember rows up to this id as behind the hole: they are behind everything that is waited
    /// for, and there is room.
    #[must_use]
    pub fn wants_behind_hole(&self, id: EventId) -> bool {
        let last = self.next_holes.back().or(self.hole.as_ref());
        let room = self.next_holes.len() < Self::NEXT_HOLES as usize;
        room && last.is_some_and(|last| id > last.upto)
    }

    /// Remembers that rows up to `upto` have become visible behind the hole. `writers` are the transactions
    /// that held an id, or could draw one, *after* that was seen.
    pub fn found_behind_hole(&mut self, upto: EventId, writers: Vec<Xid>, now: Instant) {
        let Some(last) = self.next_holes.back().or(self.hole.as_ref()) else { return };
        // Transactions that held an id up to there are waited for already.
        let after = last.upto;
        self.next_holes.push_back(Hole { after, upto, open: writers, since: now });
    }

    /// Takes those of the hole's transactions that are `still_open`. The hole is settled when none is, or
    /// when the hold has run out; transactions that are still open then are late. Returns whether it is
    /// settled. If so, read again from the head at once.
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

    /// Continues with what became visible behind the hole that was waited for.
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

    /// Records that these late transactions are no longer in progress, and that their rows up to `upto` were
    /// read *after* that was known, and delivered.
    pub fn delivered_late(&mut self, xids: &[Xid], upto: EventId) {
        self.position.late = self.position.late.delivered(xids, upto);
    }

    /// Records the same for all rows of a transaction up to the head: it is no longer late.
    pub fn ended(&mut self, xid: Xid) {
        self.position.late = self.position.late.without(xid);
    }

    /// Takes the ranges that were passed over as dead since the last call.
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
    fn a_start_waits_for_writers_until_the_hold_runs_out() {
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
    fn a_late_transaction_holds_nothing_back() {
        let now = Instant::now();
        let mut order = late(now);
        let rows = || vec![Row(12, 9)];
        let upto = EventId::new(12);
        assert_eq!(order.advance(rows(), true).1, Advance::Hole { upto });
        order.found_hole(upto, xids(&[7, 8]), now);
        assert_eq!(order.hole().unwrap().open, xids(&[8]));
        assert!(order.settle(Vec::new(), now), "8 has ended, and 7 is not waited for");
        let (went, advance) = order.advance(rows(), true);
        assert_eq!(advance, Advance::All);
        assert_eq!(went.iter().map(|row| row.0).collect::<Vec<_>>(), [12]);
        let since = EventId::ZERO;
        let seven = LateTransaction { xid: Xid::new(7), since };
        assert_eq!(order.position().late.as_slice(), [seven], "it is late since the first time");
    }

    #[test]
    fn a_filled_hole_is_forgotten_when_another_one_follows() {
        let now = Instant::now();
        let mut order = Order::strict(EventId::ZERO);
        let upto = EventId::new(2);
        assert_eq!(order.advance(vec![Row(2, 9)], true).1, Advance::Hole { upto });
        order.found_hole(upto, xids(&[7, 8]), now);
        assert!(!order.settle(xids(&[7]), now), "7 may still have 1");
        let (went, advance) = order.advance(vec![Row(1, 8), Row(2, 9), Row(4, 9)], true);
        assert_eq!((went.len(), advance), (2, Advance::Hole { upto: EventId::new(4) }));
        assert!(order.hole().is_none(), "the transaction that has 3 may have begun since");
    }

    #[test]
    fn no_more_are_late_than_a_cursor_can_name() {
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
    fn a_bounded_number_of_ranges_is_kept_for_the_auditor() {
        let now = Instant::now();
        let mut order = Order::strict(EventId::ZERO);
        let many = i64::try_from(Order::MAX_PASSED).unwrap() + 100;
        let rows: Vec<_> = (1..=many).map(|id| Row(2 * id, 9)).collect();
        order.found_hole(EventId::new(2 * many), Vec::new(), now);
        assert!(order.settle(Vec::new(), now));
        assert_eq!(order.advance(rows, true).1, Advance::All);
        assert_eq!(order.take_passed().len(), Order::MAX_PASSED);
        assert!(order.take_passed().is_empty(), "each range is returned once");
    }

    #[test]
    fn rows_of_a_late_transaction_are_expected_where_it_was_passed_over() {
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

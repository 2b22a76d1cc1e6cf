//! The state of a reader.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::{
    anchors::Anchors,
    auditor::Auditor,
    late_reads::{LateRange, LateReads},
    step::Step,
    vigil::Vigil,
};
use crate::{
    event::{EventId, Logged},
    order::{Hold, Hole, Order, Passed, Position, Start},
};

/// See the module.
#[derive(Debug)]
pub struct Reader<E> {
    pub(super) hold: Hold,
    /// None until it has started, and when the log was replaced.
    pub(super) order: Option<Order>,
    pub(super) at: At,
    /// What was decided, and is to be carried out before anything else is asked.
    pub(super) steps: VecDeque<Step<E>>,
    pub(super) vigil: Vigil,
    pub(super) auditor: Auditor,
    pub(super) late_reads: LateReads,
    pub(super) anchors: Anchors,
    /// The log was found to be another one: up to here it is the same.
    pub(super) origin: EventId,
    pub(super) next_poll: Instant,
    /// Other readers are connected that this one wakes, when it keeps the bell.
    pub(super) others: bool,
    /// The greatest id that was seen, delivered or not.
    pub(super) seen: EventId,
    /// The same, when the current poll of the log began.
    pub(super) seen_before: EventId,
    /// What the current poll of the log has come to so far.
    pub(super) look: Look,
    pub(super) woken: Woken,
    /// When it was last asked what became visible behind a hole.
    pub(super) looked_behind_hole: Instant,
    /// The head before a hole that was given a moment to fill by itself.
    pub(super) patient_at: Option<EventId>,
    /// Rows may be there that nothing stands before, though a hole is waited for: more than one page
    /// of them, or those of a late transaction that has ended since the tail was read.
    pub(super) may_move: bool,
    /// A transaction that was waited for at a hole has ended since the tail was read. Readers that have
    /// passed over it have to hear of that, whether or not its rows can go here.
    pub(super) awaited_ended: bool,
}

/// Where the reader is in its work: which answer it needs next.
#[derive(Debug)]
pub(super) enum At {
    /// It starts: a snapshot, before which nothing will have been read.
    Snapshot,
    /// It starts: the newest id.
    Newest { as_of: String },
    /// It starts: who writes. Asked after the newest id: a transaction that is not among the
    /// writers then has no id up to that, or is visible.
    FirstWriters { as_of: String, head: EventId },
    /// It starts, once the writers that it found have ended, or the hold has run out.
    Starting { as_of: String, start: Start },
    /// It waits before it asks again which of those writers have ended.
    StartPause { as_of: String, start: Start, pause: Duration },
    /// A poll of the log begins.
    Top,
    /// The safety poll.
    Poll,
    /// Whether it may keep the bell.
    Keep,
    /// What stands where these ids were passed over.
    Audit(Vec<Passed>),
    /// Which of those who may fill the hole have ended.
    Hole,
    /// The rows behind the head.
    Tail,
    /// It came to a hole; more rows stood behind that page. The newest id.
    HoleEnd { upto: EventId },
    /// It came to a hole: who writes.
    HoleWriters { upto: EventId },
    /// Which of those writers have ended.
    NewHole,
    /// The greatest id that is visible behind the hole by now.
    BehindHole,
    /// Who may write up to there.
    BehindHoleWriters { upto: EventId },
    /// Which late transactions have ended.
    Late,
    /// Some rows of a late transaction that has ended.
    LateRows(LateRange),
    /// The poll of the log is over.
    Rest,
    /// The safety poll found events; the bell may be about to ring for them.
    Unannounced,
    /// Whether it may fall asleep.
    FallAsleep,
    /// It waits this long, or for the bell.
    Pause(Duration),
    /// It waits for the bell, or the safety poll.
    Listen,
}

/// What a poll of the log came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// There is more to read.
    More,
    /// A hole is waited for.
    Held,
    /// All that is visible has been read.
    Whole,
}

/// What ended a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Woken {
    Bell,
    Itself,
    SafetyPoll,
}

impl<E: Logged> Reader<E> {
    /// A reader that has not started. It needs to be [connected](Self::connected).
    #[must_use]
    pub fn new(hold: Hold, now: Instant) -> Self {
        Self {
            hold,
            order: None,
            at: At::Snapshot,
            steps: VecDeque::new(),
            vigil: Vigil::new(false, now),
            auditor: Auditor::default(),
            late_reads: LateReads::default(),
            anchors: Anchors::default(),
            origin: EventId::ZERO,
            next_poll: now,
            others: true,
            seen: EventId::ZERO,
            seen_before: EventId::ZERO,
            look: Look::Whole,
            woken: Woken::Itself,
            looked_behind_hole: now,
            patient_at: None,
            may_move: false,
            awaited_ended: false,
        }
    }

    /// A connection was opened that listens; `keeper` says that it keeps the bell. The reader
    /// goes on where it was.
    pub fn connected(&mut self, keeper: bool, now: Instant) {
        // What the reader takes for published has to be published; all else is decided again.
        let stays = |step: &Step<E>| {
            matches!(step, Step::Publish(_) | Step::Restart { .. } | Step::Replaced { .. })
        };
        self.steps.retain(stays);
        if let Some(order) = &mut self.order {
            order.forget_holes();
        }
        self.at = if self.order.is_some() { At::Top } else { At::Snapshot };
        self.vigil = Vigil::new(keeper, now);
        self.late_reads = LateReads::default();
        self.next_poll = now;
        self.others = true;
        self.seen = self.order.as_ref().map_or(EventId::ZERO, |order| order.position().head);
        self.woken = Woken::Itself;
        self.patient_at = None;
    }

    /// Where the reader is; none until it has started, and while it starts in a log that was
    /// replaced.
    #[must_use]
    pub fn position(&self) -> Option<&Position> {
        self.order.as_ref().map(Order::position)
    }

    /// What is waited for: a hole, or the writers that were found at the start.
    #[must_use]
    pub fn waits_for(&self) -> Option<&Hole> {
        match &self.at {
            At::Starting { start, .. } | At::StartPause { start, .. } => Some(start.hole()),
            _ => self.order.as_ref()?.hole(),
        }
    }

    /// Whether it keeps the bell, and whether it sleeps.
    #[must_use]
    pub fn doorbell(&self) -> (bool, bool) {
        (self.vigil.keeper, self.vigil.is_asleep())
    }

    pub(super) fn order(&self) -> &Order {
        self.order.as_ref().expect("it has started")
    }

    pub(super) fn order_mut(&mut self) -> &mut Order {
        self.order.as_mut().expect("it has started")
    }
}

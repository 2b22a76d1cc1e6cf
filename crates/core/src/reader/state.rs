//! The state of a reader.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::{
    anchors::Anchors,
    auditor::Auditor,
    late_reads::{LateRange, LateReads},
    poll_policy::PollPolicy,
    step::Step,
};
use crate::{
    event::{EventId, Logged},
    order::{Hold, Hole, Order, Passed, Position, Start},
};

/// Decides what a reader of the log does next. See the [module](crate::reader).
#[derive(Debug)]
pub struct Reader<E> {
    pub(super) hold: Hold,
    /// `None` until the reader has started, and after the log was replaced.
    pub(super) order: Option<Order>,
    pub(super) at: At,
    /// Steps that were decided, and are carried out before anything else is asked.
    pub(super) steps: VecDeque<Step<E>>,
    pub(super) policy: PollPolicy,
    pub(super) auditor: Auditor,
    pub(super) late_reads: LateReads,
    pub(super) anchors: Anchors,
    /// When the log was found to be another one: the id up to which both are the same.
    pub(super) origin: EventId,
    pub(super) next_safety_poll: Instant,
    /// Whether other readers are connected, which this one wakes while it is the keeper.
    pub(super) other_readers: bool,
    /// The greatest id that was seen, delivered or not.
    pub(super) seen: EventId,
    /// The value of `seen` when the current poll began.
    pub(super) seen_before: EventId,
    /// The result of the current poll so far.
    pub(super) outcome: PollOutcome,
    pub(super) wake_reason: WakeReason,
    /// When the reader last asked what became visible behind a hole.
    pub(super) checked_behind_hole: Instant,
    /// The head before a hole that was given a moment to fill by itself.
    pub(super) deferred_hole: Option<EventId>,
    /// Whether rows may be deliverable although a hole is waited for: more than one page of them stands
    /// before it, or a late transaction has ended since the tail was read.
    pub(super) may_move: bool,
    /// Whether a transaction that a hole waits for has ended since the tail was read. Readers that have
    /// passed over it have to learn of that, whether or not this reader can deliver its rows yet.
    pub(super) awaited_ended: bool,
}

/// Where the reader is in its work: which answer it needs next.
#[derive(Debug)]
pub(super) enum At {
    /// Starting: a snapshot that is older than everything that will be read.
    Snapshot,
    /// Starting: the newest id.
    Newest { as_of: String },
    /// Starting: which transactions write. They are asked for after the newest id: a transaction that is not
    /// among them has no id up to that one, or is visible.
    FirstWriters { as_of: String, head: EventId },
    /// Starting: which of those writers have ended. The reader starts when all have, or when the hold has run
    /// out.
    Starting { as_of: String, start: Start },
    /// Starting: a pause before it asks again which of those writers have ended.
    StartPause { as_of: String, start: Start, pause: Duration },
    /// The beginning of a poll.
    Top,
    /// The result of the safety poll.
    SafetyPoll,
    /// Whether this reader becomes the keeper of the bell.
    Keep,
    /// The rows with ids that were passed over as dead.
    Audit(Vec<Passed>),
    /// Which of the transactions that may fill the hole have ended.
    Hole,
    /// The rows behind the head.
    Tail,
    /// At a new hole, with more rows behind that page: the newest id.
    HoleEnd { upto: EventId },
    /// At a new hole: which transactions write.
    HoleWriters { upto: EventId },
    /// At a new hole: which of those writers have ended.
    NewHole,
    /// The greatest id that is visible behind the hole by now.
    BehindHole,
    /// Which transactions may have ids up to there.
    BehindHoleWriters { upto: EventId },
    /// Which late transactions have ended.
    Late,
    /// Some rows of a late transaction that has ended.
    LateRows(LateRange),
    /// The end of a poll.
    Rest,
    /// The safety poll has found events; a ring for them may be on its way.
    Unannounced,
    /// Whether the bell could be taken, to fall asleep.
    FallAsleep,
    /// The end of this pause, or a ring.
    Pause(Duration),
    /// A ring, or the time of the next safety poll.
    Listen,
}

/// The result of a poll of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PollOutcome {
    /// There is more to read.
    More,
    /// A hole is waited for.
    Held,
    /// All that is visible has been read.
    CaughtUp,
}

/// What ended the last wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WakeReason {
    Bell,
    Timer,
    SafetyPoll,
}

impl<E: Logged> Reader<E> {
    /// Creates a reader that has not started. It needs to be [connected](Self::connected).
    #[must_use]
    pub fn new(hold: Hold, now: Instant) -> Self {
        Self {
            hold,
            order: None,
            at: At::Snapshot,
            steps: VecDeque::new(),
            policy: PollPolicy::new(false, now),
            auditor: Auditor::default(),
            late_reads: LateReads::default(),
            anchors: Anchors::default(),
            origin: EventId::ZERO,
            next_safety_poll: now,
            other_readers: true,
            seen: EventId::ZERO,
            seen_before: EventId::ZERO,
            outcome: PollOutcome::CaughtUp,
            wake_reason: WakeReason::Timer,
            checked_behind_hole: now,
            deferred_hole: None,
            may_move: false,
            awaited_ended: false,
        }
    }

    /// Begins on a new connection that listens; `keeper` says whether this reader is the keeper of the bell
    /// on it. A reader that has started continues from its position.
    pub fn connected(&mut self, keeper: bool, now: Instant) {
        // Steps that the reader counts as published have to be carried out. All else is decided again.
        let stays = |step: &Step<E>| {
            matches!(step, Step::Publish(_) | Step::Restart { .. } | Step::Replaced { .. })
        };
        self.steps.retain(stays);
        if let Some(order) = &mut self.order {
            order.forget_holes();
        }
        self.at = if self.order.is_some() { At::Top } else { At::Snapshot };
        self.policy = PollPolicy::new(keeper, now);
        self.late_reads = LateReads::default();
        self.next_safety_poll = now;
        self.other_readers = true;
        self.seen = self.order.as_ref().map_or(EventId::ZERO, |order| order.position().head);
        self.wake_reason = WakeReason::Timer;
        self.deferred_hole = None;
    }

    /// The reader's position. `None` until it has started, and while it starts in a log that replaced another
    /// one.
    #[must_use]
    pub fn position(&self) -> Option<&Position> {
        self.order.as_ref().map(Order::position)
    }

    /// The hole that is waited for, or the writers that were found at the start.
    #[must_use]
    pub fn waits_for(&self) -> Option<&Hole> {
        match &self.at {
            At::Starting { start, .. } | At::StartPause { start, .. } => Some(start.hole()),
            _ => self.order.as_ref()?.hole(),
        }
    }

    /// Whether this reader is the keeper of the bell, and whether it is asleep.
    #[must_use]
    pub fn doorbell(&self) -> (bool, bool) {
        (self.policy.keeper, self.policy.is_asleep())
    }

    pub(super) fn order(&self) -> &Order {
        self.order.as_ref().expect("the reader has started")
    }

    pub(super) fn order_mut(&mut self) -> &mut Order {
        self.order.as_mut().expect("the reader has started")
    }
}

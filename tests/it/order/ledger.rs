//! The model's record of the events that a client received and must receive.

use std::{collections::BTreeSet, time::Instant};

/// A received event.
#[derive(Clone, Copy, Debug)]
pub(super) struct Got {
    pub(super) id: i64,
    pub(super) xid: u64,
    pub(super) version: u32,
    pub(super) at: Instant,
    /// Whether its cursor marks it as late.
    pub(super) late: bool,
}

#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub(super) got: Vec<Got>,
    /// The ranges of ids that the client was told are pruned.
    gaps: Vec<(i64, i64)>,
    /// Events that were visible before the client connected.
    not_owed: BTreeSet<i64>,
    /// The client need not receive ids up to here.
    floor: i64,
    /// The part of `not_owed` that its gateway had already delivered: these events must not arrive.
    before: BTreeSet<i64>,
}

impl Ledger {
    pub(super) fn owes(&self, id: i64) -> bool {
        id > self.floor && !self.not_owed.contains(&id)
    }

    pub(super) fn was_told(&self, id: i64) -> bool {
        self.gaps.iter().any(|(from, to)| (from + 1..=*to).contains(&id))
    }

    pub(super) fn forbids(&self, id: i64) -> bool {
        self.before.contains(&id)
    }

    pub(super) fn tell_gap(&mut self, from: i64, to: i64) {
        self.gaps.push((from, to));
    }

    /// The client starts with the next event. `visible` are the visible events; its gateway must not send those in
    /// `before`.
    pub(super) fn begin(&mut self, visible: BTreeSet<i64>, before: BTreeSet<i64>) {
        *self = Self { not_owed: visible, before, ..Self::default() };
    }

    /// The client missed that the log was replaced, and cannot know it: it must receive the events after the head of
    /// its cursor.
    pub(super) fn go_on_behind(&mut self, head: i64) {
        *self = Self { floor: head, ..Self::default() };
    }

    /// The client was told that the log was replaced after this id: events that it received after it no longer count,
    /// and it must receive all events there.
    pub(super) fn forget_above(&mut self, id: i64) {
        self.got.retain(|got| got.id <= id);
        self.not_owed.retain(|it| *it <= id);
        self.before.retain(|it| *it <= id);
        self.floor = self.floor.min(id);
        for (_, to) in &mut self.gaps {
            *to = id.min(*to);
        }
    }
}

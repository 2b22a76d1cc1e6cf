//! What a client got, and what it is owed: the model's own account, by which it is judged.

use std::{collections::BTreeSet, time::Instant};

/// An event that came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Got {
    pub(super) id: i64,
    pub(super) xid: u64,
    pub(super) version: u32,
    pub(super) at: Instant,
    /// It said that it came behind a greater id.
    pub(super) late: bool,
}

#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub(super) got: Vec<Got>,
    /// The ranges of ids of which it was told that they were pruned.
    gaps: Vec<(i64, i64)>,
    /// Events that were visible before it came.
    not_owed: BTreeSet<i64>,
    /// It is owed nothing up to here.
    floor: i64,
    /// Of those that were visible, the ones that its gateway had delivered: they must not come.
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

    /// It follows from now on: these are visible, and of these its gateway will not send some.
    pub(super) fn begin(&mut self, visible: BTreeSet<i64>, before: BTreeSet<i64>) {
        *self = Self { not_owed: visible, before, ..Self::default() };
    }

    /// It missed that the log was replaced, and cannot know: it is owed what comes behind its
    /// cursor's head.
    pub(super) fn go_on_behind(&mut self, head: i64) {
        *self = Self { floor: head, ..Self::default() };
    }

    /// It was told that the log was replaced behind this id: what it got above that is void, and
    /// it is owed all that stands there.
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

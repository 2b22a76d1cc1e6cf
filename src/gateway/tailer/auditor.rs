//! Looks again, a little later, at the ids that were passed over as dead.
//!
//! Nothing can turn up there while all rows come through the trigger. Where it is disabled,
//! or ids are given by hand, something can; then that is an error that must be seen.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::order::Passed;

/// What is due to be looked at again.
#[derive(Debug, Default)]
pub(super) struct Auditor {
    due: VecDeque<(Instant, Passed)>,
}

impl Auditor {
    /// How much later.
    const LATER: Duration = Duration::from_secs(5);
    /// As many as are remembered; rollback storms beyond that go unaudited.
    const MOST: usize = 50_000;
    /// As many as one query looks at.
    const BATCH: usize = 500;

    /// Remembers ids that were passed over.
    pub(super) fn remember(&mut self, passed: impl IntoIterator<Item = Passed>, now: Instant) {
        let room = Self::MOST.saturating_sub(self.due.len());
        let due = passed.into_iter().take(room).map(|passed| (now + Self::LATER, passed));
        self.due.extend(due);
    }

    /// What is due now, at most a batch.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<Passed> {
        let due = self.due.iter().take(Self::BATCH).take_while(|(at, _)| *at <= now).count();
        self.due.drain(..due).map(|(_, passed)| passed).collect()
    }

    /// The log was replaced: what was passed over means nothing any more.
    pub(super) fn forget(&mut self) {
        self.due.clear();
    }
}

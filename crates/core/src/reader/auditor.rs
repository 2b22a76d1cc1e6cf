//! Looks again, a little later, at the ids that were passed over as dead.
//!
//! Nothing can turn up there while all rows come through the trigger. Where it is disabled,
//! or ids are given by hand, something can; then that is an error that must be seen.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::{event::Logged, order::Passed};

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

/// Of `rows`, which stand where these ids were passed over, those that cannot be there: what was
/// late then has come as it had to.
pub(super) fn surprises<E: Logged>(passed: &[Passed], mut rows: Vec<E>) -> Vec<E> {
    rows.retain(|row| !passed.iter().any(|passed| passed.expects(row)));
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::testing::Row;
    use crate::{
        event::{EventId, Xid},
        order::{Late, LateTransaction},
    };

    fn passed(id: i64, late: &[u64]) -> Passed {
        let (at, since) = (EventId::new(id), EventId::ZERO);
        let late = late.iter().map(|&xid| LateTransaction { xid: Xid::new(xid), since });
        Passed { from: at, to: at, late: late.collect() }
    }

    #[test]
    fn what_was_late_then_is_no_surprise_and_all_else_is() {
        let passed = [passed(3, &[]), passed(5, &[7]), passed(6, &[7])];
        let rows = vec![Row(3, 7), Row(5, 7), Row(6, 8)];
        let surprises: Vec<i64> = surprises(&passed, rows).iter().map(|row| row.0).collect();
        assert_eq!(surprises, [3, 6]);
    }

    #[test]
    fn it_looks_again_later_a_batch_at_a_time_and_remembers_no_more_than_it_may() {
        let (now, mut auditor) = (Instant::now(), Auditor::default());
        let dead = |_| Passed { from: EventId::ZERO, to: EventId::ZERO, late: Late::default() };
        auditor.remember((0..Auditor::MOST - 1).map(dead), now);
        auditor.remember((0..10).map(dead), now);
        assert_eq!(auditor.take_due(now + Auditor::LATER / 2).len(), 0, "it may still come");
        let mut batch = || auditor.take_due(now + Auditor::LATER).len();
        let batches: Vec<usize> =
            std::iter::from_fn(|| Some(batch()).filter(|it| *it > 0)).collect();
        assert!(batches.iter().all(|it| *it <= Auditor::BATCH));
        assert_eq!(batches.iter().sum::<usize>(), Auditor::MOST);
    }
}

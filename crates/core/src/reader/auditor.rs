//! Checks ids that were passed over as dead once more, a little later.
//!
//! No row can turn up there while all rows are written through the trigger. If the trigger is disabled, or
//! ids are set by hand, a row can, and that is an error that must be reported.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::{event::Logged, order::Passed};

/// The ids that are to be checked, in ranges, in the order of their time.
#[derive(Debug, Default)]
pub(super) struct Auditor {
    due: VecDeque<(Instant, Passed)>,
}

impl Auditor {
    /// How much later a range is checked.
    const AUDIT_DELAY: Duration = Duration::from_secs(5);
    /// The most ranges that are remembered. Ids of a rollback storm beyond that are not checked.
    const MAX_RANGES: usize = 50_000;
    /// The most ranges that one query checks.
    const BATCH_RANGES: usize = 500;

    /// Remembers ranges of ids that were passed over.
    pub(super) fn remember(&mut self, passed: impl IntoIterator<Item = Passed>, now: Instant) {
        let room = Self::MAX_RANGES.saturating_sub(self.due.len());
        let due = passed.into_iter().take(room).map(|passed| (now + Self::AUDIT_DELAY, passed));
        self.due.extend(due);
    }

    /// Takes the ranges that are due, at most one batch.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<Passed> {
        let due = self.due.iter().take(Self::BATCH_RANGES).take_while(|(at, _)| *at <= now).count();
        self.due.drain(..due).map(|(_, passed)| passed).collect()
    }

    /// Forgets everything: the log was replaced, and its ids mean something else.
    pub(super) fn forget(&mut self) {
        self.due.clear();
    }
}

/// Those of `rows` that should not exist. Rows of a transaction that was late when the ids were passed over
/// are expected.
pub(super) fn unexpected_rows<E: Logged>(passed: &[Passed], mut rows: Vec<E>) -> Vec<E> {
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
    fn only_rows_of_late_transactions_are_expected() {
        let passed = [passed(3, &[]), passed(5, &[7]), passed(6, &[7])];
        let rows = vec![Row(3, 7), Row(5, 7), Row(6, 8)];
        let unexpected: Vec<i64> = unexpected_rows(&passed, rows).iter().map(|row| row.0).collect();
        assert_eq!(unexpected, [3, 6]);
    }

    #[test]
    fn checks_later_in_batches_and_remembers_a_bounded_number() {
        let (now, mut auditor) = (Instant::now(), Auditor::default());
        let dead = |_| Passed { from: EventId::ZERO, to: EventId::ZERO, late: Late::default() };
        auditor.remember((0..Auditor::MAX_RANGES - 1).map(dead), now);
        auditor.remember((0..10).map(dead), now);
        assert_eq!(auditor.take_due(now + Auditor::AUDIT_DELAY / 2).len(), 0, "too early");
        let mut batch = || auditor.take_due(now + Auditor::AUDIT_DELAY).len();
        let batches: Vec<usize> =
            std::iter::from_fn(|| Some(batch()).filter(|it| *it > 0)).collect();
        assert!(batches.iter().all(|it| *it <= Auditor::BATCH_RANGES));
        assert_eq!(batches.iter().sum::<usize>(), Auditor::MAX_RANGES);
    }
}

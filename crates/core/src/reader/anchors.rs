//! Rows that were read, by which the log is known again.
//!
//! A log that was truncated and filled again, or restored from a backup, may reach beyond the
//! head. Then the same id has a row of another transaction.

use crate::event::{EventId, Logged, Xid};

/// Some of the rows that were read, ascending by id: many of the last ones, few of the older.
///
/// Those that were found the last time are kept until they are looked for again, however much is
/// read meanwhile: that may be of another log already.
#[derive(Debug, Default)]
pub(super) struct Anchors {
    found: Vec<(EventId, Xid)>,
    since: Vec<(EventId, Xid)>,
}

impl Anchors {
    /// As many of each.
    const MOST: usize = 16;

    /// Remembers a row behind all that are remembered.
    pub(super) fn remember(&mut self, row: &impl Logged) {
        if self.all().last().is_some_and(|(id, _)| *id >= row.id()) {
            return;
        }
        self.since.push((row.id(), row.xid()));
        thin(&mut self.since);
    }

    fn all(&self) -> impl DoubleEndedIterator<Item = &(EventId, Xid)> {
        self.found.iter().chain(&self.since)
    }

    /// The ids to look for: these, or the head's while there are none.
    pub(super) fn ids(&self, head: EventId) -> Vec<EventId> {
        let ids: Vec<EventId> = self.all().map(|(id, _)| *id).collect();
        if ids.is_empty() { vec![head] } else { ids }
    }

    /// Takes note of what stands at these ids. Answers whether the log is another one; a row that
    /// is gone may have been pruned, and proves nothing.
    pub(super) fn compare(&mut self, found: &[(EventId, Xid)]) -> bool {
        if self.all().any(|anchor| differs(anchor, found)) {
            return true;
        }
        self.found.append(&mut self.since);
        if self.found.is_empty() {
            self.found.extend(found.iter().copied());
        }
        thin(&mut self.found);
        false
    }

    /// Keeps only rows of what both logs have in common; answers the id of the last one. What was
    /// read behind a row that differs was of the new log already.
    pub(super) fn keep(&mut self, found: &[(EventId, Xid)]) -> EventId {
        let same = self.all().take_while(|anchor| !differs(anchor, found));
        self.found = same.filter(|anchor| found.contains(anchor)).copied().collect();
        self.since.clear();
        self.found.last().map_or(EventId::ZERO, |(id, _)| *id)
    }
}

/// Lets go of every other one where there are too many; of the first and the last never.
fn thin(anchors: &mut Vec<(EventId, Xid)>) {
    while anchors.len() > Anchors::MOST {
        let last = anchors.len() - 1;
        let mut at = 0..;
        anchors.retain(|_| at.next().is_some_and(|at| at % 2 == 0 || at == last));
    }
}

/// Whether another transaction's row stands there.
fn differs((id, xid): &(EventId, Xid), found: &[(EventId, Xid)]) -> bool {
    found.iter().any(|it| it.0 == *id && it.1 != *xid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::testing::Row;

    #[test]
    fn few_rows_are_remembered_the_first_and_the_last_among_them() {
        let mut anchors = Anchors::default();
        for id in 1..=1000 {
            anchors.remember(&Row(id, 7));
        }
        let ids = anchors.ids(EventId::ZERO);
        assert!(ids.len() <= Anchors::MOST);
        assert_eq!(ids.first(), Some(&EventId::new(1)));
        assert_eq!(ids.last(), Some(&EventId::new(1000)));
    }

    #[test]
    fn what_was_found_is_looked_for_again_however_much_is_read_meanwhile() {
        let mut anchors = Anchors::default();
        anchors.remember(&Row(1, 7));
        anchors.remember(&Row(2, 8));
        assert!(!anchors.compare(&[(EventId::new(2), Xid::new(8))]), "1 was pruned");
        for id in 3..=1000 {
            anchors.remember(&Row(id, 9));
        }
        assert!(anchors.compare(&[(EventId::new(2), Xid::new(9))]));
    }

    #[test]
    fn a_row_of_another_transaction_is_of_another_log_and_a_missing_one_proves_nothing() {
        let at = |id, xid| (EventId::new(id), Xid::new(xid));
        let mut anchors = Anchors::default();
        for row in [Row(1, 7), Row(2, 8), Row(3, 9)] {
            anchors.remember(&row);
        }
        assert!(!anchors.compare(&[]));
        assert!(!anchors.compare(&[at(1, 7), at(3, 9)]));
        anchors.remember(&Row(4, 10));
        let found = [at(1, 7), at(2, 8), at(3, 10), at(4, 10)];
        assert!(anchors.compare(&found));
        assert_eq!(anchors.keep(&found), EventId::new(2), "4 was read in the new log");
        assert!(!anchors.compare(&found));
    }
}

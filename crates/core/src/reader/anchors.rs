//! Rows that were read, by which the reader recognises the log.
//!
//! A log that was truncated and filled again, or restored from a backup, may reach beyond the head. Then
//! another transaction's row has the same id.

use crate::event::{EventId, Logged, Xid};

/// Some of the rows that were read, in id order: many of the newest, few of the older ones.
///
/// Rows that were found at the last comparison are kept until the next one, however much is read in the
/// meantime, since that may already be of another log.
#[derive(Debug, Default)]
pub(super) struct Anchors {
    found: Vec<(EventId, Xid)>,
    since: Vec<(EventId, Xid)>,
}

impl Anchors {
    /// The most rows that are kept in each list.
    const MAX_ANCHORS: usize = 16;

    /// Remembers a row, unless it is not behind all that are remembered.
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

    /// The ids to look for: those of the anchors, or the head while there are none.
    pub(super) fn ids(&self, head: EventId) -> Vec<EventId> {
        let ids: Vec<EventId> = self.all().map(|(id, _)| *id).collect();
        if ids.is_empty() { vec![head] } else { ids }
    }

    /// Compares the anchors with the rows that were found at their ids. Returns whether the log is another
    /// one. A row that is gone may have been pruned, and proves nothing.
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

    /// Keeps only the rows that both logs have in common. Returns the id of the last one. Rows behind the
    /// first one that differs were read from the new log already.
    pub(super) fn keep(&mut self, found: &[(EventId, Xid)]) -> EventId {
        let same = self.all().take_while(|anchor| !differs(anchor, found));
        self.found = same.filter(|anchor| found.contains(anchor)).copied().collect();
        self.since.clear();
        self.found.last().map_or(EventId::ZERO, |(id, _)| *id)
    }
}

/// Drops every other anchor while there are too many, but never the first and the last.
fn thin(anchors: &mut Vec<(EventId, Xid)>) {
    while anchors.len() > Anchors::MAX_ANCHORS {
        let last = anchors.len() - 1;
        let mut at = 0..;
        anchors.retain(|_| at.next().is_some_and(|at| at % 2 == 0 || at == last));
    }
}

/// Whether another transaction's row has this id.
fn differs((id, xid): &(EventId, Xid), found: &[(EventId, Xid)]) -> bool {
    found.iter().any(|it| it.0 == *id && it.1 != *xid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::testing::Row;

    #[test]
    fn keeps_few_rows_and_always_the_first_and_the_last() {
        let mut anchors = Anchors::default();
        for id in 1..=1000 {
            anchors.remember(&Row(id, 7));
        }
        let ids = anchors.ids(EventId::ZERO);
        assert!(ids.len() <= Anchors::MAX_ANCHORS);
        assert_eq!(ids.first(), Some(&EventId::new(1)));
        assert_eq!(ids.last(), Some(&EventId::new(1000)));
    }

    #[test]
    fn rows_that_were_found_are_compared_again_after_much_is_read() {
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
    fn another_transactions_row_proves_another_log() {
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

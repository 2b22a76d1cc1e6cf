//! Replacement of the log: TRUNCATE, or restoring a backup.

use std::collections::BTreeMap;

use super::world::{Row, World};

/// The contents of a backup. Events that are deleted later are deleted here, too: no one can expect a deleted event
/// to reappear.
pub(super) struct Backup {
    rows: BTreeMap<i64, Row>,
    pruned: BTreeMap<i64, Row>,
    noted: i64,
    next_id: i64,
}

/// PostgreSQL's transaction id for rows that were committed long ago (frozen).
pub(super) const OLD: u64 = 2;

impl World {
    pub(super) fn back_up(&mut self) {
        let (rows, pruned) = (self.rows.clone(), self.pruned.clone());
        let (noted, next_id) = (self.noted, self.next_id);
        self.backup = Some(Backup { rows, pruned, noted, next_id });
    }

    /// Replaces the server by one with the contents of the backup. Returns `false` if there is no backup.
    pub(super) fn restore(&mut self) -> bool {
        let Some(backup) = self.backup.take() else { return false };
        self.open.clear();
        if self.chance(0.5) {
            self.become_younger();
        }
        self.noted = backup.noted;
        self.replace(backup.rows, backup.pruned, backup.next_id);
        true
    }

    /// Restores a dump into this cluster, before any gateway has started.
    pub(super) fn restore_dump(&mut self) {
        for _ in 0..150 {
            self.move_writers(5);
        }
        self.end_all();
        self.become_younger();
    }

    /// Lets new transactions get ids that rows of the log may already have, as after a dump was restored into a newer
    /// cluster.
    fn become_younger(&mut self) {
        assert!(self.open.is_empty(), "open transactions would get duplicate ids");
        self.next_xid = self.random.u64(100..110).min(self.next_xid);
        // Nothing is known about the transactions of the other cluster.
        self.commits.clear();
    }

    /// Does what `serve` does before it starts: marks rows of another cluster as old if their transaction is in the
    /// future or in progress in this cluster.
    pub(super) fn mark_restored(&mut self) {
        let (next, open) = (self.next_xid, &self.open);
        let foreign = |row: &&mut Row| row.xid >= next || open.contains_key(&row.xid);
        self.rows.values_mut().filter(foreign).for_each(|row| row.xid = OLD);
    }

    /// Runs TRUNCATE with RESTART IDENTITY, which waits for all writers, and inserts rows in the same transaction.
    pub(super) fn truncate(&mut self, rows: i64) {
        for xid in self.open.keys().copied().collect::<Vec<_>>() {
            let commit = self.random.bool();
            self.end(xid, commit);
        }
        let gone = self.rows.keys().next_back().copied().unwrap_or(0);
        self.noted = self.noted.max(gone);
        self.prunings += 1;
        self.replace(BTreeMap::new(), BTreeMap::new(), 1);
        if rows > 0 {
            let xid = self.begin(false);
            (0..rows).for_each(|_| self.draw(xid));
            self.end(xid, true);
        }
    }

    /// Deletes a row from the backup, because it was pruned or deleted.
    pub(super) fn forget_in_backup(&mut self, row: &Row, pruned: bool) {
        let Some(backup) = &mut self.backup else { return };
        if backup.rows.remove(&row.id).is_some() && pruned {
            backup.pruned.insert(row.id, *row);
        }
    }

    fn replace(&mut self, rows: BTreeMap<i64, Row>, pruned: BTreeMap<i64, Row>, next_id: i64) {
        self.log += 1;
        (self.rows, self.pruned, self.next_id) = (rows, pruned, next_id);
        self.same_upto = self.drawn();
        self.commits.clear();
        self.erased_at.clear();
    }
}

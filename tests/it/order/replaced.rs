//! The log becomes another one: it is truncated, or restored from a backup.

use std::collections::BTreeMap;

use super::world::{Row, World};

/// What a backup has of the log. What is deleted later is deleted here, too: an event that comes back
/// is nobody's to know.
pub(super) struct Backup {
    rows: BTreeMap<i64, Row>,
    pruned: BTreeMap<i64, Row>,
    noted: i64,
    next_id: i64,
}

/// PostgreSQL's own number for "committed long ago".
pub(super) const OLD: u64 = 2;

impl World {
    pub(super) fn back_up(&mut self) {
        let (rows, pruned) = (self.rows.clone(), self.pruned.clone());
        let (noted, next_id) = (self.noted, self.next_id);
        self.backup = Some(Backup { rows, pruned, noted, next_id });
    }

    /// The server is gone, and another one has what was in the backup. Answers false where there is
    /// none.
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

    /// A dump is restored into this cluster, before any gateway has started.
    pub(super) fn restore_dump(&mut self) {
        for _ in 0..150 {
            self.move_writers(5);
        }
        self.end_all();
        self.become_younger();
    }

    /// From now on transactions get numbers that rows of the log may bear already, as after a dump was
    /// restored into a younger cluster.
    fn become_younger(&mut self) {
        assert!(self.open.is_empty(), "its transactions would meet themselves");
        self.next_xid = self.dice.u64(100..110).min(self.next_xid);
        // Of transactions of the other cluster nothing is known.
        self.commits.clear();
    }

    /// What `serve` does before it starts: rows of another cluster, whose transaction is still to come here or
    /// in progress, are marked as old.
    pub(super) fn mark_restored(&mut self) {
        let (next, open) = (self.next_xid, &self.open);
        let foreign = |row: &&mut Row| row.xid >= next || open.contains_key(&row.xid);
        self.rows.values_mut().filter(foreign).for_each(|row| row.xid = OLD);
    }

    /// TRUNCATE with RESTART IDENTITY, which waits for all who write, and so many rows in the same
    /// transaction.
    pub(super) fn truncate(&mut self, rows: i64) {
        for xid in self.open.keys().copied().collect::<Vec<_>>() {
            let commit = self.dice.bool();
            self.end(xid, commit);
        }
        let gone = self.rows.keys().next_back().copied().unwrap_or(0);
        self.noted = self.noted.max(gone);
        self.replace(BTreeMap::new(), BTreeMap::new(), 1);
        if rows > 0 {
            let xid = self.begin(false);
            (0..rows).for_each(|_| self.draw(xid));
            self.end(xid, true);
        }
    }

    /// A row is gone, because it was pruned or deleted.
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

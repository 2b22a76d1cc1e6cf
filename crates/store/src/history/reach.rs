//! How far a snapshot, which a client sends as its cursor, reaches into the log.

use std::sync::LazyLock;

use super::queries::{History, HistoryError};
use crate::{
    consumer::ConsumerId,
    event::EventId,
    event_log::{DRAWN, NEWEST},
    snapshot::Snapshot,
};

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotReach {
    /// The least id of a visible row of a transaction that began behind the snapshot; 1, when there are too
    /// many such rows to look at. `None`: there is none.
    pub first_owed: Option<EventId>,
    /// At least the greatest id of a row that the snapshot sees.
    pub seen_upto: EventId,
    /// The greatest id of these consumers that was pruned; 0 when none was.
    pub pruned: EventId,
    /// Whether some of that was pruned behind the snapshot.
    pub pruned_since: bool,
}

/// So many rows are looked at for the least id: a second's worth.
const MAX_ROWS: i64 = 1_000_000;

/// The rows of transactions that began behind the snapshot, by the index on `xid`: both ends are named, since
/// the planner expects a third of the table behind one. They are few unless the state was read long ago.
/// Notes of what was pruned bear their transactions, whose 32 bits are widened to the newest that fits.
static REACH: LazyLock<String> = LazyLock::new(|| {
    "with asked as (select $1::text::pg_snapshot as snapshot,
                           pg_snapshot_xmax(pg_current_snapshot())::text::int8 as next),
     owed as (select min(item.id) as first, count(*) as rows from (
                  select log.id from events log
                  where log.xid::text::int8 between $2 and 9223372036854775807
                  limit $3) item),
     notes as (select pruned.upto, pg_visible_in_snapshot(
                          (asked.next - ((asked.next - pruned.xmin::text::int8) & 4294967295))
                          ::text::xid8, asked.snapshot) as seen
               from events_pruned pruned, asked
               where ($4::text[] is null or pruned.subscriber = any($4)
                      or pruned.subscriber is null)
                 and pruned.upto <= coalesce((DRAWN), pruned.upto))
     select case when owed.rows < $3 then owed.first else 1 end, (NEWEST),
            coalesce((select max(notes.upto) from notes), 0),
            exists (select from notes where not notes.seen)
     from owed"
        .replace("DRAWN", DRAWN)
        .replace("NEWEST", NEWEST)
});

/// Whether the snapshot can be one of this cluster.
const IS_OF_CLUSTER: &str =
    "select $1::int8 <= pg_snapshot_xmax(pg_current_snapshot())::text::int8";

impl History {
    /// How far a snapshot reaches, and what of these consumers was pruned.
    ///
    /// # Errors
    /// PostgreSQL did not answer.
    pub async fn reach(
        &self,
        snapshot: &Snapshot,
        consumers: &[ConsumerId],
    ) -> Result<SnapshotReach, HistoryError> {
        self.reach_of(snapshot, Some(consumers.iter().map(ConsumerId::as_str).collect())).await
    }

    /// The same for everybody's events.
    ///
    /// # Errors
    /// PostgreSQL did not answer.
    pub async fn reach_of_all(&self, snapshot: &Snapshot) -> Result<SnapshotReach, HistoryError> {
        self.reach_of(snapshot, None).await
    }

    async fn reach_of(
        &self,
        snapshot: &Snapshot,
        names: Option<Vec<&str>>,
    ) -> Result<SnapshotReach, HistoryError> {
        let (text, xmax) = (snapshot.to_string(), number(snapshot));
        let values: [&(dyn tokio_postgres::types::ToSql + Sync); 4] =
            [&text, &xmax, &MAX_ROWS, &names];
        let rows = self.one("how far a snapshot reaches", &REACH, &values).await?;
        let row = rows.first().expect("an aggregate has one row");
        Ok(SnapshotReach {
            first_owed: row.get(0),
            seen_upto: row.get(1),
            pruned: row.get(2),
            pruned_since: row.get(3),
        })
    }

    /// Whether a snapshot can have been taken in this cluster: it ends no later than the next transaction.
    ///
    /// # Errors
    /// PostgreSQL did not answer.
    pub async fn may_have_taken(&self, snapshot: &Snapshot) -> Result<bool, HistoryError> {
        let rows = self.one("a snapshot", IS_OF_CLUSTER, &[&number(snapshot)]).await?;
        Ok(rows.first().is_some_and(|row| row.get(0)))
    }
}

/// The snapshot's end, as the index on `xid` has it.
fn number(snapshot: &Snapshot) -> i64 {
    i64::try_from(snapshot.xmax().get()).unwrap_or(i64::MAX)
}

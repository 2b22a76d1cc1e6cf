//! How far a snapshot, which a client sends as its cursor, reaches into the log.

use std::sync::LazyLock;

use super::queries::{History, HistoryError};
use crate::{
    consumer::ConsumerId,
    event::EventId,
    event_log::{DRAWN, NEWEST},
    snapshot::Snapshot,
};

/// How far a snapshot reaches into the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotReach {
    /// The least id of a visible row of a transaction that began after the snapshot. 1 if there are too many
    /// such rows to examine; `None` if there are none.
    pub first_owed: Option<EventId>,
    /// At least the greatest id of a row that the snapshot sees.
    pub seen_upto: EventId,
    /// The greatest pruned id of these consumers; 0 if none was pruned.
    pub pruned: EventId,
    /// Whether some of these events were pruned after the snapshot.
    pub pruned_since: bool,
}

/// The most rows that the query examines to find the least id. This takes about a second.
const MAX_ROWS: i64 = 1_000_000;

/// Reads the rows of transactions that began after the snapshot, by the index on `xid`. The range has both
/// bounds, since with one bound the planner expects a third of the table. The rows are few unless the state
/// was read long ago. `xmin` of a row of `events_pruned` is its transaction. Its 32 bits are widened to the
/// newest 64-bit id that fits.
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

/// Whether the snapshot can have been taken in this cluster.
const IS_OF_CLUSTER: &str =
    "select $1::int8 <= pg_snapshot_xmax(pg_current_snapshot())::text::int8";

impl History {
    /// How far a snapshot reaches, and which events of these consumers were pruned.
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

    /// Like [`reach`](Self::reach), but for the events of all consumers.
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

    /// Whether a snapshot can have been taken in this cluster: its `xmax` is at most the next transaction id.
    ///
    /// # Errors
    /// PostgreSQL did not answer.
    pub async fn may_have_taken(&self, snapshot: &Snapshot) -> Result<bool, HistoryError> {
        let rows = self.one("a snapshot", IS_OF_CLUSTER, &[&number(snapshot)]).await?;
        Ok(rows.first().is_some_and(|row| row.get(0)))
    }
}

/// The snapshot's `xmax`, in the type of the index on `xid`.
fn number(snapshot: &Snapshot) -> i64 {
    i64::try_from(snapshot.xmax().get()).unwrap_or(i64::MAX)
}

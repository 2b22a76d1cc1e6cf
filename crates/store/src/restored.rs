//! Rows of a backup that was restored into another cluster have transaction ids of the old cluster.
//!
//! If such an id is still to come in this cluster, one of its transactions will have it one day, and would be
//! taken for the transaction that wrote the row. If the id is in progress, that happens already. So these
//! rows are marked as written long ago while they can still be recognised: a visible row was not written by a
//! transaction that is still to come or in progress.

/// The rows of another cluster. The index on `xid` serves the first condition.
macro_rules! of_another_cluster {
    () => {
        "from events log
         where (log.xid::text::int8 >= (select pg_snapshot_xmax(pg_current_snapshot())::text::int8)
                or log.xid::text::int8 = any(array(
                    select pg_snapshot_xip(pg_current_snapshot())::text::int8)))
           and not pg_visible_in_snapshot(log.xid, pg_current_snapshot())"
    };
}

use tokio_postgres::{Client, error::SqlState};

use crate::session::{self, Purpose};

type Result<T> = std::result::Result<T, tokio_postgres::Error>;

/// What was done about such rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restored {
    /// There are none.
    None,
    /// This many were marked as old.
    Marked(u64),
    /// There are some, and the role may not change them.
    NotAllowed,
}

impl Restored {
    /// The result as a sentence for people. `None` if there are no such rows.
    #[must_use]
    pub fn to_words(self) -> Option<String> {
        match self {
            Self::None => None,
            Self::Marked(rows) => {
                Some(format!("marked {rows} rows that were restored from another cluster as old"))
            }
            Self::NotAllowed => Some(
                "rows were restored from another cluster, and this role may not mark them as old; \
                 run `event-piper migrate` as the tables' owner"
                    .into(),
            ),
        }
    }
}

/// Whether there are such rows.
pub(super) const ARE_THERE: &str = concat!("select exists (select ", of_another_cluster!(), ")");

/// Marks a page of such rows. Transaction 2 is PostgreSQL's own id for "committed long ago".
const MARK: &str = concat!(
    "with restored as materialized (select log.id ",
    of_another_cluster!(),
    " limit 10000)
    update events log set xid = '2' from restored where log.id = restored.id"
);

/// Allows only the index on `xid`: the whole log must not be read at each start to find that there are no
/// such rows.
pub(super) const BY_THE_INDEX: &str =
    "set local enable_seqscan = off; set local enable_indexscan = off";
const ALLOW_CHANGES: &str = "set local event_piper.prune = 'on'; set local lock_timeout = '10s'";

/// Marks the rows as old, a page at a time, in a transaction each.
pub(super) async fn mend(client: &Client) -> Result<Restored> {
    if !are_there(client).await? {
        return Ok(Restored::None);
    }
    let mut marked = 0;
    loop {
        session::begin(client, Purpose::Change).await?;
        client.batch_execute(BY_THE_INDEX).await?;
        client.batch_execute(ALLOW_CHANGES).await?;
        match client.execute(MARK, &[]).await {
            Ok(rows) => {
                client.batch_execute("commit").await?;
                marked += rows;
                if rows == 0 {
                    return Ok(Restored::Marked(marked));
                }
            }
            Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
                client.batch_execute("rollback").await?;
                return Ok(Restored::NotAllowed);
            }
            Err(error) => return Err(error),
        }
    }
}

async fn are_there(client: &Client) -> Result<bool> {
    session::begin(client, Purpose::Read).await?;
    client.batch_execute(BY_THE_INDEX).await?;
    let row = client.query_one(ARE_THERE, &[]).await;
    client.batch_execute("rollback").await?;
    match row {
        Ok(row) => Ok(row.get(0)),
        // A role that may not read the log cannot serve it. Others report that better.
        Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => Ok(false),
        Err(error) => Err(error),
    }
}

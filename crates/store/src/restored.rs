//! Rows of a backup that was restored into another cluster: they bear transaction ids of the old one.
//!
//! Where such an id is still to come here, a transaction of this cluster will have it one day, and would be
//! taken for the one that wrote the row; where it is in progress, it is taken for that already. So these rows
//! are marked as written long ago, while they can still be told from others: no row that is visible was
//! written by a transaction that is still to come, or in progress.

/// Which rows are of another cluster. Its first condition is the one that the index on `xid` serves.
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

/// What became of such rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restored {
    /// There are none.
    None,
    /// So many are marked as old by now.
    Marked(u64),
    /// The role may not change them.
    NotAllowed,
}

impl Restored {
    /// A sentence for people, where there is something to say.
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

/// Marks a page of them. Transaction 2 is PostgreSQL's own name for "committed long ago".
const MARK: &str = concat!(
    "with restored as materialized (select log.id ",
    of_another_cluster!(),
    " limit 10000)
    update events log set xid = '2' from restored where log.id = restored.id"
);

/// Only the index on `xid` may be used to look for them: that there are none is not to be found out by
/// reading all of the log, at each start.
pub(super) const BY_THE_INDEX: &str =
    "set local enable_seqscan = off; set local enable_indexscan = off";
const ALLOW_CHANGES: &str = "set local event_piper.prune = 'on'; set local lock_timeout = '10s'";

/// Marks these rows as old, a page at a time, in a transaction each.
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
        // A role that may not read the log cannot serve it, which others tell better.
        Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => Ok(false),
        Err(error) => Err(error),
    }
}

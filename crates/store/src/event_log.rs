//! The queries on the log: on the table `events`, and on the locks that show who is writing to it.

mod columns;
mod paging;
mod rows;
mod span;
mod sql;
mod values;

use futures::{join, try_join};
use tokio_postgres::{Client, Row, Statement, error::SqlState, types::ToSql};
use tracing::warn;

use self::sql::{
    AGE_OF_LOG, AGE_OF_PAGE, BACKENDS, CHANGED, ENDED, FIRST_LATE, LATE_ROWS, LOG_STATE,
    NEWEST_OR_PRUNED, NO_AGE, PASSED, PRIVILEGES, ROW_IDS, SET_FIRST_LATE_TIMEOUT, SMALL_TAIL,
    SNAPSHOT, TAIL, WRITERS,
};
pub(super) use self::{
    columns::{delivered, delivered_small, measured},
    rows::rows,
    span::Span,
    sql::{DRAWN, FEW_LATE, NEWEST},
};
pub use self::{
    paging::Paging,
    rows::{EventRow, Page, PageSize},
};
use crate::{
    consumer::ConsumerId,
    doorbell,
    event::{EventId, Logged, Xid},
    order::Passed,
};

/// Queries on the log, prepared on one connection.
#[derive(Debug)]
pub struct EventLog {
    /// Whether the tail is read with the contents of the rows.
    with_contents: bool,
    tail: Statement,
    small_tail: Statement,
    newest: Statement,
    writers: Statement,
    ended: Statement,
    late_rows: Statement,
    few_late_rows: Statement,
    few_late: Statement,
    first_late: Statement,
    passed: Statement,
    state: Statement,
    snapshot: Statement,
    /// `None` where the role may not read `events_erased`.
    changed: Option<Statement>,
}

/// The answer to the safety poll.
#[derive(Clone, Debug)]
pub struct LogState {
    /// The known rows that are there, and the transactions that wrote them.
    pub found: Vec<(EventId, Xid)>,
    /// Whether some transaction of the cluster notifies, and waits for another one to commit.
    pub ringing_waits: bool,
    /// The last id that was drawn. `None` where the role may not see the sequence.
    pub drawn: Option<EventId>,
    /// How full the queue of notifications is, from 0 to 1.
    pub notification_queue: f64,
    /// Whether other readers are connected that the keeper of the bell has to wake.
    pub others: bool,
    /// Whether the server is a standby, to which nothing is written.
    pub standby: bool,
}

/// The consumers whose rows were changed after they were written, and may be in the memory of a gateway.
#[derive(Clone, Debug)]
pub struct Changed {
    /// The consumers. `None` if there are more than can be named, or if that is not known.
    pub whose: Option<Vec<ConsumerId>>,
    /// The snapshot up to which the changes are known.
    pub as_of: String,
}

/// A writer that was found in the lock table.
#[derive(Clone, Debug)]
pub struct Writer {
    /// The writer's transaction.
    pub xid: Xid,
    /// The process id of its backend. `None` for a prepared transaction.
    pub pid: Option<i32>,
}

/// How often to ask for the writers until each has a transaction id. A writer has its id before it has one of
/// the locks. A writer that seems to have none is being prepared, and its locks are between two owners; the
/// next query finds them. A session that holds such a lock by hand, and writes nothing, is given up on.
const MAX_WRITER_QUERIES: usize = 5;

/// The most consumers that [`Changed`] names.
const MAX_CHANGED_CONSUMERS: i64 = 1000;

type Result<T> = std::result::Result<T, tokio_postgres::Error>;

impl EventLog {
    /// Prepares the queries on this connection, to read rows with their contents.
    pub async fn prepare(client: &Client) -> Result<Self> {
        Self::prepared(client, true).await
    }

    /// Prepares the queries to read only the ids and transactions of rows, for callers that read the contents
    /// themselves.
    pub async fn prepare_for_places(client: &Client) -> Result<Self> {
        Self::prepared(client, false).await
    }

    /// Takes two round trips. The queries that do not depend on the server's settings and the role's rights
    /// come first.
    async fn prepared(client: &Client, with_contents: bool) -> Result<Self> {
        let state = LOG_STATE.replace("DRAWN", DRAWN).replace("LOCKS", doorbell::LOCKS);
        let writers = WRITERS.replace("LOCKS", doorbell::LOCKS);
        let (may, snapshot, writers, ended, state) = try_join!(
            client.query_typed_one(PRIVILEGES, &[]),
            client.prepare(SNAPSHOT),
            client.prepare(&writers),
            client.prepare(ENDED),
            client.prepare(&state),
        )?;
        let timed = may.get::<_, &str>(0) == "on";
        let age = |age| if timed { age } else { NO_AGE };
        let tail = TAIL.replace("AGE", age(AGE_OF_PAGE));
        let small_tail =
            if with_contents { SMALL_TAIL } else { ROW_IDS }.replace("AGE", age(AGE_OF_LOG));
        let (near, far) = (Span::Short.query(LATE_ROWS), Span::Long.query(LATE_ROWS));
        let newest = newest_of(may.get(2));
        let (
            newest,
            tail,
            small_tail,
            late_rows,
            few_late_rows,
            few_late,
            first_late,
            passed,
            changed,
        ) = try_join!(
            client.prepare(&newest),
            client.prepare(&tail),
            client.prepare(&small_tail),
            client.prepare(&near),
            client.prepare(&far),
            client.prepare(FEW_LATE),
            client.prepare(FIRST_LATE),
            client.prepare(PASSED),
            prepare_changed(client, may.get(1)),
        )?;
        Ok(Self {
            with_contents,
            tail,
            small_tail,
            newest,
            writers,
            ended,
            late_rows,
            few_late_rows,
            few_late,
            first_late,
            passed,
            state,
            snapshot,
            changed,
        })
    }

    /// The greatest id that is visible or was pruned.
    pub async fn newest(&self, client: &Client) -> Result<EventId> {
        Ok(client.query_one(&self.newest, &[]).await?.get(0))
    }

    /// The rows behind `after`. They have no contents if they are not read to be delivered.
    pub async fn tail(&self, client: &Client, after: EventId, paging: Paging) -> Result<Page> {
        let size = paging.size();
        let values: [&(dyn ToSql + Sync); 3] = [&after, &size.rows, &size.bytes];
        if !self.with_contents {
            let rows = rows(client, &self.small_tail, &values[..2], i64::MAX).await?;
            return Ok(Page::of_places(rows, size));
        }
        if paging.are_small() {
            let rows = rows(client, &self.small_tail, &values[..2], size.bytes).await?;
            let page = Page::of_small(rows, size);
            if page.last || !page.rows.is_empty() {
                return Ok(page);
            }
        }
        Ok(Page::of(rows(client, &self.tail, &values, size.bytes).await?, size))
    }

    /// The transactions that hold an id, or may draw one.
    pub async fn writers(&self, client: &Client) -> Result<Vec<Writer>> {
        let parameters: [&(dyn ToSql + Sync); 2] = [&doorbell::BELL_OID, &doorbell::WRITER_OID];
        let mut rows = Vec::new();
        for _ in 0..MAX_WRITER_QUERIES {
            rows = client.query(&self.writers, &parameters).await?;
            if rows.iter().all(|row| row.get::<_, Option<i64>>(1).is_some()) {
                break;
            }
        }
        Ok(first_transactions(&rows))
    }

    /// Describes the backends of these writers for people: process id, application and role of each.
    pub async fn backends(client: &Client, writers: &[&Writer]) -> Result<Vec<String>> {
        let pids: Vec<i32> = writers.iter().filter_map(|writer| writer.pid).collect();
        let prepared = writers.len() - pids.len();
        let rows = client.query(BACKENDS, &[&pids]).await?;
        let mut who: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        who.extend((0..prepared).map(|_| "a prepared transaction".to_owned()));
        Ok(who)
    }

    /// Those of the transactions that have ended. What they committed is visible.
    pub async fn ended(&self, client: &Client, xids: &[Xid]) -> Result<Vec<Xid>> {
        let rows = client.query(&self.ended, &[&xids]).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// Some rows that these transactions wrote above `after` and up to `upto`, and the id up to which they
    /// are all such rows. A query reads at most some tens of milliseconds' worth of the log, however much
    /// lies between the two ids.
    pub async fn late_rows(
        &self,
        client: &Client,
        xids: &[Xid],
        (after, upto): (EventId, EventId),
        size: PageSize,
    ) -> Result<(Page, EventId)> {
        let numbers = numbers(xids);
        let far = Span::of((after, upto)) == Span::Long;
        let few = far && client.query_one(&self.few_late, &[&numbers, &after, &upto]).await?.get(0);
        let (statement, end) = if few {
            (&self.few_late_rows, upto)
        } else {
            (&self.late_rows, Span::short_end(after).min(upto))
        };
        let parameters: [&(dyn ToSql + Sync); 5] =
            [&numbers, &after, &end, &size.rows, &size.bytes];
        let page = Page::of(rows(client, statement, &parameters, size.bytes).await?, size);
        let read = match page.rows.last() {
            Some(row) if !page.last => row.id(),
            _ => end,
        };
        if read == upto || !page.rows.is_empty() {
            return Ok((page, read));
        }
        let first = self.first_late(client, &numbers, (read, upto)).await?;
        Ok((page, first.map_or(read, EventId::previous)))
    }

    /// The first id in this range that one of these transactions wrote, or the one behind the range. `None`
    /// if that cannot be found soon, because they wrote very much.
    async fn first_late(
        &self,
        client: &Client,
        numbers: &[i64],
        (after, upto): (EventId, EventId),
    ) -> Result<Option<EventId>> {
        let parameters: [&(dyn ToSql + Sync); 3] = [&numbers, &after, &upto];
        // The statements are sent together, and executed in this order.
        let (limited, first, unlimited) = join!(
            client.batch_execute(SET_FIRST_LATE_TIMEOUT),
            client.query_one(&self.first_late, &parameters),
            client.batch_execute("set statement_timeout = 0"),
        );
        limited.and(unlimited)?;
        match first {
            Ok(row) => Ok(Some(row.get::<_, Option<EventId>>(0).unwrap_or(upto.next()))),
            Err(error) if error.code() == Some(&SqlState::QUERY_CANCELED) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The rows with ids that were passed over.
    pub async fn in_passed(&self, client: &Client, passed: &[Passed]) -> Result<Vec<EventRow>> {
        let first: Vec<EventId> = passed.iter().map(|passed| passed.from).collect();
        let last: Vec<EventId> = passed.iter().map(|passed| passed.to).collect();
        let rows = client.query(&self.passed, &[&first, &last]).await?;
        Ok(rows.into_iter().map(EventRow).collect())
    }

    /// The current snapshot, in PostgreSQL's text form.
    pub async fn snapshot(&self, client: &Client) -> Result<String> {
        Ok(client.query_one(&self.snapshot, &[]).await?.get(0))
    }

    /// The consumers whose rows were changed since this snapshot. `None` where the role may not read
    /// `events_erased`.
    pub async fn changed(&self, client: &Client, since: &str) -> Result<Option<Changed>> {
        let Some(statement) = &self.changed else { return Ok(None) };
        let row = client.query_one(statement, &[&since, &(MAX_CHANGED_CONSUMERS + 1)]).await?;
        let (undone, names): (bool, Vec<&str>) = (row.get(1), row.get(2));
        let all =
            undone || i64::try_from(names.len()).is_ok_and(|named| named > MAX_CHANGED_CONSUMERS);
        let whose = (!all).then(|| names.into_iter().map(ConsumerId::logged).collect());
        Ok(Some(Changed { whose, as_of: row.get(0) }))
    }

    /// Asks what the safety poll needs to know.
    pub async fn state(&self, client: &Client, known: &[EventId]) -> Result<LogState> {
        let parameters: [&(dyn ToSql + Sync); 2] = [&doorbell::READER_OID, &known];
        let row = client.query_one(&self.state, &parameters).await?;
        let (ids, xids): (Vec<EventId>, Vec<Xid>) = (row.get(4), row.get(5));
        Ok(LogState {
            found: ids.into_iter().zip(xids).collect(),
            ringing_waits: row.get(6),
            drawn: row.get(0),
            notification_queue: row.get(1),
            standby: row.get(2),
            others: row.get(3),
        })
    }
}

fn newest_of(may_see_pruned: bool) -> String {
    let query = if may_see_pruned { NEWEST_OR_PRUNED } else { "NEWEST" };
    query.replace("NEWEST", NEWEST).replace("DRAWN", DRAWN)
}

async fn prepare_changed(client: &Client, may_ask: bool) -> Result<Option<Statement>> {
    if !may_ask {
        warn!(
            "the role may not read events_erased: what is kept in memory of erased events \
             stays until newer ones take its place; postgresql/roles.sql has the right"
        );
        return Ok(None);
    }
    client.prepare(CHANGED).await.map(Some)
}

/// Transaction ids as the index on `xid` has them.
pub(super) fn numbers(xids: &[Xid]) -> Vec<i64> {
    xids.iter().map(|xid| xid.get().cast_signed()).collect()
}

/// The transaction of each virtual transaction: the smallest of its ids. Those of its sub-transactions were
/// assigned later.
fn first_transactions(rows: &[Row]) -> Vec<Writer> {
    let writer = |row: &Row| {
        let short = u32::try_from(row.get::<_, Option<i64>>(1)?).expect("an xid has 32 bits");
        let xid = Xid::widen(short, row.get(0));
        Some((row.get::<_, String>(3), Writer { xid, pid: row.get(2) }))
    };
    let mut writers: Vec<_> = rows.iter().filter_map(writer).collect();
    writers.sort_by(|(a, first), (b, second)| a.cmp(b).then(first.xid.cmp(&second.xid)));
    writers.dedup_by(|(later, _), (first, _)| later == first);
    writers.into_iter().map(|(_, writer)| writer).collect()
}

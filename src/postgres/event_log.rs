//! The queries on the log: the `events` table, and the locks that say who writes to it.

/// The columns of a row that is delivered, of the table `events` under the name `log`. Each is cast to
/// the type that the program reads, which costs nothing where it has that type: so a change of a
/// column's type changes the type of no answer.
///
/// In every query on the log each column is named with its table, and no `*` is used: a column that
/// users add must not be taken for one of ours, whatever its name is.
macro_rules! delivered {
    () => {
        "log.id::int8 as id, log.xid::xid8 as xid, log.type::text as type,
        log.payload::jsonb as payload, log.amends::int8 as amends"
    };
}

/// The same with a payload only where it takes less room than a page of the table: a larger one is
/// withheld, for rows that are asked for together may not be large. See [`Page::of_small`].
macro_rules! delivered_small {
    () => {
        "log.id::int8 as id, log.xid::xid8 as xid, log.type::text as type,
        case when pg_column_size(log.payload) <= 8192 then log.payload::jsonb end as payload,
        log.amends::int8 as amends"
    };
}

/// What is needed to cut a page of rows, which are called `item`, at its size in bytes, in the order of
/// their ids.
macro_rules! measured {
    () => {
        "count(*) over () as found,
         sum(pg_column_size(item.payload)) over (order by item.id)
             - pg_column_size(item.payload) as before"
    };
}

mod paging;
mod span;
mod values;

use std::time::Duration;

use futures::{TryStreamExt, join, try_join};
use tokio_postgres::{Client, Row, Statement, error::SqlState, types::ToSql};
use tracing::warn;

pub use self::paging::Paging;
pub(super) use self::span::Span;
use self::values::Json;
use super::doorbell;
use crate::{
    consumer::ConsumerId,
    event::{EventId, Logged, Xid},
    order::Passed,
};
pub(super) use {delivered, delivered_small, measured};

/// Reads of the log, prepared on one connection.
#[derive(Debug)]
pub struct EventLog {
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
    /// None where the role may not ask.
    changed: Option<Statement>,
}

/// A row of the log that is read to be delivered.
#[derive(Debug)]
pub struct EventRow(Row);

impl EventRow {
    /// Who it is for; nobody, when it is only of a stream. Only of rows that were not asked for by
    /// their consumers.
    #[must_use]
    pub fn subscriber(&self) -> Option<ConsumerId> {
        self.0.get::<_, Option<&str>>(5).map(ConsumerId::logged)
    }

    /// Its type.
    #[must_use]
    pub fn kind(&self) -> &str {
        self.0.get(2)
    }

    /// Its payload, as PostgreSQL prints it.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        self.0.get::<_, Json<'_>>(3).0
    }

    /// The stream that it is of, where that was asked for.
    #[must_use]
    pub fn stream(&self) -> Option<&str> {
        self.0.try_get(6).ok().flatten()
    }

    /// The event that it amends, where it does.
    #[must_use]
    pub fn amends(&self) -> Option<EventId> {
        self.0.get(4)
    }

    /// How long ago its transaction committed, by PostgreSQL's own clock; only where the
    /// server has `track_commit_timestamp` on.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        let seconds: Option<f64> = self.0.try_get(7).ok()?;
        Duration::try_from_secs_f64(seconds?).ok()
    }
}

impl Logged for EventRow {
    fn id(&self) -> EventId {
        self.0.get(0)
    }

    fn xid(&self) -> Xid {
        self.0.get(1)
    }
}

/// A page of rows in id order.
#[derive(Debug)]
pub struct Page {
    /// The rows.
    pub rows: Vec<EventRow>,
    /// No row stood behind these when they were read.
    pub last: bool,
}

/// How much one page may hold: as many rows, and as many bytes behind the first row.
#[derive(Clone, Copy, Debug)]
pub struct PageSize {
    /// Rows.
    pub rows: i64,
    /// Bytes.
    pub bytes: i64,
}

/// What the safety poll looks at beside the log itself.
#[derive(Clone, Debug)]
pub struct LogState {
    /// Of the rows that were asked about, those that are there, and whose they are.
    pub found: Vec<(EventId, Xid)>,
    /// Somebody in the cluster notifies, and waits for another one's commit.
    pub ringing_waits: bool,
    /// The last id that was drawn, where the role may see the sequence.
    pub drawn: Option<EventId>,
    /// How full the queue of notifications is, from 0 to 1.
    pub notification_queue: f64,
    /// Other readers are connected that the keeper of the bell has to wake.
    pub others: bool,
    /// The server has become a standby, or was one: nothing is written to it.
    pub standby: bool,
}

/// Whose rows were changed after they were written, as far as somebody may still keep them.
#[derive(Clone, Debug)]
pub struct Changed {
    /// Theirs; none: of more consumers than can be named, or that is not known.
    pub whose: Option<Vec<ConsumerId>>,
    /// The snapshot up to which that is so.
    pub as_of: String,
}

/// A writer that was found in the lock table.
#[derive(Clone, Debug)]
pub struct Writer {
    /// Its transaction.
    pub xid: Xid,
    /// Its backend; none for a prepared transaction.
    pub pid: Option<i32>,
}

/// Who a backend is, as far as everybody may know.
const BACKENDS: &str = "
select format('%s (%s, %s)', pid, coalesce(nullif(application_name, ''), 'no application_name'),
              usename)
from pg_stat_activity where pid = any($1) order by pid";

/// The page is cut at a number of rows first, and at a number of stored bytes second; `found`
/// tells a page that was cut from the last one. What is stored may be compressed, so it is cut
/// a third time as it arrives.
const TAIL: &str = concat!(
    "select page.id, page.xid, page.type, page.payload, page.amends, page.subscriber, page.stream,
           AGE, page.found
    from (select item.id, item.xid, item.type, item.payload, item.amends, item.subscriber,
                 item.stream, ",
    measured!(),
    " from (select ",
    delivered!(),
    ", log.subscriber::text as subscriber, log.stream::text as stream
               from events log where log.id > $1 order by log.id limit $2) item
    ) page where page.before <= $3 order by page.id"
);

/// The same where rows are small, as most are. To count and measure them would take PostgreSQL as long
/// as to find none, which is what most looks at the log find.
const SMALL_TAIL: &str = concat!(
    "select ",
    delivered_small!(),
    ", log.subscriber::text, log.stream::text, AGE
    from events log where log.id > $1 order by log.id limit $2"
);

/// How long ago the transaction of a row committed.
const AGE_OF_PAGE: &str =
    "extract(epoch from clock_timestamp() - pg_xact_commit_timestamp(page.xid::xid))::float8";
const AGE_OF_LOG: &str =
    "extract(epoch from clock_timestamp() - pg_xact_commit_timestamp(log.xid::xid))::float8";
const NO_AGE: &str = "null::float8";

/// The greatest visible id.
pub(super) const NEWEST: &str =
    "select coalesce((select log.id::int8 from events log order by log.id desc limit 1), 0)";

/// What was pruned stood in the log, too: a client that has not got so far has to be told. A note of
/// more than was ever drawn is of another log.
const NEWEST_OR_PRUNED: &str = "
select greatest((NEWEST), (select case when known.upto <= (DRAWN) then known.upto end
                           from (select max(pruned.upto) from events_pruned pruned) known(upto)))";

/// The holders of BELL or WRITER, each with its transaction: of the ids that its virtual
/// transaction holds a lock on, sub-transactions' included, the one next to its beginning.
/// The lock table shows 32 bits; the snapshot's end is near enough to widen them.
///
/// It is read once for both, since a transaction that is being prepared hands its locks over
/// to another virtual transaction.
const WRITERS: &str = "
with held as materialized (select * from pg_locks where granted)
select pg_snapshot_xmax(pg_current_snapshot()), xact.transactionid::text::int8, advisory.pid,
       advisory.virtualtransaction
from held advisory
left join held xact on xact.virtualtransaction = advisory.virtualtransaction
  and xact.locktype = 'transactionid' and xact.mode = 'ExclusiveLock'
where advisory.locktype = 'advisory' and advisory.mode = 'ShareLock'
  and advisory.database = (select oid from pg_database where datname = current_database())
  and advisory.classid = LOCKS::oid and advisory.objid in ($1, $2) and advisory.objsubid = 2";

/// A writer has its transaction's id before it has one of the locks. One that seems to have
/// none is about to be prepared, its locks between two owners; a look later they have arrived.
/// Somebody who holds such a lock by hand, and writes nothing, is not asked for ever.
const HANDOVERS: usize = 5;

/// Those that are not in progress any more: all that they wrote is visible from now on.
///
/// A snapshot ends behind the last transaction that has *completed*. What is behind its end
/// is in progress, if it holds its own lock; else it has just ended, or belongs to a time
/// that a restored backup has undone.
const ENDED: &str = "
select xid from unnest($1::xid8[]) xid
where pg_visible_in_snapshot(xid, pg_current_snapshot())
   or xid >= pg_snapshot_xmax(pg_current_snapshot()) and not exists (
          select from pg_locks where locktype = 'transactionid' and granted
          and mode = 'ExclusiveLock' and transactionid = xid::xid)";

/// What late transactions wrote. The index on `xid` is a BRIN on its number, since
/// PostgreSQL has no BRIN operator class for `xid8`. PLACE is the id: see [`Span`].
const LATE_ROWS: &str = concat!(
    "select page.id, page.xid, page.type, page.payload, page.amends, page.subscriber, page.stream,
           null::float8, page.found
    from (select item.id, item.xid, item.type, item.payload, item.amends, item.subscriber,
                 item.stream, ",
    measured!(),
    " from (select ",
    delivered!(),
    ", log.subscriber::text as subscriber, log.stream::text as stream
               from events log
               where log.xid::text::int8 = any($1) and PLACE > $2 and PLACE <= $3
               order by PLACE limit $4) item
    ) page where page.before <= $5 order by page.id"
);

/// Whether late transactions wrote few rows in a range: so few that they can be sorted for each
/// page of them.
const FEW_LATE: &str = "
select count(*) <= 2000 from (
    select log.id from events log
    where log.xid::text::int8 = any($1) and (log.id + 0) > $2 and (log.id + 0) <= $3 limit 2001
) item";

/// The first row of late transactions in a range, by the index on `xid` alone.
const FIRST_LATE: &str = "
select min(log.id) from events log
where log.xid::text::int8 = any($1) and (log.id + 0) > $2 and (log.id + 0) <= $3";

/// Each range by itself, as far as its own rows: as a plain join it has nearly no rows, where the
/// planner expects many, and so walks through the whole log for the first hundred.
const PASSED: &str = concat!(
    "select item.id, item.xid, item.type, item.payload, item.amends, item.subscriber, item.stream,
            null::float8
    from unnest($1::int8[], $2::int8[]) missing(first, last), lateral (
        select ",
    delivered!(),
    ", log.subscriber::text as subscriber, log.stream::text as stream
        from events log where log.id between missing.first and missing.last
        order by log.id limit 100
    ) item order by item.id limit 100"
);

/// The last id that was drawn; null where the role may not see the sequence.
pub(super) const DRAWN: &str = "
select case when has_sequence_privilege(own.sequence, 'select, usage')
            then coalesce(last_value, start_value - 1) end
from (select pg_get_serial_sequence('events', 'id')::regclass::oid) own(sequence)
join pg_class on pg_class.oid = own.sequence
join pg_namespace on pg_namespace.oid = relnamespace
join pg_sequences on schemaname = nspname and sequencename = relname";

const STATE: &str = "
select (DRAWN), pg_notification_queue_usage(), pg_is_in_recovery(),
       exists (select from pg_locks
               where locktype = 'advisory' and granted and pid <> pg_backend_pid()
                 and database = (select oid from pg_database where datname = current_database())
                 and classid = LOCKS::oid and objid = $1 and objsubid = 2),
       array(select log.id from events log where log.id = any($2) order by log.id),
       array(select log.xid from events log where log.id = any($2) order by log.id),
       -- NOTIFY holds this lock until its transaction has ended: pg_database has the oid 1262.
       exists (select from pg_locks
               where locktype = 'object' and not granted
                 and database = 0 and classid = 1262 and objid = 0)";

const SNAPSHOT: &str = "select pg_current_snapshot()::text";

/// Notes that were made behind a snapshot, one more than may be named. A cluster that has fewer
/// transactions than the snapshot is another one, which lost some when it took over. (Rows of a
/// restored backup bear transactions that are still to come: they are no news.)
const CHANGED: &str = "
select pg_current_snapshot()::text,
       pg_snapshot_xmax(pg_current_snapshot()) < pg_snapshot_xmax(since.snapshot),
       array(select erased.subscriber::text from events_erased erased
             where erased.xid >= pg_snapshot_xmin(since.snapshot)
               and not pg_visible_in_snapshot(erased.xid, since.snapshot)
               and erased.xid < pg_snapshot_xmax(pg_current_snapshot())
               and erased.subscriber is not null
             limit $2)
from (select $1::text::pg_snapshot) since(snapshot)";

/// As many consumers are named; beyond that it is everybody.
const MOST_CHANGED: i64 = 1000;

const MAY_ASK: &str = "
select current_setting('track_commit_timestamp'),
       coalesce(has_table_privilege(to_regclass('events_erased'), 'select'), false),
       coalesce(has_table_privilege(to_regclass('events_pruned'), 'select'), false)";

/// Meanwhile nobody's events are read.
const FIRST_LATE_DEADLINE: &str = "set statement_timeout = '200ms'";

type Result<T> = std::result::Result<T, tokio_postgres::Error>;

impl EventLog {
    /// Prepares the queries on this connection, in two round trips: those first that do not
    /// depend on what the server and the role allow.
    pub async fn prepare(client: &Client) -> Result<Self> {
        let state = STATE.replace("DRAWN", DRAWN).replace("LOCKS", doorbell::LOCKS);
        let writers = WRITERS.replace("LOCKS", doorbell::LOCKS);
        let (may, snapshot, writers, ended, state) = try_join!(
            client.query_typed_one(MAY_ASK, &[]),
            client.prepare(SNAPSHOT),
            client.prepare(&writers),
            client.prepare(ENDED),
            client.prepare(&state),
        )?;
        let timed = may.get::<_, &str>(0) == "on";
        let age = |age| if timed { age } else { NO_AGE };
        let tail = TAIL.replace("AGE", age(AGE_OF_PAGE));
        let small_tail = SMALL_TAIL.replace("AGE", age(AGE_OF_LOG));
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

    /// The greatest id that is visible, or was pruned.
    pub async fn newest(&self, client: &Client) -> Result<EventId> {
        Ok(client.query_one(&self.newest, &[]).await?.get(0))
    }

    /// The rows behind `after`.
    pub async fn tail(&self, client: &Client, after: EventId, paging: Paging) -> Result<Page> {
        let size = paging.size();
        let values: [&(dyn ToSql + Sync); 3] = [&after, &size.rows, &size.bytes];
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
        for _ in 0..HANDOVERS {
            rows = client.query(&self.writers, &parameters).await?;
            if rows.iter().all(|row| row.get::<_, Option<i64>>(1).is_some()) {
                break;
            }
        }
        Ok(first_transactions(&rows))
    }

    /// The backends of these writers, for people: process id, application and role of each.
    pub async fn backends(client: &Client, writers: &[&Writer]) -> Result<Vec<String>> {
        let pids: Vec<i32> = writers.iter().filter_map(|writer| writer.pid).collect();
        let prepared = writers.len() - pids.len();
        let rows = client.query(BACKENDS, &[&pids]).await?;
        let mut who: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        who.extend((0..prepared).map(|_| "a prepared transaction".to_owned()));
        Ok(who)
    }

    /// Which of these transactions have ended, and are visible if they committed.
    pub async fn ended(&self, client: &Client, xids: &[Xid]) -> Result<Vec<Xid>> {
        let rows = client.query(&self.ended, &[&xids]).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// Some rows that these transactions wrote above `after` and up to `upto`, and the id up to
    /// which these are all. It never reads more of the log than a few tens of milliseconds'
    /// worth, however much lies between the two.
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

    /// The first id in this range that one of these transactions wrote, or the one behind the
    /// range; none when that cannot be known soon, because they wrote very much.
    async fn first_late(
        &self,
        client: &Client,
        numbers: &[i64],
        (after, upto): (EventId, EventId),
    ) -> Result<Option<EventId>> {
        let parameters: [&(dyn ToSql + Sync); 3] = [&numbers, &after, &upto];
        // They are sent together, and carried out in this order.
        let (limited, first, unlimited) = join!(
            client.batch_execute(FIRST_LATE_DEADLINE),
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

    /// The rows that stand where ids were passed over.
    pub async fn in_passed(&self, client: &Client, passed: &[Passed]) -> Result<Vec<EventRow>> {
        let first: Vec<EventId> = passed.iter().map(|passed| passed.from).collect();
        let last: Vec<EventId> = passed.iter().map(|passed| passed.to).collect();
        let rows = client.query(&self.passed, &[&first, &last]).await?;
        Ok(rows.into_iter().map(EventRow).collect())
    }

    /// What is visible now, as PostgreSQL writes it down.
    pub async fn snapshot(&self, client: &Client) -> Result<String> {
        Ok(client.query_one(&self.snapshot, &[]).await?.get(0))
    }

    /// Whose rows were changed since this snapshot; none where the role may not ask.
    pub async fn changed(&self, client: &Client, since: &str) -> Result<Option<Changed>> {
        let Some(statement) = &self.changed else { return Ok(None) };
        let row = client.query_one(statement, &[&since, &(MOST_CHANGED + 1)]).await?;
        let (undone, names): (bool, Vec<&str>) = (row.get(1), row.get(2));
        let all = undone || i64::try_from(names.len()).is_ok_and(|named| named > MOST_CHANGED);
        let whose = (!all).then(|| names.into_iter().map(ConsumerId::logged).collect());
        Ok(Some(Changed { whose, as_of: row.get(0) }))
    }

    /// What the safety poll looks at.
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

impl Page {
    /// A page without rows, the last one.
    #[must_use]
    pub fn empty() -> Self {
        Self { rows: Vec::new(), last: true }
    }

    /// How many bytes it holds.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.rows.iter().map(|row| row.0.raw_size_bytes()).sum()
    }

    /// What came where rows are small. It ends before a payload that was withheld.
    pub(super) fn of_small(rows: Vec<Row>, size: PageSize) -> Self {
        let came = rows.len();
        let shown = |row: &Row| row.get::<_, Option<Json<'_>>>(3).is_some();
        let mut rows: Vec<Row> = rows;
        rows.truncate(rows.iter().take_while(|row| shown(row)).count());
        let whole = rows.len() == came && i64::try_from(came).is_ok_and(|came| came < size.rows);
        let mut page = Self { last: false, rows: rows.into_iter().map(EventRow).collect() };
        // Where it was cut at its size, something may stand behind it.
        page.last = whole && i64::try_from(page.bytes()).is_ok_and(|bytes| bytes < size.bytes);
        page
    }

    pub(super) fn of(rows: Vec<Row>, size: PageSize) -> Self {
        let found = rows.first().map_or(0, |row| row.get::<_, i64>("found"));
        let whole = i64::try_from(rows.len()) == Ok(found);
        Self { last: whole && found < size.rows, rows: rows.into_iter().map(EventRow).collect() }
    }
}

fn newest_of(may_see_pruned: bool) -> String {
    let whole = if may_see_pruned { NEWEST_OR_PRUNED } else { "NEWEST" };
    whole.replace("NEWEST", NEWEST).replace("DRAWN", DRAWN)
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

/// The rows of a query, as far as they fit into so many bytes; the first one always does. The
/// connection lets go of what else comes.
pub(super) async fn rows(
    client: &Client,
    statement: &Statement,
    values: &[&(dyn ToSql + Sync)],
    bytes: i64,
) -> Result<Vec<Row>> {
    let arriving = client.query_raw(statement, values.iter().copied()).await?;
    let mut arriving = std::pin::pin!(arriving);
    let (mut rows, mut room) = (Vec::new(), usize::try_from(bytes).unwrap_or(usize::MAX));
    while let Some(row) = arriving.try_next().await? {
        room = room.saturating_sub(row.raw_size_bytes());
        rows.push(row);
        if room == 0 {
            break;
        }
    }
    Ok(rows)
}

/// As the index on `xid` has them.
pub(super) fn numbers(xids: &[Xid]) -> Vec<i64> {
    xids.iter().map(|xid| xid.get().cast_signed()).collect()
}

/// Of the ids that one virtual transaction holds, its own is the smallest: those of its
/// sub-transactions were assigned later.
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

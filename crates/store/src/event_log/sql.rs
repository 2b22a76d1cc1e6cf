//! The texts of the queries on the log.

use super::columns::{delivered, delivered_small, measured};

/// Describes backends, with what every role may see.
pub(super) const BACKENDS: &str = "
select format('%s (%s, %s)', pid, coalesce(nullif(application_name, ''), 'no application_name'),
              usename)
from pg_stat_activity where pid = any($1) order by pid";

/// The page is cut first at a number of rows, and then at a number of stored bytes; `found` tells a cut page
/// from the last one. Stored payloads may be compressed, so the page is cut a third time as it arrives.
pub(super) const TAIL: &str = concat!(
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

/// The same for small rows, which are the most common. Counting and measuring them would take PostgreSQL as
/// long as finding none, which is what most polls find.
pub(super) const SMALL_TAIL: &str = concat!(
    "select ",
    delivered_small!(),
    ", log.subscriber::text, log.stream::text, AGE
    from events log where log.id > $1 order by log.id limit $2"
);

/// The same for readers that read the contents themselves: only ids and transactions.
pub(super) const ROW_IDS: &str = "
select log.id::int8 as id, log.xid::xid8 as xid
from events log where log.id > $1 order by log.id limit $2";

/// How long ago the transaction of a row committed, in seconds.
pub(super) const AGE_OF_PAGE: &str =
    "extract(epoch from clock_timestamp() - pg_xact_commit_timestamp(page.xid::xid))::float8";
pub(super) const AGE_OF_LOG: &str =
    "extract(epoch from clock_timestamp() - pg_xact_commit_timestamp(log.xid::xid))::float8";
pub(super) const NO_AGE: &str = "null::float8";

/// The greatest visible id.
pub(crate) const NEWEST: &str =
    "select coalesce((select log.id::int8 from events log order by log.id desc limit 1), 0)";

/// Pruned events were in the log, too: a client that is behind them has to learn of that. A record of more
/// ids than were ever drawn is of another log.
pub(super) const NEWEST_OR_PRUNED: &str = "
select greatest((NEWEST), (select case when known.upto <= (DRAWN) then known.upto end
                           from (select max(pruned.upto) from events_pruned pruned) known(upto)))";

/// The holders of BELL or WRITER, each with its transaction. Of the ids that a virtual transaction holds a
/// lock on, which include those of sub-transactions, it is the first one that was assigned. The lock table
/// shows 32 bits; the end of the snapshot is near enough to widen them.
///
/// The lock table is read once for both, because a transaction that is being prepared hands its locks over to
/// another virtual transaction.
pub(super) const WRITERS: &str = "
with held as materialized (select * from pg_locks where granted)
select pg_snapshot_xmax(pg_current_snapshot()), xact.transactionid::text::int8, advisory.pid,
       advisory.virtualtransaction
from held advisory
left join held xact on xact.virtualtransaction = advisory.virtualtransaction
  and xact.locktype = 'transactionid' and xact.mode = 'ExclusiveLock'
where advisory.locktype = 'advisory' and advisory.mode = 'ShareLock'
  and advisory.database = (select oid from pg_database where datname = current_database())
  and advisory.classid = LOCKS::oid and advisory.objid in ($1, $2) and advisory.objsubid = 2";

/// The transactions that are no longer in progress: all that they wrote is visible from now on.
///
/// A snapshot ends behind the last transaction that has *completed*. A transaction behind that end is in
/// progress if it holds its own lock. Otherwise it has just ended, or belongs to a time that was undone by
/// restoring a backup.
pub(super) const ENDED: &str = "
select xid from unnest($1::xid8[]) xid
where pg_visible_in_snapshot(xid, pg_current_snapshot())
   or xid >= pg_snapshot_xmax(pg_current_snapshot()) and not exists (
          select from pg_locks where locktype = 'transactionid' and granted
          and mode = 'ExclusiveLock' and transactionid = xid::xid)";

/// The rows of late transactions. The index on `xid` is a BRIN on its number, since PostgreSQL has no BRIN
/// operator class for `xid8`. PLACE stands for the id: see [`Span`].
pub(super) const LATE_ROWS: &str = concat!(
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

/// Whether late transactions wrote so few rows in a range that these can be sorted for each page.
pub(crate) const FEW_LATE: &str = "
select count(*) <= 2000 from (
    select log.id from events log
    where log.xid::text::int8 = any($1) and (log.id + 0) > $2 and (log.id + 0) <= $3 limit 2001
) item";

/// The first row of late transactions in a range, by the index on `xid` alone.
pub(super) const FIRST_LATE: &str = "
select min(log.id) from events log
where log.xid::text::int8 = any($1) and (log.id + 0) > $2 and (log.id + 0) <= $3";

/// Reads each range by itself. As a plain join, the query finds nearly no rows where the planner expects
/// many, so the planner would walk through the whole log for the first hundred.
pub(super) const PASSED: &str = concat!(
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
pub(crate) const DRAWN: &str = "
select case when has_sequence_privilege(own.sequence, 'select, usage')
            then coalesce(last_value, start_value - 1) end
from (select pg_get_serial_sequence('events', 'id')::regclass::oid) own(sequence)
join pg_class on pg_class.oid = own.sequence
join pg_namespace on pg_namespace.oid = relnamespace
join pg_sequences on schemaname = nspname and sequencename = relname";

pub(super) const LOG_STATE: &str = "
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

pub(super) const SNAPSHOT: &str = "select pg_current_snapshot()::text";

/// The records of changes behind a snapshot, one more than may be named. A cluster with fewer transactions
/// than the snapshot is another one, which lost some when it took over. (Rows of a restored backup have
/// transaction ids that are still to come: they are not new.)
pub(super) const CHANGED: &str = "
select pg_current_snapshot()::text,
       pg_snapshot_xmax(pg_current_snapshot()) < pg_snapshot_xmax(since.snapshot),
       array(select erased.subscriber::text from events_erased erased
             where erased.xid >= pg_snapshot_xmin(since.snapshot)
               and not pg_visible_in_snapshot(erased.xid, since.snapshot)
               and erased.xid < pg_snapshot_xmax(pg_current_snapshot())
               and erased.subscriber is not null
             limit $2)
from (select $1::text::pg_snapshot) since(snapshot)";

pub(super) const PRIVILEGES: &str = "
select current_setting('track_commit_timestamp'),
       coalesce(has_table_privilege(to_regclass('events_erased'), 'select'), false),
       coalesce(has_table_privilege(to_regclass('events_pruned'), 'select'), false)";

/// Limits the query, because no other events are read in the meantime.
pub(super) const SET_FIRST_LATE_TIMEOUT: &str = "set statement_timeout = '200ms'";

//! Pruning: deletes old events from the log, a page at a time, each page in its own transaction.
//!
//! Pruning goes up from the oldest id. A pruned page stays pruned, so an interrupted run is simply repeated.
//! The table's own trigger records what was deleted.
//!
//! There is no index on the time, since every writer would pay for it. Times mostly grow with ids, so samples
//! of the log show where the events become too young to be pruned, and pruning ends there. Older events
//! behind that point are pruned once the events around them are old enough.

use std::{
    num::NonZeroU32,
    time::{Duration, SystemTime},
};

use tokio::time::sleep;
use tokio_postgres::{Client, types::ToSql};

use crate::event::EventId;
use crate::{
    doorbell::{LOCKS, PRUNE, PRUNE_OID},
    maintenance::{self, PAGE_ROWS, Step},
    server::Server,
    session::Purpose,
    shape::{self, NoLog},
};

/// What to prune: events that are old enough, and not among the newest of their stream.
#[derive(Clone, Debug)]
pub struct PrunePolicy {
    /// Prune only events whose time is further back than this.
    pub older_than: Option<Duration>,
    /// Keep this many of the newest events of each stream, so that its versions continue. Without an age,
    /// events that belong to no stream are all kept.
    pub keep: NonZeroU32,
    /// Streams to keep as a whole, in addition to those of `events_keep`; `*` matches any text.
    pub except: Vec<String>,
    /// Also prune old events among young ones, wherever they are: the whole log is read.
    pub whole_log: bool,
}

/// Pruning could not begin, or was interrupted.
#[derive(Debug, thiserror::Error)]
pub enum PruneError {
    /// There is no connection.
    #[error("connecting to PostgreSQL")]
    Connect(#[source] tokio_postgres::Error),
    /// Another session prunes this log.
    #[error(
        "another session is pruning this log already{}; only one can at a time",
        backend.map(|pid| format!(" (backend {pid})")).unwrap_or_default()
    )]
    Busy {
        /// The process id of that session's backend, if it was still there.
        backend: Option<i32>,
    },
    /// There is no log of ours.
    #[error(transparent)]
    NoLog(#[from] NoLog),
    /// A query failed. Pages that were pruned before stay pruned.
    #[error("pruning the log")]
    Query(#[from] tokio_postgres::Error),
}

/// A run of pruning. It holds a lock that ends with its connection.
#[derive(Debug)]
pub struct Prune {
    client: Client,
    policy: PrunePolicy,
    dry: bool,
    cutoff: Option<SystemTime>,
    /// What was visible when the run began. Nothing else is deleted.
    snapshot: String,
    newest: EventId,
    after: EventId,
    /// From this id on, the run ends at the first page that is too young.
    old_until: EventId,
}

/// Readers poll at least every second. Events that were visible for twice as long have been read by live
/// readers; a later reader is told that they are missing.
const READ_BY_READERS: Duration = Duration::from_secs(2);

const TRY_LOCK: &str = "select pg_try_advisory_lock(LOCKS, $1)";
const LOCK_HOLDER: &str = "
select pid from pg_locks
where locktype = 'advisory' and granted and classid = LOCKS::oid and objid = $1 and objsubid = 2
  and database = (select oid from pg_database where datname = current_database())";
const BEGIN: &str = "
select pg_current_snapshot()::text,
       coalesce((select log.id::int8 from events log order by log.id desc limit 1), 0),
       coalesce((select log.id::int8 - 1 from events log order by log.id limit 1), 0),
       now() - make_interval(secs => $1)";

/// The last place where the log is old, according to samples: at each of 1,000 places, most of the next few
/// rows have to be old. A single row may just have a wrong time.
const OLD_UNTIL: &str = r#"
select coalesce(max(old.place), 0) from (
    select max(its.id) as place
    from generate_series(0, 999) sample(number), lateral (
        select log.id::int8 as id, log."timestamp" as at from events log
        where log.id > $1::bigint + (($2::bigint - $1) * (sample.number / 1000.0))::bigint
          and log.id <= $2
        order by log.id limit 9
    ) its
    group by sample.number having 2 * count(*) filter (where its.at < $3) > count(*)
) old"#;

/// Selects a page of the log, and the rows of it to delete. An amendment is kept as long as the event that it
/// amends, which would be shown uncorrected without it.
///
/// Rows of a restored backup may have transaction ids that are still to come in this cluster. Such a row is
/// visible, so it was written before, in whatever cluster.
const OLD: &str = r#"
with page as materialized (
    select log.id, log.xid, log.stream, log.version, log.amends, log."timestamp" as at
    from events log where log.id > $1 and log.id <= $2 order by log.id limit $3
), spared as materialized (
    select replace(replace(replace(replace(given.pattern, '\', '\\'), '%', '\%'), '_', '\_'),
                   '*', '%') as pattern
    from (select keep.stream from events_keep keep
          union all select named.stream from unnest($4::text[]) named(stream)) given(pattern)
), streams as materialized (
    select its.stream, (select newer.version from events newer where newer.stream = its.stream
                        order by newer.version desc offset $5 limit 1) as upto
    from (select distinct page.stream from page
          where page.stream is not null and ($6::timestamptz is null or page.at < $6)) its
    where not exists (select from spared where its.stream like spared.pattern)
), old as materialized (
    select page.id from page left join streams on streams.stream = page.stream
    where ($6 is null or page.at < $6)
      and (page.stream is null and $6 is not null or page.version <= streams.upto)
      and (pg_visible_in_snapshot(page.xid, $7::text::pg_snapshot)
           or page.xid >= pg_snapshot_xmax(pg_current_snapshot()))
      and not exists (select from events target where target.id = page.amends)
)"#;
const COUNT: &str = "
select (select max(page.id)::int8 from page), (select count(*) from page),
       (select count(*) from old), (select count(*) from page where page.at < $6)";
const DELETE: &str = ", gone as (
    delete from events log where log.id > $1 and log.id <= $2
        and log.id in (select old.id from old) returning log.id
)
select (select max(page.id)::int8 from page), (select count(*) from page),
       (select count(*) from gone), (select count(*) from page where page.at < $6)";

impl Prune {
    /// Connects and takes the lock; then waits a moment, until readers have what may be deleted.
    pub async fn begin(
        server: &Server,
        policy: PrunePolicy,
        dry: bool,
    ) -> Result<Self, PruneError> {
        let client = server.named("event-piper prune").client_for(Purpose::Change).await;
        let client = client.map_err(PruneError::Connect)?;
        shape::find(&client).await?;
        let turn = client.query_one(&TRY_LOCK.replace("LOCKS", LOCKS), &[&PRUNE]).await?;
        if !turn.get::<_, bool>(0) {
            let holder =
                client.query_opt(&LOCK_HOLDER.replace("LOCKS", LOCKS), &[&PRUNE_OID]).await?;
            return Err(PruneError::Busy { backend: holder.map(|row| row.get(0)) });
        }
        let age = policy.older_than.map(|age| age.as_secs_f64());
        let row = client.query_one(BEGIN, &[&age]).await?;
        let (snapshot, newest, after) = (row.get(0), row.get(1), row.get(2));
        let cutoff: Option<SystemTime> = row.get(3);
        if !dry {
            sleep(READ_BY_READERS).await;
        }
        let old_until = if policy.whole_log || cutoff.is_none() {
            newest
        } else {
            client.query_one(OLD_UNTIL, &[&after, &newest, &cutoff]).await?.get(0)
        };
        Ok(Self { client, policy, dry, cutoff, snapshot, newest, after, old_until })
    }

    /// The last id that the run reads.
    #[must_use]
    pub fn newest(&self) -> EventId {
        self.newest
    }

    /// Prunes the next page.
    pub async fn step(&mut self) -> Result<Step, PruneError> {
        let step = maintenance::with_retries(async || self.page().await).await?;
        self.after = step.upto;
        Ok(step)
    }

    async fn page(&mut self) -> Result<Step, tokio_postgres::Error> {
        let query = format!("{OLD}{}", if self.dry { COUNT } else { DELETE });
        let keep = i64::from(self.policy.keep.get());
        let values: [&(dyn ToSql + Sync); 7] = [
            &self.after,
            &self.newest,
            &PAGE_ROWS,
            &self.policy.except,
            &keep,
            &self.cutoff,
            &self.snapshot,
        ];
        let transaction = maintenance::begin(&mut self.client).await?;
        // If the server crashes, what was not pruned after all is pruned the next time.
        transaction.batch_execute("set local synchronous_commit = off").await?;
        let row = transaction.query_one(&query, &values).await?;
        transaction.commit().await?;
        let mut step = Step::of(&row, self.newest);
        let old = u64::try_from(row.get::<_, i64>(3)).unwrap_or(0);
        let young = self.cutoff.is_some() && 2 * old <= step.looked_at;
        step.last |= young && step.upto >= self.old_until;
        Ok(step)
    }
}

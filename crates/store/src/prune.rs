//! Pruning: takes old events out of the log, a page at a time, in a transaction each.
//!
//! It works its way up from the oldest id. A page that was pruned stays pruned, so that whoever
//! is interrupted runs it again. What went, the table's own trigger remembers.
//!
//! There is no index on the time, which every writer would pay for. Times grow with ids, by and
//! large, so that samples of the log tell where it gets younger than what shall go: there pruning
//! ends. What lies behind and says that it is older goes when those around it do.

use std::{
    num::NonZeroU32,
    time::{Duration, SystemTime},
};

use tokio::time::sleep;
use tokio_postgres::{Client, types::ToSql};

use crate::event::EventId;
use crate::{
    doorbell::{LOCKS, PRUNE, PRUNE_OID},
    server::Server,
    session::Purpose,
    shape::{self, NoLog},
    upkeep::{self, PAGE, Step},
};

/// What shall go: an event that is old enough, and of its stream not one of the newest.
#[derive(Clone, Debug)]
pub struct What {
    /// Only events whose time lies further back than this.
    pub older_than: Option<Duration>,
    /// So many of each stream stay, the newest, so that its versions go on. Without an age,
    /// events of no stream all stay.
    pub keep: NonZeroU32,
    /// Streams that stay as a whole, beside those of `events_keep`; `*` stands for anything.
    pub except: Vec<String>,
    /// Also what is old among what is young, wherever it stands: the whole log is read.
    pub whole_log: bool,
}

/// Why it could not begin, or go on.
#[derive(Debug, thiserror::Error)]
pub enum PruneError {
    /// No connection.
    #[error("connecting to PostgreSQL")]
    Connect(#[source] tokio_postgres::Error),
    /// Somebody else prunes this log.
    #[error(
        "somebody is pruning this log already{}: one at a time is enough",
        backend.map(|pid| format!(" (backend {pid})")).unwrap_or_default()
    )]
    Busy {
        /// The other's backend, if it was still there to be seen.
        backend: Option<i32>,
    },
    /// There is no log of ours.
    #[error(transparent)]
    NoLog(#[from] NoLog),
    /// A query failed. What was pruned until then is pruned.
    #[error("pruning the log")]
    Query(#[from] tokio_postgres::Error),
}

/// Pruning under way. The lock that it holds ends with its connection.
#[derive(Debug)]
pub struct Prune {
    client: Client,
    what: What,
    dry: bool,
    cutoff: Option<SystemTime>,
    /// What was visible when it began; nothing else goes.
    snapshot: String,
    newest: EventId,
    after: EventId,
    /// From here on it ends with the first page that is young.
    old_until: EventId,
}

/// Readers look for what is new at least every second. What was visible for twice as long has
/// been read by those that are live, and whoever reads it later is told that it is missing.
const SETTLED: Duration = Duration::from_secs(2);

const TAKE_TURN: &str = "select pg_try_advisory_lock(LOCKS, $1)";
const WHO: &str = "
select pid from pg_locks
where locktype = 'advisory' and granted and classid = LOCKS::oid and objid = $1 and objsubid = 2
  and database = (select oid from pg_database where datname = current_database())";
const BEGIN: &str = "
select pg_current_snapshot()::text,
       coalesce((select log.id::int8 from events log order by log.id desc limit 1), 0),
       coalesce((select log.id::int8 - 1 from events log order by log.id limit 1), 0),
       now() - make_interval(secs => $1)";

/// Where the log is old for the last time, as far as samples tell: at so many places the next few
/// rows, of which most have to be old. One that merely says so proves nothing.
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

/// A page of the log, and what is to go of it. An amendment stays as long as the event that it
/// amends, which would be shown uncorrected without it.
///
/// Rows that came with a restored backup may bear transactions that this cluster has yet to see: such a
/// row is visible, so it was written before, wherever that was.
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
    /// Connects, and takes the turn; then waits a moment, so that readers have what may go.
    pub async fn begin(server: &Server, what: What, dry: bool) -> Result<Self, PruneError> {
        let client = server.named("event-piper prune").client_for(Purpose::Change).await;
        let client = client.map_err(PruneError::Connect)?;
        shape::find(&client).await?;
        let turn = client.query_one(&TAKE_TURN.replace("LOCKS", LOCKS), &[&PRUNE]).await?;
        if !turn.get::<_, bool>(0) {
            let holder = client.query_opt(&WHO.replace("LOCKS", LOCKS), &[&PRUNE_OID]).await?;
            return Err(PruneError::Busy { backend: holder.map(|row| row.get(0)) });
        }
        let age = what.older_than.map(|age| age.as_secs_f64());
        let row = client.query_one(BEGIN, &[&age]).await?;
        let (snapshot, newest, after) = (row.get(0), row.get(1), row.get(2));
        let cutoff: Option<SystemTime> = row.get(3);
        if !dry {
            sleep(SETTLED).await;
        }
        let old_until = if what.whole_log || cutoff.is_none() {
            newest
        } else {
            client.query_one(OLD_UNTIL, &[&after, &newest, &cutoff]).await?.get(0)
        };
        Ok(Self { client, what, dry, cutoff, snapshot, newest, after, old_until })
    }

    /// The last id that it looks at.
    #[must_use]
    pub fn newest(&self) -> EventId {
        self.newest
    }

    /// Prunes the next page.
    pub async fn step(&mut self) -> Result<Step, PruneError> {
        let step = upkeep::patiently(async || self.page().await).await?;
        self.after = step.upto;
        Ok(step)
    }

    async fn page(&mut self) -> Result<Step, tokio_postgres::Error> {
        let query = format!("{OLD}{}", if self.dry { COUNT } else { DELETE });
        let keep = i64::from(self.what.keep.get());
        let values: [&(dyn ToSql + Sync); 7] = [
            &self.after,
            &self.newest,
            &PAGE,
            &self.what.except,
            &keep,
            &self.cutoff,
            &self.snapshot,
        ];
        let transaction = upkeep::transaction(&mut self.client).await?;
        // Should the server fall, what is not pruned after all is pruned the next time.
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

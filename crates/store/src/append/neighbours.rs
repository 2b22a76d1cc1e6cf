//! Foreign triggers and indexes on the log, which may change what becomes of a row.

use std::time::{Duration, Instant};

use tokio_postgres::Client;

/// The result of a survey of foreign triggers and indexes.
#[derive(Debug)]
pub(super) struct ForeignObjects {
    may_change_rows: bool,
    forbids_skipping: bool,
    seen: Instant,
}

/// A constraint or index, by its schema and name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Constraint {
    /// The schema.
    pub schema: String,
    /// The name.
    pub name: String,
}

/// The time between surveys. Triggers come and go while a connection lives. A new one is also noticed by what it
/// does; the survey only notices it sooner.
const SURVEY_INTERVAL: Duration = Duration::from_secs(5);

/// Whether the log or a partition has a trigger that fires before a row is inserted (the bits ROW, BEFORE and
/// INSERT of `tgtype`) and calls no function of ours; and whether it has a deferrable constraint, with which
/// PostgreSQL refuses `on conflict`.
const SURVEY: &str = "
with log as (select 'events'::regclass::oid as oid union
             select part.relid::oid from pg_catalog.pg_partition_tree('events') part)
select exists (
    select from pg_catalog.pg_trigger tg join pg_catalog.pg_proc fn on fn.oid = tg.tgfoid
    where tg.tgtype & 7 = 7 and tg.tgenabled <> 'D' and fn.proname !~ '^event_piper_'
      and tg.tgrelid in (select log.oid from log)),
exists (
    select from pg_catalog.pg_index idx
    where not idx.indimmediate and idx.indrelid in (select log.oid from log))";

/// Whether an index is on the columns that identify events, or is the trigger's name for such a constraint.
const IS_OF_OURS: &str = "
select $2::text in ('events_uid', 'events_stream_version') or exists (
    select from pg_catalog.pg_index idx
         join pg_catalog.pg_class rel on rel.oid = idx.indexrelid
         join pg_catalog.pg_namespace ns on ns.oid = rel.relnamespace
    where ns.nspname = $1::text and rel.relname = $2::text and idx.indisunique
      and (select array_agg(att.attname::text order by att.attname::text)
           from pg_catalog.pg_attribute att where att.attrelid = rel.oid)
          in (array['uid'], array['stream', 'version']))";

impl ForeignObjects {
    pub(super) async fn survey(client: &Client) -> Result<Self, tokio_postgres::Error> {
        let row = client.query_one(SURVEY, &[]).await?;
        Ok(Self { may_change_rows: row.get(0), forbids_skipping: row.get(1), seen: Instant::now() })
    }

    pub(super) fn may_change_rows(&self) -> bool {
        self.may_change_rows
    }

    /// Whether `on conflict` cannot be used, so that a conflict is always an error.
    pub(super) fn forbids_skipping(&self) -> bool {
        self.forbids_skipping
    }

    pub(super) fn may_interfere(&self) -> bool {
        self.may_change_rows || self.forbids_skipping
    }

    pub(super) fn is_stale(&self) -> bool {
        self.seen.elapsed() > SURVEY_INTERVAL
    }
}

pub(super) async fn is_of_ours(
    client: &Client,
    Constraint { schema, name }: &Constraint,
) -> Result<bool, tokio_postgres::Error> {
    Ok(client.query_one(IS_OF_OURS, &[schema, name]).await?.get(0))
}

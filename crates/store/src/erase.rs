//! Erasure: deletes the contents of one subscriber's or one stream's events. Their ids, types, times and
//! order stay.
//!
//! Erasure goes up from the oldest event, a page at a time, each page in its own transaction. Events that are
//! erased already are skipped, so an interrupted run is simply repeated. The table's own trigger records
//! whose events were changed, and gateways evict these from memory.

use tokio_postgres::{Client, types::ToSql};

use crate::event::EventId;
use crate::{
    event_log,
    maintenance::{self, PAGE_ROWS, Step},
    server::Server,
    session::Purpose,
    shape::{self, NoLog},
};

/// The events to erase.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EraseTarget {
    /// All events of this subscriber.
    Subscriber(String),
    /// All events of this stream.
    Stream(String),
}

/// Erasure could not begin, or was interrupted.
#[derive(Debug, thiserror::Error)]
pub enum EraseError {
    /// There is no connection.
    #[error("connecting to PostgreSQL")]
    Connect(#[source] tokio_postgres::Error),
    /// There is no log of ours.
    #[error(transparent)]
    NoLog(#[from] NoLog),
    /// A query failed. Events that were erased before stay erased.
    #[error("erasing events")]
    Query(#[from] tokio_postgres::Error),
}

/// A run of erasure.
#[derive(Debug)]
pub struct Erase {
    client: Client,
    whose: EraseTarget,
    /// The newest id when the run began. Nothing behind it is erased.
    newest: EventId,
    /// The last id that was read; of a stream, the last version.
    after: EventId,
    upto: EventId,
}

/// The payload of an erased event.
pub const TOMBSTONE: &str = r#"{"erased": true}"#;

const OF_SUBSCRIBER: &str = "
with page as materialized (
    select log.id::int8 as id, log.id::int8 as place from events log
    where log.subscriber = $1 and log.id > $2 and log.id <= $3 order by log.id limit $4
)";
const OF_STREAM: &str = "
with page as materialized (
    select log.id::int8 as id, log.version::int8 as place from events log
    where log.stream = $1 and log.version > $2 and log.id <= $3 order by log.version limit $4
)";
const ERASE: &str = ", erased as (
    update events log set payload = $5::text::jsonb, metadata = null
    where log.id in (select page.id from page)
      and (log.payload <> $5::text::jsonb or log.metadata is not null)
    returning log.id
)
select (select max(page.place) from page), (select count(*) from page),
       (select count(*) from erased), (select max(page.id) from page)";
const REMEMBER_STREAM: &str = "
insert into events_erased as known (stream, upto) values ($1, $2)
on conflict (stream) do update
set upto = greatest(known.upto, excluded.upto), erased_at = excluded.erased_at, xid = excluded.xid";

impl Erase {
    /// Connects, and finds out where the log ends now.
    pub async fn begin(server: &Server, whose: EraseTarget) -> Result<Self, EraseError> {
        let client = server.named("event-piper erase").client_for(Purpose::Change).await;
        let client = client.map_err(EraseError::Connect)?;
        shape::find(&client).await?;
        let newest = client.query_one(event_log::NEWEST, &[]).await?.get(0);
        Ok(Self { client, whose, newest, after: EventId::ZERO, upto: EventId::ZERO })
    }

    /// Erases the next page.
    pub async fn step(&mut self) -> Result<Step, EraseError> {
        let (step, upto) = maintenance::with_retries(async || self.page().await).await?;
        self.after = step.upto;
        self.upto = self.upto.max(upto.unwrap_or_default());
        if step.last && self.upto > EventId::ZERO {
            self.remember().await?;
        }
        Ok(step)
    }

    async fn page(&mut self) -> Result<(Step, Option<EventId>), tokio_postgres::Error> {
        let (page, name, end) = match &self.whose {
            EraseTarget::Subscriber(name) => (OF_SUBSCRIBER, name, self.newest),
            EraseTarget::Stream(name) => (OF_STREAM, name, EventId::new(i64::MAX)),
        };
        let query = format!("{page}{ERASE}");
        let values: [&(dyn ToSql + Sync); 5] =
            [name, &self.after, &self.newest, &PAGE_ROWS, &TOMBSTONE];
        let transaction = maintenance::begin(&mut self.client).await?;
        let row = transaction.query_one(&query, &values).await?;
        transaction.commit().await?;
        Ok((Step::of(&row, end), row.get(3)))
    }

    /// Records that a stream was erased. The trigger records subscribers, but cannot know that a whole stream
    /// was erased.
    async fn remember(&self) -> Result<(), tokio_postgres::Error> {
        if let EraseTarget::Stream(name) = &self.whose {
            self.client.execute(REMEMBER_STREAM, &[name, &self.upto]).await?;
        }
        Ok(())
    }
}

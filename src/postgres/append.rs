//! Appends events: one statement for as many as come together.
//!
//! A statement is a transaction of its own, so that one round trip takes the events to disk.
//! Who races for a version or writes a `uid` twice is found by the unique indexes: such an
//! event is skipped, not refused, so that it spoils nothing for the others in the statement.
//! What became of those that were skipped is looked up afterwards ([`Appender::find`]).
//!
//! Where it matters that all or none is written, [`Appender::append_whole`] looks before it
//! commits.

mod failure;
mod values;

use std::time::Duration;

use tokio::{time::timeout, try_join};
use tokio_postgres::{Client, Row, Statement};
use uuid::Uuid;

pub use self::failure::Failure;
use self::values::Values;
use super::{server::Server, session::Purpose};
use crate::event::{EventId, draft::Draft, name::StreamName};

/// A connection that writes.
#[derive(Debug)]
pub struct Appender {
    client: Client,
    lone: Statement,
    plain: Statement,
    placed: Statement,
    find: Statement,
}

/// An event that was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Its place in the log.
    pub id: EventId,
    /// Its place in its stream.
    pub version: Option<i64>,
}

/// An event that a statement has written, and how it is told from the others there.
#[derive(Debug)]
pub struct Appended {
    /// Where.
    pub written: Written,
    /// Its `uid`.
    pub uid: Option<Uuid>,
    /// Its stream.
    pub stream: Option<StreamName>,
}

/// What is in the log where an event was to be written.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    /// The event with the same `uid`.
    pub written: Option<Written>,
    /// That event says the same.
    pub same: bool,
    /// The last version of the stream; 0 while it has none.
    pub current: i64,
}

/// No statement takes this long on a connection that lives.
const DEADLINE: Duration = Duration::from_secs(15);

/// Settings of this session alone. A statement that waits for another's transaction to end keeps all
/// events in it waiting. A gateway that is frozen in a transaction must not keep readers waiting. In a
/// partitioned log no index can tell what is there already; the trigger that can is told to skip it.
/// The doorbell rings, whatever is set for others: nothing is prepared for two-phase commit here.
const SETTINGS: &str = "set lock_timeout = '250ms'; set event_piper.twice = 'skip'; \
                        set idle_in_transaction_session_timeout = '10s'; \
                        set event_piper.bell = 'on'; set max_parallel_workers_per_gather = 0";

/// An event that comes alone need not be unpacked from arrays, which takes PostgreSQL a fifth more.
const LONE: &str = "
insert into events (type, subscriber, payload, \"timestamp\", uid, metadata, amends)
values ($1, $2, $3, coalesce($4::text::timestamptz, now()), $5, $6, $7)
on conflict do nothing
returning id, uid, stream, version";

const PLAIN: &str = "
insert into events (type, subscriber, payload, \"timestamp\", uid, metadata, amends)
select type, subscriber, payload, coalesce(at::timestamptz, now()), uid, metadata, amends
from unnest($1::text[], $2::text[], $3::jsonb[], $4::text[], $5::uuid[], $6::jsonb[], $7::int8[])
     with ordinality draft(type, subscriber, payload, at, uid, metadata, amends, ord)
order by ord
on conflict do nothing
returning id, uid, stream, version";

/// The next version of a stream follows the last one that is visible. When that was taken
/// meanwhile the index on (stream, version) has the last word.
const PLACED: &str = "
insert into events
    (type, subscriber, payload, \"timestamp\", uid, metadata, amends, stream, version)
select type, subscriber, payload, coalesce(at::timestamptz, now()), uid, metadata, amends,
       stream, case when stream is not null then version end
from (
    select draft.*, last.version + row_number() over (partition by stream order by ord) as version,
           last.version > 0 as is_there
    from unnest($1::text[], $2::text[], $3::jsonb[], $4::text[], $5::uuid[], $6::jsonb[],
                $7::int8[], $8::text[], $9::int8[], $10::bool[])
         with ordinality draft(type, subscriber, payload, at, uid, metadata, amends,
                               stream, wanted, must_be_there, ord),
         lateral (select coalesce((select events.version from events
                                   where events.stream = draft.stream
                                   order by events.version desc limit 1), 0)) last(version)
) draft
where stream is null or (wanted is null or wanted = version) and (is_there or not must_be_there)
order by ord
on conflict do nothing
returning id, uid, stream, version";

/// What is compared is what the writer said: the time only where it named one.
const FIND: &str = "
select event.id, event.version,
       event.type = draft.type
       and event.subscriber is not distinct from draft.subscriber
       and event.payload = draft.payload
       and (draft.at is null or event.\"timestamp\" = draft.at::timestamptz)
       and event.metadata is not distinct from draft.metadata
       and event.amends is not distinct from draft.amends
       and event.stream is not distinct from draft.stream
       and (draft.wanted is null or event.version = draft.wanted),
       coalesce((select last.version from events last where last.stream = draft.stream
                 order by last.version desc limit 1), 0)
from unnest($1::text[], $2::text[], $3::jsonb[], $4::text[], $5::uuid[], $6::jsonb[],
            $7::int8[], $8::text[], $9::int8[], $10::bool[])
     with ordinality draft(type, subscriber, payload, at, uid, metadata, amends,
                           stream, wanted, must_be_there, ord)
left join events event on event.uid = draft.uid
order by ord";

type Result<T> = std::result::Result<T, Failure>;

impl Appender {
    /// Connects, and prepares to write.
    pub async fn connect(server: &Server) -> Result<Self> {
        within(async {
            let server = server.named("event-piper writer");
            let client = server.client_for(Purpose::Append).await?;
            client.batch_execute(SETTINGS).await?;
            let (lone, plain, placed, find) = try_join!(
                client.prepare(LONE),
                client.prepare(PLAIN),
                client.prepare(PLACED),
                client.prepare(FIND)
            )?;
            Ok(Self { client, lone, plain, placed, find })
        })
        .await
        .map_err(Failure::before_commit)
    }

    /// Whether the connection has ended, so that nothing can be sent any more.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Writes events in their order, save those that conflict with what is there, and commits.
    pub async fn append(&self, drafts: &[&Draft]) -> Result<Vec<Appended>> {
        let rows = within(self.insert(drafts)).await?;
        Ok(rows.iter().map(appended).collect())
    }

    /// Writes all of the events, in their order, or nothing: none, when one of them conflicts
    /// with what is there.
    pub async fn append_whole(&self, drafts: &[&Draft]) -> Result<Option<Vec<Appended>>> {
        let begun = within(async {
            let (begin, insert) = (self.client.batch_execute("begin"), self.insert(drafts));
            // Both travel together, in this order.
            let (begun, inserted) = tokio::join!(begin, insert);
            begun.and(inserted)
        });
        match begun.await {
            Ok(rows) if rows.len() == drafts.len() => {
                within(self.client.batch_execute("commit")).await?;
                Ok(Some(rows.iter().map(appended).collect()))
            }
            Ok(_) => self.rollback().await.map(|()| None),
            Err(failure) => {
                if !failure.is_lost() {
                    self.rollback().await?;
                }
                Err(failure.before_commit())
            }
        }
    }

    /// What is in the log where these were to be written.
    pub async fn find(&self, drafts: &[&Draft]) -> Result<Vec<Found>> {
        let values = Values::of(drafts);
        let rows = within(self.client.query(&self.find, &values.placed())).await;
        let rows = rows.map_err(Failure::before_commit)?;
        Ok(rows.iter().map(found).collect())
    }

    async fn insert(
        &self,
        drafts: &[&Draft],
    ) -> std::result::Result<Vec<Row>, tokio_postgres::Error> {
        let values = Values::of(drafts);
        if drafts.iter().any(|draft| draft.place.is_some()) {
            self.client.query(&self.placed, &values.placed()).await
        } else if drafts.len() == 1 {
            self.client.query(&self.lone, &values.lone()).await
        } else {
            self.client.query(&self.plain, &values.plain()).await
        }
    }

    async fn rollback(&self) -> Result<()> {
        within(self.client.batch_execute("rollback")).await.map_err(Failure::before_commit)
    }
}

fn appended(row: &Row) -> Appended {
    Appended {
        written: Written { id: row.get(0), version: row.get(3) },
        uid: row.get(1),
        stream: row.get::<_, Option<&str>>(2).map(StreamName::logged),
    }
}

fn found(row: &Row) -> Found {
    let id: Option<EventId> = row.get(0);
    let written = id.map(|id| Written { id, version: row.get(1) });
    Found { written, same: row.get::<_, Option<bool>>(2).unwrap_or(false), current: row.get(3) }
}

/// Gives a statement its deadline.
async fn within<T>(
    statement: impl Future<Output = std::result::Result<T, tokio_postgres::Error>>,
) -> Result<T> {
    match timeout(DEADLINE, statement).await {
        Ok(answer) => answer.map_err(|error| Failure::of(&error)),
        Err(_) => Err(Failure::Unknown("PostgreSQL did not answer in time".into())),
    }
}

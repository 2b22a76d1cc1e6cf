//! Appends events, all that come together in one statement.
//!
//! A statement is a transaction of its own, so one round trip makes the events durable. A row that conflicts
//! with an existing one is skipped, not refused, so that the other rows of the statement are written. What
//! became of a skipped row is looked up afterwards ([`Appender::find`]).
//!
//! Other people's triggers and indexes may change, drop or refuse a row. So a returned row is identified by
//! its place in the statement, never by a column. If a foreign trigger could change rows, a transaction
//! commits only if all rows are as they were asked for ([`How::Whole`]).

mod failure;
mod neighbours;
mod row;
mod values;

use std::time::Duration;

use tokio::{time::timeout, try_join};
use tokio_postgres::{Client, Row as DatabaseRow, Statement};
use uuid::Uuid;

pub use self::{
    failure::AppendError,
    neighbours::Constraint,
    row::{Row, Written},
};
use self::{neighbours::ForeignObjects, values::Values};
use crate::{
    event::{
        EventId,
        draft::{Draft, Expected, Place},
    },
    server::Server,
    session::Purpose,
};

/// A connection that writes.
#[derive(Debug)]
pub struct Appender {
    client: Client,
    lone: Statement,
    plain: Statement,
    placed: Statement,
    find: Statement,
    foreign: ForeignObjects,
}

/// How the events of one statement are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Each event on its own: a row that conflicts with an existing one is skipped.
    Each,
    /// All events as they were asked for, or none.
    Whole,
    /// All events or none, and a row that conflicts with an existing one is an error that names the
    /// constraint.
    Certain,
}

/// The result of a statement.
#[derive(Debug)]
pub struct Appended {
    /// The result of each event, in the order of the events.
    pub rows: Vec<Row>,
    /// Whether the rows that were written are committed. If not, nothing is in the log.
    pub committed: bool,
}

/// What is in the log where an event was to be written.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    /// The event with the same `uid`.
    pub written: Option<Written>,
    /// Whether that event has the same contents.
    pub same: bool,
    /// Whether that event has the version that was asked for, if one was.
    pub in_place: bool,
    /// The last version of the stream; 0 if it has no event.
    pub current: i64,
}

/// The time for one statement.
const STATEMENT_DEADLINE: Duration = Duration::from_secs(15);

/// Settings of this session only. A statement that waits for another transaction keeps all events in it
/// waiting. A gateway that is frozen in a transaction must not keep readers waiting. In a partitioned log no
/// index can detect duplicates; the trigger that does is told to skip them. The doorbell rings, whatever is
/// set elsewhere, because nothing is prepared for two-phase commit here.
const SESSION_SETTINGS: &str = "set lock_timeout = '250ms'; set event_piper.twice = 'skip'; \
                        set idle_in_transaction_session_timeout = '10s'; \
                        set event_piper.bell = 'on'; set max_parallel_workers_per_gather = 0";

/// Records which event of the statement is being inserted. PostgreSQL computes a row, inserts it, and
/// computes its RETURNING values before it continues with the next row; volatile expressions are computed
/// after the sort. So RETURNING reads the place of the row that was just inserted.
macro_rules! note_ordinal {
    () => {
        "case when pg_catalog.set_config('event_piper.ordinal', draft.ord::text, true) is not null
              then draft.type end"
    };
}

macro_rules! returning {
    ($ordinal:literal) => {
        concat!(" returning ", $ordinal, ", events.id, events.version, events.uid, events.stream")
    };
}

macro_rules! returning_ordinal {
    () => {
        returning!("pg_catalog.current_setting('event_piper.ordinal')::int8")
    };
}

/// A single event need not be unpacked from arrays, which takes PostgreSQL a fifth longer.
macro_rules! lone {
    ($conflict:literal) => {
        concat!(
            "
insert into events (type, subscriber, payload, \"timestamp\", uid, metadata, amends)
values ($1, $2, $3, coalesce($4::text::timestamptz, now()), $5, $6, $7)",
            $conflict,
            returning!("1::int8")
        )
    };
}

macro_rules! plain {
    ($conflict:literal) => {
        concat!(
            "
insert into events (type, subscriber, payload, \"timestamp\", uid, metadata, amends)
select ",
            note_ordinal!(),
            ", draft.subscriber, draft.payload, coalesce(draft.at::timestamptz, now()), draft.uid,
       draft.metadata, draft.amends
from unnest($1::text[], $2::text[], $3::jsonb[], $4::text[], $5::uuid[], $6::jsonb[], $7::int8[])
     with ordinality draft(type, subscriber, payload, at, uid, metadata, amends, ord)
order by draft.ord",
            $conflict,
            returning_ordinal!()
        )
    };
}

/// The next version of a stream follows the last one that is visible. If that version was taken in the
/// meantime, the index on (stream, version) decides.
macro_rules! placed {
    ($conflict:literal) => {
        concat!(
            "
insert into events
    (type, subscriber, payload, \"timestamp\", uid, metadata, amends, stream, version)
select ",
            note_ordinal!(),
            ", draft.subscriber, draft.payload, coalesce(draft.at::timestamptz, now()), draft.uid,
       draft.metadata, draft.amends,
       draft.stream, case when draft.stream is not null then draft.version end
from (
    select sent.*, last.version
               + row_number() over (partition by sent.stream order by sent.ord) as version,
           last.version > 0 as is_there
    from unnest($1::text[], $2::text[], $3::jsonb[], $4::text[], $5::uuid[], $6::jsonb[],
                $7::int8[], $8::text[], $9::int8[], $10::bool[])
         with ordinality sent(type, subscriber, payload, at, uid, metadata, amends,
                              stream, wanted, must_be_there, ord),
         lateral (select coalesce((select events.version from events
                                   where events.stream = sent.stream
                                   order by events.version desc limit 1), 0)) last(version)
) draft
where draft.stream is null
   or (draft.wanted is null or draft.wanted = draft.version)
      and (draft.is_there or not draft.must_be_there)
order by draft.ord",
            $conflict,
            returning_ordinal!()
        )
    };
}

const LONE: &str = lone!(" on conflict do nothing");
const PLAIN: &str = plain!(" on conflict do nothing");
const PLACED: &str = placed!(" on conflict do nothing");

/// The same, with conflicts as errors. These are rarely needed, so they are prepared on demand.
const CERTAIN_PLAIN: &str = plain!("");
const CERTAIN_PLACED: &str = placed!("");

/// Compares what the writer sent: the time only if the writer gave one.
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
       draft.wanted is null or event.version = draft.wanted,
       coalesce((select last.version from events last where last.stream = draft.stream
                 order by last.version desc limit 1), 0)
from unnest($1::text[], $2::text[], $3::jsonb[], $4::text[], $5::uuid[], $6::jsonb[],
            $7::int8[], $8::text[], $9::int8[], $10::bool[])
     with ordinality draft(type, subscriber, payload, at, uid, metadata, amends,
                           stream, wanted, must_be_there, ord)
left join events event on event.uid = draft.uid
order by draft.ord";

/// Whether two rows have the same contents; the time counts only if the writer gave one.
const COMPARE: &str = "
select one.type = other.type
       and one.subscriber is not distinct from other.subscriber
       and one.payload = other.payload
       and (not $3::bool or one.\"timestamp\" = other.\"timestamp\")
       and one.metadata is not distinct from other.metadata
       and one.amends is not distinct from other.amends
       and one.stream is not distinct from other.stream
from events one, events other where one.id = $1 and other.id = $2";

type Result<T> = std::result::Result<T, AppendError>;

impl Appender {
    /// Connects, and prepares the statements.
    pub async fn connect(server: &Server) -> Result<Self> {
        let connecting = async {
            let server = server.named("event-piper writer");
            let client = server.client_for(Purpose::Append).await?;
            client.batch_execute(SESSION_SETTINGS).await?;
            let (lone, plain, placed, find) = try_join!(
                client.prepare(LONE),
                client.prepare(PLAIN),
                client.prepare(PLACED),
                client.prepare(FIND)
            )?;
            let foreign = ForeignObjects::survey(&client).await?;
            Ok(Self { client, lone, plain, placed, find, foreign })
        };
        match timeout(STATEMENT_DEADLINE, connecting).await {
            Ok(connected) => connected.map_err(|error| AppendError::of_connecting(&error)),
            Err(_) => Err(AppendError::Away("PostgreSQL did not answer in time".into())),
        }
    }

    /// Whether the connection has ended, so that nothing can be sent any more.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Whether a foreign trigger may change or drop a row before it is written, as of the last survey.
    #[must_use]
    pub fn has_foreign_triggers(&self) -> bool {
        self.foreign.may_change_rows()
    }

    /// Writes events in their order.
    pub async fn append(&mut self, drafts: &[&Draft], how: How) -> Result<Appended> {
        if self.foreign.is_stale() {
            self.foreign = within(ForeignObjects::survey(&self.client))
                .await
                .map_err(AppendError::before_commit)?;
        }
        if how == How::Each && !self.foreign.may_interfere() {
            let rows = within(self.insert(drafts, how)).await?;
            return Ok(Appended { rows: row::in_order(drafts, &rows), committed: true });
        }
        self.append_whole(drafts, how).await
    }

    /// Writes all of the events in their order, or none if one of them would be skipped or changed.
    async fn append_whole(&self, drafts: &[&Draft], how: How) -> Result<Appended> {
        let begun = within(async {
            // In a partitioned log, conflicts are detected by a trigger.
            let begin = if how == How::Certain {
                "begin; set local event_piper.twice = 'refuse'"
            } else {
                "begin"
            };
            let (begin, insert) = (self.client.batch_execute(begin), self.insert(drafts, how));
            // Both are sent together, in this order.
            let (begun, inserted) = tokio::join!(begin, insert);
            begun.and(inserted)
        });
        match begun.await {
            Ok(rows) => {
                let rows = row::in_order(drafts, &rows);
                let committed = rows.iter().all(|row| matches!(row, Row::Written(_)));
                if committed {
                    within(self.client.batch_execute("commit")).await?;
                } else {
                    self.rollback().await?;
                }
                Ok(Appended { rows, committed })
            }
            Err(failure) => {
                if !failure.is_lost() {
                    self.rollback().await?;
                }
                Err(failure.before_commit())
            }
        }
    }

    /// Looks up what is in the log where these events were to be written.
    pub async fn find(&self, drafts: &[&Draft]) -> Result<Vec<Found>> {
        let values = Values::of(drafts);
        let rows = within(self.client.query(&self.find, &values.placed())).await;
        let rows = rows.map_err(AppendError::before_commit)?;
        Ok(rows.iter().map(found).collect())
    }

    /// Whether an event would have the same contents as an existing one after foreign triggers have changed
    /// it, as they have changed that one. The event is inserted under another `uid`, and rolled back.
    pub async fn would_be_same(&self, draft: &Draft, known: EventId) -> Result<bool> {
        let place = draft.place.clone();
        let place = place.map(|place| Place { expected: Expected::Any, ..place });
        let trial =
            Draft { uid: Some(Uuid::from_u128(fastrand::u128(..))), place, ..draft.clone() };
        let drafts = [&trial];
        let tried = within(async {
            let (begin, insert) =
                (self.client.batch_execute("begin"), self.insert(&drafts, How::Each));
            let (begun, inserted) = tokio::join!(begin, insert);
            begun?;
            let Some(row) = inserted?.into_iter().next() else { return Ok(false) };
            let (id, timed): (EventId, bool) = (row.get(1), draft.timestamp.is_some());
            let same = self.client.query_opt(COMPARE, &[&known, &id, &timed]).await?;
            Ok(same.is_some_and(|row| row.get::<_, Option<bool>>(0).unwrap_or(false)))
        })
        .await;
        match tried {
            Err(failure) if failure.is_lost() => return Err(failure.before_commit()),
            _ => self.rollback().await?,
        }
        tried.map_err(AppendError::before_commit)
    }

    /// Whether a conflict is about what identifies events: their `uid`, or their place in a stream.
    pub async fn is_of_ours(&self, failure: &AppendError) -> Result<bool> {
        let AppendError::Conflict { constraint: Some(constraint), .. } = failure else {
            return Ok(false);
        };
        let ours = within(neighbours::is_of_ours(&self.client, constraint));
        ours.await.map_err(AppendError::before_commit)
    }

    async fn insert(
        &self,
        drafts: &[&Draft],
        how: How,
    ) -> std::result::Result<Vec<DatabaseRow>, tokio_postgres::Error> {
        let values = Values::of(drafts);
        let placed = drafts.iter().any(|draft| draft.place.is_some());
        let how = if self.foreign.forbids_skipping() { How::Certain } else { how };
        match (how, placed) {
            (How::Certain, true) => self.client.query(CERTAIN_PLACED, &values.placed()).await,
            (How::Certain, false) => self.client.query(CERTAIN_PLAIN, &values.plain()).await,
            (_, true) => self.client.query(&self.placed, &values.placed()).await,
            (_, false) if drafts.len() == 1 => self.client.query(&self.lone, &values.lone()).await,
            (_, false) => self.client.query(&self.plain, &values.plain()).await,
        }
    }

    async fn rollback(&self) -> Result<()> {
        within(self.client.batch_execute("rollback")).await.map_err(AppendError::before_commit)
    }
}

fn found(row: &DatabaseRow) -> Found {
    let id: Option<EventId> = row.get(0);
    let written = id.map(|id| Written { id, version: row.get(1) });
    let is_true = |at| row.get::<_, Option<bool>>(at).unwrap_or(false);
    Found { written, same: is_true(2), in_place: is_true(3), current: row.get(4) }
}

/// Runs a statement with its deadline.
async fn within<T>(
    statement: impl Future<Output = std::result::Result<T, tokio_postgres::Error>>,
) -> Result<T> {
    match timeout(STATEMENT_DEADLINE, statement).await {
        Ok(answer) => answer.map_err(|error| AppendError::of(&error)),
        Err(_) => Err(AppendError::Unknown("PostgreSQL did not answer in time".into())),
    }
}

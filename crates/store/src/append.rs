//! Appends events: one statement for as many as come together.
//!
//! A statement is a transaction of its own, so that one round trip takes the events to disk. A row that
//! conflicts with one that is there is skipped, not refused, so that it spoils nothing for the others in
//! the statement. What became of a row that was skipped is looked up afterwards ([`Appender::find`]).
//!
//! Triggers and indexes of others may change, drop or refuse a row. So a row that comes back is told
//! from the others by its place in the statement alone ([`ORDINAL`]), never by a column, and a row is
//! committed only as it was asked for where somebody's trigger could change it ([`How::Whole`]).

mod failure;
mod neighbours;
mod row;
mod values;

use std::time::Duration;

use tokio::{time::timeout, try_join};
use tokio_postgres::{Client, Row as DatabaseRow, Statement};
use uuid::Uuid;

pub use self::{
    failure::Failure,
    neighbours::Constraint,
    row::{Row, Written},
};
use self::{neighbours::Neighbours, values::Values};
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
    neighbours: Neighbours,
}

/// How events are written that go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Each by itself: a row that conflicts with one that is there is skipped.
    Each,
    /// All of them as they were asked for, or none.
    Whole,
    /// The same, and a row that conflicts with one that is there is an error, which says with what.
    Certain,
}

/// What a statement has done with its events.
#[derive(Debug)]
pub struct Appended {
    /// Of each event, in their order.
    pub rows: Vec<Row>,
    /// The rows that fit are in the log; else nothing is.
    pub committed: bool,
}

/// What is in the log where an event was to be written.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    /// The event with the same `uid`.
    pub written: Option<Written>,
    /// That event says the same.
    pub same: bool,
    /// That event stands at the version that was asked for, where one was.
    pub in_place: bool,
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

/// Notes which event of the statement is being inserted. PostgreSQL computes a row, inserts it, and
/// computes what it returns of it before it goes on to the next row; volatile expressions are computed
/// after the sort. So what RETURNING reads is the place of the row that was just inserted.
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

/// An event that comes alone need not be unpacked from arrays, which takes PostgreSQL a fifth more.
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

/// The next version of a stream follows the last one that is visible. When that was taken
/// meanwhile the index on (stream, version) has the last word.
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

/// The same where a conflict is an error. They are rare, and prepared when they are needed.
const CERTAIN_PLAIN: &str = plain!("");
const CERTAIN_PLACED: &str = placed!("");

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
       draft.wanted is null or event.version = draft.wanted,
       coalesce((select last.version from events last where last.stream = draft.stream
                 order by last.version desc limit 1), 0)
from unnest($1::text[], $2::text[], $3::jsonb[], $4::text[], $5::uuid[], $6::jsonb[],
            $7::int8[], $8::text[], $9::int8[], $10::bool[])
     with ordinality draft(type, subscriber, payload, at, uid, metadata, amends,
                           stream, wanted, must_be_there, ord)
left join events event on event.uid = draft.uid
order by draft.ord";

/// Whether two rows say the same; of the time only if the writer named one.
const COMPARE: &str = "
select one.type = other.type
       and one.subscriber is not distinct from other.subscriber
       and one.payload = other.payload
       and (not $3::bool or one.\"timestamp\" = other.\"timestamp\")
       and one.metadata is not distinct from other.metadata
       and one.amends is not distinct from other.amends
       and one.stream is not distinct from other.stream
from events one, events other where one.id = $1 and other.id = $2";

type Result<T> = std::result::Result<T, Failure>;

impl Appender {
    /// Connects, and prepares to write.
    pub async fn connect(server: &Server) -> Result<Self> {
        let connecting = async {
            let server = server.named("event-piper writer");
            let client = server.client_for(Purpose::Append).await?;
            client.batch_execute(SETTINGS).await?;
            let (lone, plain, placed, find) = try_join!(
                client.prepare(LONE),
                client.prepare(PLAIN),
                client.prepare(PLACED),
                client.prepare(FIND)
            )?;
            let neighbours = Neighbours::survey(&client).await?;
            Ok(Self { client, lone, plain, placed, find, neighbours })
        };
        match timeout(DEADLINE, connecting).await {
            Ok(connected) => connected.map_err(|error| Failure::of_connecting(&error)),
            Err(_) => Err(Failure::Away("PostgreSQL did not answer in time".into())),
        }
    }

    /// Whether the connection has ended, so that nothing can be sent any more.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Whether a trigger of somebody's may change or drop a row before it is written, as was seen a
    /// while ago.
    #[must_use]
    pub fn has_neighbours(&self) -> bool {
        self.neighbours.may_change_rows()
    }

    /// Writes events in their order.
    pub async fn append(&mut self, drafts: &[&Draft], how: How) -> Result<Appended> {
        if self.neighbours.are_of_old() {
            self.neighbours =
                within(Neighbours::survey(&self.client)).await.map_err(Failure::before_commit)?;
        }
        if how == How::Each && !self.neighbours.are_in_the_way() {
            let rows = within(self.insert(drafts, how)).await?;
            return Ok(Appended { rows: row::in_order(drafts, &rows), committed: true });
        }
        self.append_whole(drafts, how).await
    }

    /// Writes all of the events, in their order, or nothing: none, when one of them is skipped, or
    /// would not stand there as it was asked for.
    async fn append_whole(&self, drafts: &[&Draft], how: How) -> Result<Appended> {
        let begun = within(async {
            // In a partitioned log it is a trigger that tells a conflict.
            let begin = if how == How::Certain {
                "begin; set local event_piper.twice = 'refuse'"
            } else {
                "begin"
            };
            let (begin, insert) = (self.client.batch_execute(begin), self.insert(drafts, how));
            // Both travel together, in this order.
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

    /// What is in the log where these were to be written.
    pub async fn find(&self, drafts: &[&Draft]) -> Result<Vec<Found>> {
        let values = Values::of(drafts);
        let rows = within(self.client.query(&self.find, &values.placed())).await;
        let rows = rows.map_err(Failure::before_commit)?;
        Ok(rows.iter().map(found).collect())
    }

    /// Whether an event would say the same as one that is there once the triggers of others have changed
    /// it, as they have changed that one. It is tried, under another `uid`, and rolled back.
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
        tried.map_err(Failure::before_commit)
    }

    /// Whether a conflict was about what tells events apart: their `uid`, or their place in a stream.
    pub async fn is_of_ours(&self, failure: &Failure) -> Result<bool> {
        let Failure::Conflict { constraint: Some(constraint), .. } = failure else {
            return Ok(false);
        };
        let ours = within(neighbours::is_of_ours(&self.client, constraint));
        ours.await.map_err(Failure::before_commit)
    }

    async fn insert(
        &self,
        drafts: &[&Draft],
        how: How,
    ) -> std::result::Result<Vec<DatabaseRow>, tokio_postgres::Error> {
        let values = Values::of(drafts);
        let placed = drafts.iter().any(|draft| draft.place.is_some());
        let how = if self.neighbours.forbid_skipping() { How::Certain } else { how };
        match (how, placed) {
            (How::Certain, true) => self.client.query(CERTAIN_PLACED, &values.placed()).await,
            (How::Certain, false) => self.client.query(CERTAIN_PLAIN, &values.plain()).await,
            (_, true) => self.client.query(&self.placed, &values.placed()).await,
            (_, false) if drafts.len() == 1 => self.client.query(&self.lone, &values.lone()).await,
            (_, false) => self.client.query(&self.plain, &values.plain()).await,
        }
    }

    async fn rollback(&self) -> Result<()> {
        within(self.client.batch_execute("rollback")).await.map_err(Failure::before_commit)
    }
}

fn found(row: &DatabaseRow) -> Found {
    let id: Option<EventId> = row.get(0);
    let written = id.map(|id| Written { id, version: row.get(1) });
    let is_true = |at| row.get::<_, Option<bool>>(at).unwrap_or(false);
    Found { written, same: is_true(2), in_place: is_true(3), current: row.get(4) }
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

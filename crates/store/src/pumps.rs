//! The pumps' part of the database: the lease, the checkpoint, and the dead letters.

use std::fmt::{self, Display, Formatter};

use tokio::task::JoinHandle;
use tokio_postgres::{Client, Row, types::ToSql};

use crate::{cursor::Cursor, event::EventId};
use crate::{
    doorbell::LOCKS,
    event_log,
    server::Server,
    session::{self, Purpose},
};

const REGISTER_PUMP: &str =
    "insert into event_piper_pumps (name) values ($1) on conflict do nothing";
const PUMP_NUMBER: &str = "select pump.number from event_piper_pumps pump where pump.name = $1";
/// The first integer of the pumps' locks is that of the log's own locks plus one.
const TRY_LOCK: &str = "select pg_try_advisory_lock(LOCKS + 1, $1)";
const TAKE_OVER: &str = "
update event_piper_pumps pump set epoch = pump.epoch + 1, updated_at = now() where pump.name = $1
returning pump.position::int8, pump.delivered::int8, pump.booted::bool, pump.owed::text, pump.epoch";
const SAVE_CHECKPOINT: &str = "
update event_piper_pumps pump
set position = $3, delivered = $4, booted = $5, owed = $6, updated_at = now()
where pump.name = $1 and pump.epoch = $2";

/// If the holder is frozen, PostgreSQL ends its session, and with the session the lease (from version 14 on).
const SET_IDLE_SESSION_TIMEOUT: &str = "
select set_config(name, '5s', false) from pg_settings where name = 'idle_session_timeout'";

/// Everything that the holder of a lease asks regularly, in one query.
const HEARTBEAT: &str = "
select pump.epoch = $2,
       coalesce((select log.id::int8 from events log order by log.id desc limit 1), 0),
       array(select letter.event_id from event_piper_dead_letters letter
             where letter.pump = $1 and letter.state = 'retry' order by letter.event_id limit 100),
       (select count(*) from event_piper_dead_letters letter
        where letter.pump = $1 and letter.state <> 'skipped'),
       (select coalesce(max(letter.event_id), 0) from event_piper_dead_letters letter
        where letter.pump = $1),
       coalesce(extract(epoch from clock_timestamp() -
           (select log.\"timestamp\" from events log
            where log.id > $3 order by log.id limit 1)), 0)::float8
from event_piper_pumps pump where pump.name = $1";

const SAVE_DEAD_LETTER: &str = "
insert into event_piper_dead_letters (pump, event_id, state, reason)
select pump.name, $3, $4, $5 from event_piper_pumps pump where pump.name = $1 and pump.epoch = $2
on conflict (pump, event_id) do update
set state = excluded.state, reason = excluded.reason, noted_at = now()";
const DEAD_LETTER: &str = "
select letter.state from event_piper_dead_letters letter
where letter.pump = $1 and letter.event_id = $2";
const DELETE_DEAD_LETTERS: &str = "
delete from event_piper_dead_letters letter
where letter.pump = $1 and letter.event_id between $2 and $3 and letter.state <> 'skipped'";

const PUMPS: &str = "
select pump.position::int8, pump.delivered::int8, pump.booted::bool, pump.owed::text, pump.name::text,
       (select count(*) from events log
        where log.id > greatest(pump.position, split_part(pump.owed, '~', 1)::int8, 0)),
       exists (select from pg_locks held
               where held.locktype = 'advisory' and held.granted and held.objsubid = 2
                 and held.database = (select own.oid from pg_database own
                                      where own.datname = current_database())
                 and held.classid = (LOCKS + 1)::oid and held.objid = pump.number::oid)
from event_piper_pumps pump order by pump.name";
const DEAD_LETTERS: &str = "
select letter.pump::text, letter.event_id::int8, letter.state::text, letter.reason::text,
       coalesce(to_char(letter.noted_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS'),
                letter.noted_at::text)
from event_piper_dead_letters letter
where letter.state <> 'skipped' order by letter.pump, letter.event_id limit 1000";

/// `skipped` is final where no pump waits for the event. A pump that waits for it has to see the new state.
const MARK_DEAD_LETTERS: &str = "
update event_piper_dead_letters letter set state = $3, noted_at = now()
where letter.pump = $1 and letter.state <> 'skipped'
  and (cardinality($2::int8[]) = 0 or letter.event_id = any($2))";

const END_OF_LOG: &str = "
select greatest(coalesce((select log.id::int8 from events log order by log.id desc limit 1), 0),
                (DRAWN))";

type Result<T> = std::result::Result<T, tokio_postgres::Error>;

/// How far an aggregator has been fed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checkpoint {
    /// Every event up to here was delivered to the aggregator, is not for it, or was set aside. `None` before
    /// the first delivery.
    pub position: Option<EventId>,
    /// The cursor at which the aggregator began, if transactions were late there. Up to the cursor's head,
    /// only events of those transactions are for the aggregator. `None` once the position has passed it.
    pub owed: Option<Cursor>,
    /// The last event that the aggregator has confirmed.
    pub delivered: EventId,
    /// Whether the aggregator was told that its bootstrap is complete.
    pub booted: bool,
}

impl Checkpoint {
    /// A checkpoint at which only those events are for the aggregator that this cursor has not passed.
    #[must_use]
    pub fn beginning_at(cursor: Cursor) -> Self {
        // The head counts as delivered: if the aggregator wants a bootstrap later, that is all of history.
        let (position, delivered) = (Some(cursor.settled()), cursor.head());
        Self { position, delivered, booted: true, owed: None }.owing(Some(cursor))
    }

    /// Returns the checkpoint with `owed`, unless the position has passed it.
    #[must_use]
    pub fn owing(self, owed: Option<Cursor>) -> Self {
        let owed = owed.filter(|owed| self.position < Some(owed.head()));
        Self { owed, ..self }
    }

    /// The cursor of what is still to be delivered.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        let plain = || Cursor::behind(self.position.unwrap_or_default());
        self.owed.clone().unwrap_or_else(plain)
    }

    fn of(row: &Row) -> Result<Self> {
        let owed: Option<String> = row.try_get(3)?;
        let owed = owed.and_then(|owed| owed.parse().ok());
        let (position, delivered, booted) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        Ok(Self { position, owed, delivered, booted })
    }
}

impl Display for Checkpoint {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.position {
            None => write!(f, "nothing yet")?,
            Some(_) => {
                write!(f, "event {}, delivered {}", self.cursor().head(), self.delivered)?;
            }
        }
        write!(f, "{}", if self.booted { ", booted" } else { ", not booted" })
    }
}

/// A connection that ends when it is dropped, even while an answer is missing: a pump that waits for the lock
/// must not wait for that answer.
#[derive(Debug)]
struct Session {
    client: Client,
    connection: JoinHandle<()>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// A connection that tries to get the lease of an aggregator.
#[derive(Debug)]
pub struct Candidate {
    session: Session,
    name: String,
    number: i32,
}

/// The connection that holds the lease of an aggregator. Dropping it ends the lease.
#[derive(Debug)]
pub struct LeaseSession {
    session: Session,
    name: String,
    epoch: i64,
}

/// The state of the lease, and what the holder has to know.
#[derive(Debug, Default)]
pub struct Heartbeat {
    /// Whether this holder still has the lease.
    pub held: bool,
    /// The newest event of the log.
    pub newest: EventId,
    /// Events that were refused and are to be sent again.
    pub retries: Vec<EventId>,
    /// The number of events that were refused and are not skipped.
    pub letters: i64,
    /// The last event that was refused.
    pub last_letter: EventId,
    /// The age, in seconds, of the first event that the aggregator may still have to get.
    pub age: f64,
}

/// The state of an event that was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeadLetterState {
    /// The pump has stopped before it.
    Blocking,
    /// The pump has continued behind it.
    SetAside,
    /// An operator wants it sent again.
    Retry,
    /// An operator wants it never sent.
    Skipped,
}

impl DeadLetterState {
    /// The state as the table stores it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Blocking => "blocking",
            Self::SetAside => "set-aside",
            Self::Retry => "retry",
            Self::Skipped => "skipped",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let all = [Self::Blocking, Self::SetAside, Self::Retry, Self::Skipped];
        all.into_iter().find(|letter| letter.as_str() == text)
    }
}

impl Candidate {
    /// Connects, and registers the aggregator if it is new.
    pub async fn connect(server: &Server, name: &str) -> Result<Self> {
        let (client, connection) = server.named("event-piper pump").connect().await?;
        // Errors of the connection are reported by the next statement.
        let connection = tokio::spawn(async move { drop(connection.await) });
        let session = Session { client, connection };
        let client = &session.client;
        session::settle(client, Purpose::Read).await?;
        client.batch_execute(SET_IDLE_SESSION_TIMEOUT).await?;
        if client.query_opt(PUMP_NUMBER, &[&name]).await?.is_none() {
            client.execute(REGISTER_PUMP, &[&name]).await?;
        }
        let number = client.query_one(PUMP_NUMBER, &[&name]).await?.get(0);
        Ok(Self { name: name.to_owned(), number, session })
    }

    /// Tries to get the lease. Returns `false` while another pump has it.
    pub async fn try_lock(&self) -> Result<bool> {
        let try_lock = TRY_LOCK.replace("LOCKS", LOCKS);
        Ok(self.session.client.query_one(&try_lock, &[&self.number]).await?.get(0))
    }

    /// Takes over after the lock was obtained. From now on only this session can move the checkpoint.
    pub async fn take_over(self) -> Result<(LeaseSession, Checkpoint)> {
        let row = self.session.client.query_one(TAKE_OVER, &[&self.name]).await?;
        let checkpoint = Checkpoint::of(&row)?;
        Ok((
            LeaseSession { session: self.session, name: self.name, epoch: row.try_get(4)? },
            checkpoint,
        ))
    }
}

impl LeaseSession {
    /// The number of this takeover.
    #[must_use]
    pub fn epoch(&self) -> i64 {
        self.epoch
    }

    /// Saves the checkpoint. Returns `false` if another pump has taken over.
    pub async fn save(&self, checkpoint: &Checkpoint) -> Result<bool> {
        let Checkpoint { position, delivered, booted, owed } = checkpoint;
        let owed = owed.as_ref().map(Cursor::to_string);
        let values: [&(dyn ToSql + Sync); 6] =
            [&self.name, &self.epoch, position, delivered, booted, &owed];
        Ok(self.session.client.execute(SAVE_CHECKPOINT, &values).await? == 1)
    }

    /// Checks whether the lease is still held, and asks what there is to do.
    pub async fn heartbeat(&self, position: EventId) -> Result<Heartbeat> {
        let values: [&(dyn ToSql + Sync); 3] = [&self.name, &self.epoch, &position];
        let row = self.session.client.query_opt(HEARTBEAT, &values).await?;
        let beat = |row: Row| Heartbeat {
            held: row.get(0),
            newest: row.get(1),
            retries: row.get(2),
            letters: row.get(3),
            last_letter: row.get(4),
            age: row.get(5),
        };
        // A pump that was deleted holds nothing.
        Ok(row.map(beat).unwrap_or_default())
    }

    /// Stores the state of an event that was refused. Returns `false` if another pump has taken over.
    pub async fn note(
        &self,
        event: EventId,
        letter: DeadLetterState,
        reason: &str,
    ) -> Result<bool> {
        let state = letter.as_str();
        let values: [&(dyn ToSql + Sync); 5] = [&self.name, &self.epoch, &event, &state, &reason];
        Ok(self.session.client.execute(SAVE_DEAD_LETTER, &values).await? == 1)
    }

    /// The state of an event that was refused. `None` if it was not.
    pub async fn letter(&self, event: EventId) -> Result<Option<DeadLetterState>> {
        let row = self.session.client.query_opt(DEAD_LETTER, &[&self.name, &event]).await?;
        Ok(row.and_then(|row| DeadLetterState::parse(row.get(0))))
    }

    /// Deletes the dead letters of events that the aggregator has accepted after all.
    pub async fn forget(&self, first: EventId, last: EventId) -> Result<()> {
        self.session
            .client
            .execute(DELETE_DEAD_LETTERS, &[&self.name, &first, &last])
            .await
            .map(drop)
    }

    /// The last id that was drawn, or the newest event's where the role may not see the sequence.
    pub async fn end_of_log(&self) -> Result<EventId> {
        Ok(self
            .session
            .client
            .query_one(&END_OF_LOG.replace("DRAWN", event_log::DRAWN), &[])
            .await?
            .get(0))
    }
}

/// One pump, as operators see it.
#[derive(Debug)]
pub struct PumpState {
    /// The aggregator's name.
    pub name: String,
    /// How far the aggregator has been fed.
    pub checkpoint: Checkpoint,
    /// The number of events behind that, of any type.
    pub behind: i64,
    /// Whether a pump is running.
    pub running: bool,
}

/// One event that was refused, as operators see it.
#[derive(Debug)]
pub struct DeadLetter {
    /// The aggregator's name.
    pub pump: String,
    /// The event's id.
    pub event: EventId,
    /// The state as the table stores it.
    pub state: String,
    /// The answer of the aggregator.
    pub reason: String,
    /// When the state was stored, in UTC.
    pub noted_at: String,
}

/// The pumps of all aggregators that were ever fed from this log.
pub async fn pumps(client: &Client) -> Result<Vec<PumpState>> {
    let state = |row: &Row| -> Result<PumpState> {
        let checkpoint = Checkpoint::of(row)?;
        let (name, behind, running) = (row.try_get(4)?, row.try_get(5)?, row.try_get(6)?);
        Ok(PumpState { name, checkpoint, behind, running })
    };
    client.query(&PUMPS.replace("LOCKS", LOCKS), &[]).await?.iter().map(state).collect()
}

/// The events that were refused and not skipped, at most the first thousand.
pub async fn dead_letters(client: &Client) -> Result<Vec<DeadLetter>> {
    let letter = |row: &Row| DeadLetter {
        pump: row.get(0),
        event: row.get(1),
        state: row.get(2),
        reason: row.get(3),
        noted_at: row.get(4),
    };
    Ok(client.query(DEAD_LETTERS, &[]).await?.iter().map(letter).collect())
}

/// Sets the state of these events, or, if there are none, of all that were refused. Returns how many were
/// changed.
pub async fn mark(
    client: &Client,
    pump: &str,
    events: &[EventId],
    letter: DeadLetterState,
) -> Result<u64> {
    client.execute(MARK_DEAD_LETTERS, &[&pump, &events, &letter.as_str()]).await
}

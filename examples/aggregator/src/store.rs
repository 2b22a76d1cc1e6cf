//! The store of the aggregator: the events that it has applied, and the counts, updated in the same
//! transaction.

use rusqlite::{Connection, OptionalExtension, params};
use serde::Serialize;

use crate::Event;

const SCHEMA: &str = "
pragma journal_mode = wal;
create table if not exists events (id integer primary key, body text not null);
create table if not exists counts (
    subscriber text not null, type text not null, count integer not null,
    primary key (subscriber, type)
);
create table if not exists booted (at text not null default current_timestamp);
";

/// An open database.
pub(crate) struct Store(Connection);

/// The latest event of the store.
pub(crate) enum Latest {
    /// The latest event, as JSON.
    Event(String),
    /// The store is bootstrapped, and has no event.
    None,
    /// The store needs a bootstrap.
    NotBootstrapped,
}

/// The number of events of a subscriber and type.
#[derive(Serialize)]
pub(crate) struct Count {
    subscriber: String,
    r#type: String,
    events: i64,
}

impl Store {
    pub(crate) fn open(file: &str) -> rusqlite::Result<Self> {
        let connection = Connection::open(file)?;
        connection.execute_batch(SCHEMA)?;
        Ok(Self(connection))
    }

    pub(crate) fn latest(&self) -> rusqlite::Result<Latest> {
        let newest = "select body from events order by id desc limit 1";
        if let Some(body) = self.0.query_row(newest, [], |row| row.get(0)).optional()? {
            return Ok(Latest::Event(body));
        }
        let booted = self.0.query_row("select exists (select 1 from booted)", [], |row| row.get(0));
        Ok(if booted? { Latest::None } else { Latest::NotBootstrapped })
    }

    /// Applies the events that are new. A pump delivers at least once, so events with a known id are skipped.
    pub(crate) fn apply(
        &mut self,
        events: &[(Event, String)],
        complete: bool,
    ) -> rusqlite::Result<()> {
        let transaction = self.0.transaction()?;
        for (event, body) in events {
            let new = "insert into events (id, body) values (?1, ?2) on conflict do nothing";
            if transaction.prepare_cached(new)?.execute(params![event.id, body])? == 0 {
                continue;
            }
            let count = "insert into counts (subscriber, type, count) values (?1, ?2, 1)
                on conflict do update set count = count + 1";
            let subscriber = event.subscriber.as_deref().unwrap_or_default();
            transaction.prepare_cached(count)?.execute(params![subscriber, event.kind])?;
        }
        if complete {
            transaction.execute("insert into booted default values", [])?;
        }
        transaction.commit()
    }

    pub(crate) fn counts(&self) -> rusqlite::Result<Vec<Count>> {
        let all = "select subscriber, type, count from counts order by 1, 2";
        let count = |row: &rusqlite::Row<'_>| {
            Ok(Count { subscriber: row.get(0)?, r#type: row.get(1)?, events: row.get(2)? })
        };
        self.0.prepare(all)?.query_map([], count)?.collect()
    }
}

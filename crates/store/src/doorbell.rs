//! The doorbell: writers notify readers only while the reader sleeps.
//!
//! `NOTIFY` takes a cluster-wide lock at commit, and holds it through the flush of the write-ahead log, so
//! that notifying transactions commit one after the other. The trigger on `events` therefore notifies (it
//! *rings*) only when it cannot take the lock BELL in shared mode. A sleeping reader holds that lock
//! exclusively. An awake reader polls, and writers only pay for two uncontended locks.
//!
//! Several readers elect a *keeper* by the lock KEEPER. Only the keeper sleeps on the bell, and it wakes the
//! others.
//!
//! All locks are advisory locks in the two-integer key space. Each log of a database has a first integer of
//! its own, which is in the trigger's function: see `LOCKS`.

use tokio_postgres::Client;

use crate::session::{self, Purpose};

/// SQL for the first integer of the log's locks, as its writers take them. It is looked up each time: a
/// reader that used other locks than the writers would pass over rows.
pub(super) const LOCKS: &str = "\
(select coalesce((
    select substring(function.prosrc from 'try_advisory_xact_lock_shared[(]([0-9]+), 1[)]')::int
    from pg_trigger doorbell join pg_proc function on function.oid = doorbell.tgfoid
    where doorbell.tgrelid = to_regclass('events') and doorbell.tgname = 'events_doorbell'
), 17744))";
/// Held exclusively by the keeper of the bell while it sleeps; held in shared mode by writers that did not
/// ring, until their transaction has ended.
pub const BELL: i32 = 1;
/// Held in shared mode by writers that rang, until their transaction has ended.
pub const WRITER: i32 = 2;
/// Held by the one reader of the log that is the keeper of the bell.
pub const KEEPER: i32 = 3;
/// Held in shared mode by all readers, so that the keeper knows whether there are others to wake.
pub const READER: i32 = 4;
/// Held by a session that prunes.
pub const PRUNE: i32 = 6;
/// The channel that writers notify, and all readers listen to.
pub const CHANNEL: &str = "new_events";

/// The same numbers as they appear in `pg_locks`.
pub(super) const BELL_OID: u32 = BELL.cast_unsigned();
pub(super) const WRITER_OID: u32 = WRITER.cast_unsigned();
pub(super) const READER_OID: u32 = READER.cast_unsigned();
pub(super) const PRUNE_OID: u32 = PRUNE.cast_unsigned();

type Result<T> = std::result::Result<T, tokio_postgres::Error>;

/// Tries to become the keeper of the bell. Returns `false` while another reader is.
pub async fn try_keep(client: &Client) -> Result<bool> {
    try_lock(client, KEEPER).await
}

/// Tries to take the bell, to fall asleep. Returns `false` while a writer is in flight that did not ring.
/// After `true`, poll once more, and then wait for a notification.
pub async fn try_sleep(client: &Client) -> Result<bool> {
    try_lock(client, BELL).await
}

/// Gives back the bell: from now on, writers do not ring.
pub async fn wake(client: &Client) -> Result<()> {
    let unlock = format!("select pg_advisory_unlock({LOCKS}, {BELL})");
    client.batch_execute(&unlock).await
}

/// Sets up a session that only rings. Returns its process id. A notification needs no flush.
pub async fn prepare_to_ring(client: &Client) -> Result<i32> {
    let settings = session::settings(Purpose::Read);
    let hello = format!("{settings} set synchronous_commit = off; {}", session::HELLO);
    Ok(session::settled(&client.simple_query(&hello).await?).pid)
}

/// Wakes the other readers, also those of other logs in the database.
pub async fn ring(client: &Client) -> Result<()> {
    client.batch_execute(&format!("notify {CHANNEL}")).await
}

async fn try_lock(client: &Client, lock: i32) -> Result<bool> {
    let query = format!("select pg_try_advisory_lock({LOCKS}, {lock})::int::text");
    let answer = client.simple_query(&query).await?;
    let row = answer.iter().find_map(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    Ok(row == Some("1"))
}

//! The doorbell: writers notify only while the reader sleeps.
//!
//! `NOTIFY` takes one cluster-wide lock at commit, and holds it through the flush of the
//! write-ahead log, so that notifying transactions commit one after the other. The trigger
//! on `events` therefore notifies only when it cannot share the lock BELL, which a reader
//! holds exclusively while it sleeps. Awake, the reader looks for itself, and writers pay
//! for two uncontended locks.
//!
//! All locks are advisory locks in the two-integer key space. Each log of a database has a first integer of
//! its own, which stands in the trigger's function: see [`LOCKS`].

use tokio_postgres::Client;

use crate::session::{self, Purpose};

/// SQL for the first integer of the log's locks, as its writers take them. It is looked up each time: a
/// reader that looked at other locks than writers take would pass over rows.
pub(super) const LOCKS: &str = "\
(select coalesce((
    select substring(function.prosrc from 'try_advisory_xact_lock_shared[(]([0-9]+), 1[)]')::int
    from pg_trigger doorbell join pg_proc function on function.oid = doorbell.tgfoid
    where doorbell.tgrelid = to_regclass('events') and doorbell.tgname = 'events_doorbell'
), 17744))";
/// Held exclusively by the keeper of the bell while it sleeps; shared by writers that did
/// not ring, until their transaction has ended.
pub const BELL: i32 = 1;
/// Shared by writers that rang, until their transaction has ended.
pub const WRITER: i32 = 2;
/// Held by the one reader of the log that keeps the bell.
pub const KEEPER: i32 = 3;
/// Shared by all readers, so that the keeper knows whether somebody needs waking.
pub const READER: i32 = 4;
/// Held by the one who prunes.
pub const PRUNE: i32 = 6;
/// The channel that writers ring on, and that all readers listen to.
pub const CHANNEL: &str = "new_events";

/// The same numbers as `pg_locks` shows them.
pub(super) const BELL_OID: u32 = BELL.cast_unsigned();
pub(super) const WRITER_OID: u32 = WRITER.cast_unsigned();
pub(super) const READER_OID: u32 = READER.cast_unsigned();
pub(super) const PRUNE_OID: u32 = PRUNE.cast_unsigned();

type Result<T> = std::result::Result<T, tokio_postgres::Error>;

/// Tries to become the keeper of the bell: `false` while another reader is.
pub async fn try_keep(client: &Client) -> Result<bool> {
    try_lock(client, KEEPER).await
}

/// Tries to fall asleep: `false` while a writer is in flight that did not ring. After
/// `true` look once more, then wait for a notification.
pub async fn try_sleep(client: &Client) -> Result<bool> {
    try_lock(client, BELL).await
}

/// Wakes up: from now on, writers do not ring.
pub async fn wake(client: &Client) -> Result<()> {
    let unlock = format!("select pg_advisory_unlock({LOCKS}, {BELL})");
    client.batch_execute(&unlock).await
}

/// Sets a session up that only rings; answers its process id. A notification needs no flush.
pub async fn prepare_to_ring(client: &Client) -> Result<i32> {
    let settings = session::settings(Purpose::Read);
    let hello = format!("{settings} set synchronous_commit = off; {}", session::HELLO);
    Ok(session::settled(&client.simple_query(&hello).await?).pid)
}

/// Wakes the other readers, of other logs in the database as well.
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

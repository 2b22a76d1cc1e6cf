//! The table of keys. The form of a key, and the meaning of its rights, are not known here.

use std::time::{Duration, SystemTime};

use deadpool_postgres::{Object, Pool, PoolError};
use tokio::time::timeout;
use tokio_postgres::{GenericClient, Row};

use crate::server::Server;

/// A key as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredKey {
    /// The part of the key that names it.
    pub id: String,
    /// The name of its holder.
    pub name: String,
    /// The SHA-256 of its secret part.
    pub hash: Vec<u8>,
    /// The rights of the key, as JSON.
    pub rights: String,
    /// When the key was created.
    pub created: SystemTime,
    /// When the key expires, if it does.
    pub expires: Option<SystemTime>,
    /// When the key was revoked, if it was.
    pub revoked: Option<SystemTime>,
}

/// Keys cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// No connection was available.
    #[error("connecting to PostgreSQL")]
    Connect(#[from] PoolError),
    /// The query failed.
    #[error("reading the keys")]
    Read(#[from] tokio_postgres::Error),
    /// PostgreSQL did not answer.
    #[error("PostgreSQL did not answer within {} s", READ_DEADLINE.as_secs())]
    Silent,
}

/// The time for reading the keys. The table is small, and the gateway waits for it.
const READ_DEADLINE: Duration = Duration::from_secs(5);

const COLUMNS: &str =
    "key.id, key.name, key.hash, key.rights::text, key.created_at, key.expires_at,
    key.revoked_at";

/// The most keys that are read. If there are more, the newest are.
const MAX_KEYS: i64 = 10_000;

const CREATE: &str = "
insert into event_piper_keys (id, name, hash, rights, expires_at)
values ($1, $2, $3, $4::text::jsonb, $5)";

const REVOKE: &str = "
update event_piper_keys key set revoked_at = now() where key.id = $1 and key.revoked_at is null";

const CURRENT: &str = "where key.revoked_at is null and coalesce(key.expires_at > now(), true)";

/// Reads the valid keys, over a connection of its own that it keeps.
#[derive(Debug)]
pub struct KeyTable(Pool);

impl KeyTable {
    /// The table on this server.
    #[must_use]
    pub fn new(server: &Server) -> Self {
        Self(server.named("event-piper keys").pool(1))
    }

    /// The keys that are valid now.
    pub async fn current(&self) -> Result<Vec<StoredKey>, KeysError> {
        let reading = async {
            let client = self.0.get().await?;
            let keys = list(&**client, CURRENT).await;
            if keys.is_err() {
                // The connection may be to blame: the next attempt uses a fresh one.
                drop(Object::take(client));
            }
            Ok(keys?)
        };
        timeout(READ_DEADLINE, reading).await.unwrap_or(Err(KeysError::Silent))
    }
}

/// All keys, also those that are not valid any more, newest first.
pub async fn all(client: &impl GenericClient) -> Result<Vec<StoredKey>, tokio_postgres::Error> {
    list(client, "").await
}

async fn list(
    client: &impl GenericClient,
    which: &str,
) -> Result<Vec<StoredKey>, tokio_postgres::Error> {
    let query = format!(
        "select {COLUMNS} from event_piper_keys key {which}
         order by key.created_at desc, key.id limit {MAX_KEYS}"
    );
    client.query(&query, &[]).await?.iter().map(StoredKey::read).collect()
}

/// Stores a key.
pub async fn create(
    client: &impl GenericClient,
    (id, hash): (&str, &[u8]),
    name: &str,
    rights: &str,
    expires: Option<SystemTime>,
) -> Result<(), tokio_postgres::Error> {
    client.execute(CREATE, &[&id, &name, &hash, &rights, &expires]).await.map(drop)
}

/// Revokes a key. Returns `false` if there is no key with this id that was not revoked.
pub async fn revoke(client: &impl GenericClient, id: &str) -> Result<bool, tokio_postgres::Error> {
    Ok(client.execute(REVOKE, &[&id]).await? > 0)
}

impl StoredKey {
    fn read(row: &Row) -> Result<Self, tokio_postgres::Error> {
        Ok(Self {
            id: row.try_get(0)?,
            name: row.try_get(1)?,
            hash: row.try_get(2)?,
            rights: row.try_get(3)?,
            created: row.try_get(4)?,
            expires: row.try_get(5)?,
            revoked: row.try_get(6)?,
        })
    }
}

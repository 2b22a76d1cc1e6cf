//! Brings the database's schema up to date, one migration after the other.

use sha2::{Digest, Sha256};
use tokio_postgres::{Client, GenericClient, error::SqlState};

use crate::{
    restored::{self, Restored},
    server::Server,
    session::{self, Purpose},
};

/// One file of `migrations/`.
struct Migration {
    number: i32,
    name: &'static str,
    sql: &'static str,
}

const MIGRATIONS: [Migration; 13] = [
    Migration {
        number: 1,
        name: "0001_predecessor",
        sql: include_str!("../../../migrations/0001_predecessor.sql"),
    },
    Migration {
        number: 2,
        name: "0002_events",
        sql: include_str!("../../../migrations/0002_events.sql"),
    },
    Migration {
        number: 3,
        name: "0003_doorbell",
        sql: include_str!("../../../migrations/0003_doorbell.sql"),
    },
    Migration {
        number: 4,
        name: "0004_append_only",
        sql: include_str!("../../../migrations/0004_append_only.sql"),
    },
    Migration {
        number: 5,
        name: "0005_events_pruned",
        sql: include_str!("../../../migrations/0005_events_pruned.sql"),
    },
    Migration {
        number: 6,
        name: "0006_corrections_and_retention",
        sql: include_str!("../../../migrations/0006_corrections_and_retention.sql"),
    },
    Migration {
        number: 7,
        name: "0007_keys",
        sql: include_str!("../../../migrations/0007_keys.sql"),
    },
    Migration {
        number: 8,
        name: "0008_pumps",
        sql: include_str!("../../../migrations/0008_pumps.sql"),
    },
    Migration {
        number: 9,
        name: "0009_admit",
        sql: include_str!("../../../migrations/0009_admit.sql"),
    },
    Migration {
        number: 10,
        name: "0010_owners_rights",
        sql: include_str!("../../../migrations/0010_owners_rights.sql"),
    },
    Migration {
        number: 11,
        name: "0011_any_session",
        sql: include_str!("../../../migrations/0011_any_session.sql"),
    },
    Migration {
        number: 12,
        name: "0012_one_owner",
        sql: include_str!("../../../migrations/0012_one_owner.sql"),
    },
    Migration {
        number: 13,
        name: "0013_pump_start",
        sql: include_str!("../../../migrations/0013_pump_start.sql"),
    },
];

/// The migrations that create the functions that run with their owner's rights. They are applied again if the
/// schema was renamed, because its name is in the functions, or if the log has another owner.
const MAKE_FUNCTIONS: [&str; 2] = ["0010_owners_rights", "0012_one_owner"];

/// The oldest server that has what the schema needs (`xid8`), as a `server_version_num`.
pub(crate) const OLDEST_SERVER: i32 = 130_000;

/// The SQLSTATE that a migration raises if a table `events` is not ours.
const FOREIGN_TABLE: &str = "EP001";

/// The errors of PostgreSQL if the name of a table, a function or a trigger is taken.
const NAME_IS_TAKEN: [SqlState; 4] = [
    SqlState::DUPLICATE_TABLE,
    SqlState::DUPLICATE_FUNCTION,
    SqlState::DUPLICATE_OBJECT,
    SqlState::INVALID_FUNCTION_DEFINITION,
];

/// Reads the catalogue itself: `to_regclass` may remember, from before this session had the lock, that the
/// table did not exist.
const FIND_RECORD: &str = "\
select exists (select from pg_class
               where relname = 'event_piper_migrations' and pg_table_is_visible(oid))";
const READ_RECORD: &str = "select number, name, checksum from event_piper_migrations order by 1";
const CREATE_RECORD: &str = "\
create table if not exists event_piper_migrations (
    number     int primary key,
    name       text not null,
    checksum   text not null,
    applied_at timestamptz not null default now()
)";
const RECORD: &str =
    "insert into event_piper_migrations (number, name, checksum) values ($1, $2, $3)";
const PREMISES: &str = "\
select current_setting('server_version_num')::int, current_setting('server_encoding'),
       current_schema() is not null";

/// Whether there are functions that were made for the log of another schema, since this one was renamed.
const MADE_FOR_ANOTHER_SCHEMA: &str = "\
select exists (
    select from pg_class log
    join pg_namespace home on home.oid = log.relnamespace
    join pg_proc function on function.pronamespace = home.oid
    where log.oid = to_regclass('events') and function.prosecdef
      and starts_with(function.proname::text, 'event_piper_')
      and position(quote_literal(format('%I.events', home.nspname)) in function.prosrc) = 0)";

/// Whether a function of ours runs with the rights of a role that some owner of the log's tables does not
/// have, and this session may mend that. (A gateway's role may not, and need not: the functions refuse to
/// work, and doctor says why.)
const OWNERS_DIFFER: &str = "\
select exists (
    select from pg_class log
    join pg_class its on its.relnamespace = log.relnamespace
     and (its.oid = log.oid or its.relname in ('events_pruned', 'events_erased', 'events_uids',
                                               'events_streams', 'event_piper_amending'))
    join pg_proc function on function.pronamespace = log.relnamespace
    where log.oid = to_regclass('events') and function.prosecdef
      and starts_with(function.proname::text, 'event_piper_')
      and not pg_has_role(its.relowner, function.proowner, 'member')
      and pg_has_role(function.proowner, 'member') and pg_has_role(its.relowner, 'member')
      and pg_has_role(log.relowner, 'member'))";

/// Whether another log of the database uses the same locks: the two would wait for each other.
pub(crate) const SHARES_ITS_LOCKS: &str = "\
select exists (
    select from pg_proc other
    where other.proname = 'event_piper_doorbell'
      and other.pronamespace <> (select log.relnamespace from pg_class log
                                 where log.oid = to_regclass('events'))
      and substring(other.prosrc from 'try_advisory_xact_lock_shared[(]([0-9]+), 1[)]')::int8 = LOCKS)";

/// Makes other migrations of this log wait until this one has finished. The transaction holds the lock, so
/// this also works through a connection pooler. The shared lock is for versions that used one lock for the
/// whole database.
const ACQUIRE_LOCK: &str = "\
select pg_advisory_xact_lock_shared(17744, 5);
select pg_advisory_xact_lock(17746, hashtext(current_schema()))";
/// A statement that waits for a table makes everything behind it wait, so it is better to give up with an
/// error.
const SET_LOCK_TIMEOUT: &str = "set local lock_timeout = '10s'";

/// The result of [`migrate`].
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The names of the migrations that were applied; empty if the schema was current. If the schema was
    /// renamed or the log has another owner, the migrations that create functions are among them.
    pub applied: Vec<&'static str>,
    /// What was done about rows of a backup of another cluster.
    pub restored: Restored,
}

/// How the database's schema compares with that of this program.
#[derive(Debug, PartialEq, Eq)]
pub enum Status {
    /// They are the same.
    Current,
    /// Some migrations are still to be applied.
    Behind {
        /// Their names, in order.
        missing: Vec<&'static str>,
    },
}

/// The schema cannot be brought up to date.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// There is no connection to the server.
    #[error("connecting to {server}")]
    Connect {
        /// The server's address.
        server: String,
        /// The cause.
        source: tokio_postgres::Error,
    },
    /// The server is too old for the schema.
    #[error("the server is PostgreSQL {}; EventPiper needs 13 or later", found / 10_000)]
    ServerTooOld {
        /// The server's `server_version_num`.
        found: i32,
    },
    /// The database's encoding cannot represent every event.
    #[error("the database's encoding is {found}; EventPiper needs one that was created with UTF8")]
    Encoding {
        /// The database's `server_encoding`.
        found: String,
    },
    /// There is no schema for the tables.
    #[error("no schema of the role's search_path exists, or the role may not use it")]
    NoSchema,
    /// There is a table `events` that is neither ours nor the predecessor's. It was not changed.
    #[error("{found}. {mend}")]
    ForeignTable {
        /// What the table looks like.
        found: String,
        /// What to do about it.
        mend: String,
    },
    /// The database was migrated by a later version of this program.
    #[error(
        "the schema is at migration {found}, and this program knows only {known}; start the version that \
         migrated it, or a later one"
    )]
    Newer {
        /// The greatest recorded number.
        found: i32,
        /// The greatest number that this program knows.
        known: i32,
    },
    /// A migration was applied with another text than that of this program.
    #[error(
        "migration {name} was applied with another text than that of this program; start the version \
         that migrated the database"
    )]
    Changed {
        /// The migration's name.
        name: String,
    },
    /// Reading the state of the schema failed.
    #[error("reading which migrations were applied")]
    Read(#[source] tokio_postgres::Error),
    /// Rows of a backup of another cluster could not be marked as old.
    #[error("marking rows that were restored from another cluster as old")]
    Restored(#[source] tokio_postgres::Error),
    /// A migration failed, and changed nothing.
    #[error("applying migration {name}{}", name_is_taken(source))]
    Apply {
        /// The migration's name.
        name: &'static str,
        /// The error of PostgreSQL.
        source: tokio_postgres::Error,
    },
}

/// What to do if the name of something that is to be created is taken.
fn name_is_taken(error: &tokio_postgres::Error) -> &'static str {
    match error.code() {
        Some(code) if NAME_IS_TAKEN.contains(code) => {
            ": something that is not EventPiper's has one of its names (rename it, or give EventPiper a \
             schema of its own: create one, and let the role's search_path begin with it)"
        }
        _ => "",
    }
}

/// Brings the schema up to date. Several processes may do so at once. If there is nothing to do, only the
/// right to read is needed.
pub async fn migrate(server: &Server) -> Result<Outcome, MigrateError> {
    let client = server
        .unsettled()
        .await
        .map_err(|source| MigrateError::Connect { server: server.to_string(), source })?;
    let mut applied = Vec::new();
    if look(&client).await? != Status::Current {
        while let Some(name) = apply_next(&client).await? {
            applied.push(name);
        }
    }
    if make_functions_again(&client).await? {
        applied.extend(MAKE_FUNCTIONS);
    }
    let restored = restored::mend(&client).await.map_err(MigrateError::Restored)?;
    Ok(Outcome { applied, restored })
}

/// Compares the schema with that of this program. If it lacks something, also checks the requirements on the
/// server.
async fn look(client: &Client) -> Result<Status, MigrateError> {
    begin(client).await?;
    let status = check(client).await?;
    if status != Status::Current {
        check_premises(client).await?;
    }
    client.batch_execute("rollback").await.map_err(MigrateError::Read)?;
    Ok(status)
}

/// Begins a transaction with our settings, because a pooler may lend the session by the transaction. There is
/// no rollback after an error: the connection ends with the error.
async fn begin(client: &Client) -> Result<(), MigrateError> {
    session::begin(client, Purpose::Change).await.map_err(MigrateError::Read)
}

/// Whether there is a log in this database, as the role of this URL sees it.
pub async fn is_there(server: &Server) -> Result<bool, tokio_postgres::Error> {
    let client = server.unsettled().await?;
    let row = client.query_one("select to_regclass('events') is not null", &[]).await?;
    row.try_get(0)
}

/// Compares the schema with that of this program. Changes nothing.
pub async fn check(client: &impl GenericClient) -> Result<Status, MigrateError> {
    let recorded = recorded(client).await.map_err(MigrateError::Read)?;
    compare(&recorded)
}

/// The text of the doorbell's function, as the server stores it for the first log of a database.
pub(crate) fn doorbell_body() -> String {
    let body = MIGRATIONS[10].sql.split("$doorbell$").nth(1).unwrap_or_default();
    body.replace("{locks}", "17744")
}

/// A migration that was applied.
struct Recorded {
    number: i32,
    name: String,
    checksum: String,
}

async fn recorded(client: &impl GenericClient) -> Result<Vec<Recorded>, tokio_postgres::Error> {
    if !client.query_one(FIND_RECORD, &[]).await?.try_get::<_, bool>(0)? {
        return Ok(Vec::new());
    }
    let rows = client.query(READ_RECORD, &[]).await?;
    let read = |row: &tokio_postgres::Row| {
        Ok(Recorded { number: row.try_get(0)?, name: row.try_get(1)?, checksum: row.try_get(2)? })
    };
    rows.iter().map(read).collect()
}

fn compare(recorded: &[Recorded]) -> Result<Status, MigrateError> {
    for applied in recorded {
        let Some(ours) = MIGRATIONS.iter().find(|ours| ours.number == applied.number) else {
            let known = MIGRATIONS[MIGRATIONS.len() - 1].number;
            return Err(MigrateError::Newer { found: applied.number, known });
        };
        if ours.checksum() != applied.checksum {
            return Err(MigrateError::Changed { name: applied.name.clone() });
        }
    }
    let applied = |number| recorded.iter().any(|recorded| recorded.number == number);
    let missing = MIGRATIONS.iter().filter(|ours| !applied(ours.number));
    let missing: Vec<_> = missing.map(|ours| ours.name).collect();
    Ok(if missing.is_empty() { Status::Current } else { Status::Behind { missing } })
}

async fn check_premises(client: &Client) -> Result<(), MigrateError> {
    let row = client.query_one(PREMISES, &[]).await.map_err(MigrateError::Read)?;
    let (version, encoding, schema): (i32, String, bool) = (row.get(0), row.get(1), row.get(2));
    if version < OLDEST_SERVER {
        return Err(MigrateError::ServerTooOld { found: version });
    }
    if encoding != "UTF8" {
        return Err(MigrateError::Encoding { found: encoding });
    }
    if schema { Ok(()) } else { Err(MigrateError::NoSchema) }
}

/// Applies the first missing migration, in a transaction of its own. Returns its name.
async fn apply_next(client: &Client) -> Result<Option<&'static str>, MigrateError> {
    begin(client).await?;
    client.batch_execute(ACQUIRE_LOCK).await.map_err(MigrateError::Read)?;
    // The check has to follow the lock: another process may have migrated in the meantime.
    let Status::Behind { missing } = check(client).await? else {
        client.batch_execute("rollback").await.map_err(MigrateError::Read)?;
        return Ok(None);
    };
    let next = MIGRATIONS.iter().find(|ours| ours.name == missing[0]);
    let next = next.expect("what is missing is one of ours");
    next.apply(client).await.map_err(|source| next.explain(source))?;
    Ok(Some(next.name))
}

/// Creates the functions again that run with their owner's rights, if the schema was renamed or its owner
/// changed.
async fn make_functions_again(client: &Client) -> Result<bool, MigrateError> {
    begin(client).await?;
    if !holds(client, MADE_FOR_ANOTHER_SCHEMA).await? && !holds(client, OWNERS_DIFFER).await? {
        client.batch_execute("rollback").await.map_err(MigrateError::Read)?;
        return Ok(false);
    }
    client.batch_execute(ACQUIRE_LOCK).await.map_err(MigrateError::Read)?;
    for migration in MIGRATIONS.iter().filter(|ours| MAKE_FUNCTIONS.contains(&ours.name)) {
        let apply = async {
            client.batch_execute(SET_LOCK_TIMEOUT).await?;
            client.batch_execute(migration.sql).await
        };
        apply.await.map_err(|source| migration.explain(source))?;
    }
    client.batch_execute("commit").await.map_err(MigrateError::Read)?;
    Ok(true)
}

async fn holds(client: &Client, question: &str) -> Result<bool, MigrateError> {
    Ok(client.query_one(question, &[]).await.map_err(MigrateError::Read)?.get(0))
}

impl Migration {
    fn checksum(&self) -> String {
        use std::fmt::Write;
        let digest = Sha256::digest(self.sql);
        digest.iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    }

    /// Applies the migration in the open transaction, and commits.
    async fn apply(&self, client: &Client) -> Result<(), tokio_postgres::Error> {
        client.batch_execute(SET_LOCK_TIMEOUT).await?;
        client.batch_execute(CREATE_RECORD).await?;
        client.batch_execute(self.sql).await?;
        client.execute(RECORD, &[&self.number, &self.name, &self.checksum()]).await?;
        client.batch_execute("commit").await
    }

    fn explain(&self, source: tokio_postgres::Error) -> MigrateError {
        match source.as_db_error() {
            Some(error) if *error.code() == SqlState::from_code(FOREIGN_TABLE) => {
                MigrateError::ForeignTable {
                    found: error.message().to_owned(),
                    mend: error.hint().unwrap_or_default().to_owned(),
                }
            }
            _ => MigrateError::Apply { name: self.name, source },
        }
    }
}

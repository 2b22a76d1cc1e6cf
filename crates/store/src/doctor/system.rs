//! Examines the server: its version, its role, its schema and its free connections.

use tokio_postgres::Client;

use super::finding::{Examined, Finding};
use crate::{
    error::ErrorChain,
    migrate::{MigrateError, OLDEST_SERVER, Status, check},
    server::Server,
};

/// Connections for the gateway, and some for others.
const CONNECTIONS_NEEDED: i64 = 20;
/// A queue of notifications that is this full is not being emptied: some session listens and never reads.
const QUEUE_SUSPICIOUS: f64 = 0.25;

const SERVER: &str = "\
select current_setting('server_version'), current_setting('server_version_num')::int,
       pg_is_in_recovery(), current_setting('server_encoding')";
const FREE_CONNECTIONS: &str = "\
select current_setting('max_connections')::bigint
       - current_setting('superuser_reserved_connections')::bigint
       - (select sum(numbackends) from pg_stat_database)::bigint";
const QUEUE_USAGE: &str = "select pg_notification_queue_usage()";

pub(super) async fn server(client: &Client, server: &Server) -> Examined {
    const SUBJECT: &str = "server";
    let row = client.query_one(SERVER, &[]).await?;
    let (name, number): (String, i32) = (row.get(0), row.get(1));
    let (standby, encoding): (bool, String) = (row.get(2), row.get(3));
    let found = format!("PostgreSQL {name} at {server}");
    Ok(if number < OLDEST_SERVER {
        Finding::fatal(SUBJECT, found, "Upgrade it to PostgreSQL 13 or later.")
    } else if standby {
        let found = format!("{found}, a standby, on which LISTEN does not work");
        Finding::fatal(SUBJECT, found, "Let the database URL name the primary.")
    } else if encoding != "UTF8" {
        let found = format!("{found}, whose database has the encoding {encoding}");
        Finding::fatal(SUBJECT, found, "Create another database with the encoding UTF8.")
    } else {
        Finding::ok(SUBJECT, found)
    })
}

pub(super) async fn schema(client: &Client) -> Examined {
    const SUBJECT: &str = "schema";
    Ok(match check(client).await {
        Ok(Status::Current) => Finding::ok(SUBJECT, "up to date"),
        Ok(Status::Behind { missing }) => Finding::fatal(
            SUBJECT,
            format!("not up to date, missing {}", missing.join(", ")),
            "Run `event-piper migrate` as the tables' owner.",
        ),
        Err(MigrateError::Read(source)) => return Err(source),
        Err(error) => Finding::fatal(
            SUBJECT,
            ErrorChain(&error).to_string(),
            "Run the version of EventPiper that the database was migrated by.",
        ),
    })
}

pub(super) async fn connections(client: &Client) -> Examined {
    const SUBJECT: &str = "connections";
    let free: i64 = client.query_one(FREE_CONNECTIONS, &[]).await?.get(0);
    let found = format!("{free} more are possible");
    Ok(if free < CONNECTIONS_NEEDED {
        Finding::warning(SUBJECT, found, "Raise max_connections, or lower the gateway's pool.")
    } else {
        Finding::ok(SUBJECT, found)
    })
}

pub(super) async fn notification_queue(client: &Client) -> Examined {
    const SUBJECT: &str = "notification queue";
    let usage: f64 = client.query_one(QUEUE_USAGE, &[]).await?.get(0);
    let found = format!("{:.0} % full", usage * 100.0);
    Ok(if usage > QUEUE_SUSPICIOUS {
        Finding::warning(
            SUBJECT,
            format!("{found}; once it is full, writers that notify fail"),
            "End the session that listens without reading: its process id is in the server's log, \
             and it is usually idle in a transaction.",
        )
    } else {
        Finding::ok(SUBJECT, found)
    })
}

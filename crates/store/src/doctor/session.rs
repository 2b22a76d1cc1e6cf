//! Examines the gateway's own sessions: whether they are real ones, and whether a timeout ends them.

use std::{future::poll_fn, time::Duration};

use tokio::{sync::mpsc, time::timeout};
use tokio_postgres::{AsyncMessage, Client, SimpleQueryMessage};

use super::finding::{Examined, Finding};
use crate::server::{Connection, Server};

/// How long to wait for a notification. It usually takes about a millisecond, so a slower server is a finding, too.
const NOTIFICATION_DEADLINE: Duration = Duration::from_secs(2);
/// The shortest timeout, in milliseconds, that is no finding. On a healthy server no query of the gateway takes
/// longer.
const SHORTEST_TIMEOUT_MS: i64 = 10_000;

/// The timeouts that the gateway's sessions set to 0 (none), in milliseconds. Not all of them exist before
/// PostgreSQL 17. In a session that a pooler lends, they may have other values.
const TIMEOUTS: &str = "\
select name, setting::bigint from pg_settings
where name in ('statement_timeout', 'transaction_timeout', 'idle_session_timeout')
  and setting <> '0' order by name";
const BELL: &str = "select pg_catalog.current_setting('event_piper.bell', true)";

/// A pooler that lends sessions by the transaction accepts LISTEN, and delivers no notification.
pub(super) async fn session(server: &Server) -> Examined {
    const SUBJECT: &str = "session";
    const MEND: &str = "Let the database URL name PostgreSQL itself, not a pooler, or a pooler \
                        in session mode.";
    Ok(match (keeps_its_backend(server).await?, hears(server).await?) {
        (true, true) => Finding::ok(SUBJECT, "not shared, and notifications arrive"),
        (false, _) => Finding::fatal(SUBJECT, "shared with others by a pooler", MEND),
        (true, false) => Finding::fatal(SUBJECT, "notifications do not arrive", MEND),
    })
}

pub(super) async fn settings(client: &Client) -> Examined {
    const SUBJECT: &str = "settings";
    let rows = client.query(TIMEOUTS, &[]).await?;
    let short: Vec<_> = rows
        .iter()
        .map(|row| (row.get::<_, String>(0), row.get::<_, i64>(1)))
        .filter(|(name, limit)| name == "idle_session_timeout" || *limit < SHORTEST_TIMEOUT_MS)
        .collect();
    if short.is_empty() {
        return Ok(Finding::ok(SUBJECT, "no timeout ends the gateway's queries"));
    }
    let found: Vec<_> = short.iter().map(|(name, limit)| format!("{name} is {limit} ms")).collect();
    Ok(Finding::warning(
        SUBJECT,
        format!("{}, although the gateway sets another value", found.join(", ")),
        "Let the database URL name PostgreSQL itself, not a pooler, or a pooler in session mode.",
    ))
}

/// The setting is meant for single sessions that prepare transactions. If it is off for all, no writer rings.
pub(super) async fn bell(client: &Client) -> Examined {
    const SUBJECT: &str = "doorbell setting";
    let bell: Option<String> = client.query_one(BELL, &[]).await?.get(0);
    Ok(if bell.as_deref() == Some("off") {
        Finding::warning(
            SUBJECT,
            "event_piper.bell is off for this database or role; where it is off for writers, \
             events arrive up to a second late",
            "Set it in the sessions that prepare transactions only: alter database ... reset \
             event_piper.bell;",
        )
    } else {
        Finding::ok(SUBJECT, "on")
    })
}

async fn keeps_its_backend(server: &Server) -> Result<bool, tokio_postgres::Error> {
    let client = server.unsettled().await?;
    let first = backend(&client).await?;
    // A statement of another session in between gives a pooler the occasion to change the backend.
    let other = server.unsettled().await?;
    for _ in 0..4 {
        backend(&other).await?;
        if backend(&client).await? != first {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Uses the simple protocol: with prepared statements, some poolers fail before they can be recognised.
async fn backend(client: &Client) -> Result<Option<String>, tokio_postgres::Error> {
    let messages = client.simple_query("select pg_backend_pid()").await?;
    Ok(messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(ToOwned::to_owned),
        _ => None,
    }))
}

async fn hears(server: &Server) -> Result<bool, tokio_postgres::Error> {
    let channel = format!("event_piper_doctor_{:x}", fastrand::u64(..));
    let (client, connection) = server.connect().await?;
    let (sender, mut heard) = mpsc::unbounded_channel();
    tokio::spawn(pass_on_notifications(connection, sender));
    client.batch_execute(&format!("listen {channel}")).await?;
    server.unsettled().await?.batch_execute(&format!("notify {channel}")).await?;
    Ok(matches!(timeout(NOTIFICATION_DEADLINE, heard.recv()).await, Ok(Some(()))))
}

async fn pass_on_notifications(mut connection: Connection, sender: mpsc::UnboundedSender<()>) {
    while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
        if matches!(message, AsyncMessage::Notification(_)) {
            let _ = sender.send(());
        }
    }
}

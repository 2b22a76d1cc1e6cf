//! Maintenance: what pruning and erasing share. Both use small transactions with short waits, and retry.

use std::time::Duration;

use tokio_postgres::{Client, Row, Transaction, error::SqlState};

use crate::{backoff::Policy, event::EventId};

/// The number of rows that one transaction reads.
pub(super) const PAGE_ROWS: i64 = 2000;

/// The result of one transaction.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// The number of rows that it read.
    pub looked_at: u64,
    /// The number of rows that it changed, or would have changed.
    pub changed: u64,
    /// The id (of a stream: the version) up to which it read.
    pub upto: EventId,
    /// Whether there is nothing left behind it.
    pub last: bool,
}

impl Step {
    /// Reads a row of: the last place (null if there was no row), and the numbers of rows read and changed.
    pub(super) fn of(row: &Row, end: EventId) -> Self {
        let count = |column| u64::try_from(row.get::<_, i64>(column)).unwrap_or(0);
        let looked_at = count(1);
        let upto = row.get::<_, Option<EventId>>(0).unwrap_or(end);
        let last = looked_at < PAGE_ROWS.unsigned_abs() || upto >= end;
        Self { looked_at, changed: count(2), upto, last }
    }
}

/// Allows changes to rows of the log. The transaction neither waits long for the locks of others, nor keeps
/// others waiting.
const ALLOW_CHANGES: &str = "
set local event_piper.prune = 'on'; set local lock_timeout = '1s';
set local statement_timeout = '30s'";

/// The number of attempts at one transaction.
const MAX_ATTEMPTS: u32 = 10;
/// The pauses between attempts.
const RETRY_PAUSES: Policy = Policy::new(Duration::from_millis(200), Duration::from_secs(1));

type Result<T> = std::result::Result<T, tokio_postgres::Error>;

/// Begins a transaction that may change rows of the log.
pub(super) async fn begin(client: &mut Client) -> Result<Transaction<'_>> {
    let transaction = client.transaction().await?;
    transaction.batch_execute(ALLOW_CHANGES).await?;
    Ok(transaction)
}

/// Runs a transaction, and retries it if it conflicted with another one.
pub(super) async fn with_retries<T>(mut attempt: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    let mut backoff = RETRY_PAUSES.start();
    for _ in 1..MAX_ATTEMPTS {
        match attempt().await {
            Err(error) if is_transient(&error) => backoff.wait().await,
            done => return done,
        }
    }
    attempt().await
}

fn is_transient(error: &tokio_postgres::Error) -> bool {
    let passing = [
        SqlState::LOCK_NOT_AVAILABLE,
        SqlState::T_R_DEADLOCK_DETECTED,
        SqlState::T_R_SERIALIZATION_FAILURE,
        SqlState::QUERY_CANCELED,
    ];
    error.code().is_some_and(|code| passing.contains(code))
}

//! What changes the log after it was written has in common: small transactions, short waits,
//! and the patience to come back.

use std::time::Duration;

use tokio_postgres::{Client, Row, Transaction, error::SqlState};

use crate::{backoff::Policy, event::EventId};

/// Rows that one transaction looks at.
pub(super) const PAGE: i64 = 2000;

/// What one transaction came to.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// Rows that it looked at.
    pub looked_at: u64,
    /// Rows that it changed, or would have changed.
    pub changed: u64,
    /// How far it got.
    pub upto: EventId,
    /// There is nothing behind it.
    pub last: bool,
}

impl Step {
    /// Out of how far it got (null: there was nothing), and how many rows it saw and changed.
    pub(super) fn of(row: &Row, end: EventId) -> Self {
        let count = |column| u64::try_from(row.get::<_, i64>(column)).unwrap_or(0);
        let looked_at = count(1);
        let upto = row.get::<_, Option<EventId>>(0).unwrap_or(end);
        let last = looked_at < PAGE.unsigned_abs() || upto >= end;
        Self { looked_at, changed: count(2), upto, last }
    }
}

/// Who changes rows opens this one door, and neither waits for long for what somebody else
/// holds, nor keeps somebody else waiting.
const BEGIN: &str = "
set local event_piper.prune = 'on'; set local lock_timeout = '1s';
set local statement_timeout = '30s'";

/// Attempts at one transaction, and the pauses between them.
const ATTEMPTS: u32 = 10;
const PAUSES: Policy = Policy::new(Duration::from_millis(200), Duration::from_secs(1));

type Result<T> = std::result::Result<T, tokio_postgres::Error>;

/// Begins a transaction that may change rows of the log.
pub(super) async fn transaction(client: &mut Client) -> Result<Transaction<'_>> {
    let transaction = client.transaction().await?;
    transaction.batch_execute(BEGIN).await?;
    Ok(transaction)
}

/// Tries a transaction again that was in somebody's way.
pub(super) async fn patiently<T>(mut attempt: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    let mut backoff = PAUSES.start();
    for _ in 1..ATTEMPTS {
        match attempt().await {
            Err(error) if is_passing(&error) => backoff.wait().await,
            done => return done,
        }
    }
    attempt().await
}

fn is_passing(error: &tokio_postgres::Error) -> bool {
    let passing = [
        SqlState::LOCK_NOT_AVAILABLE,
        SqlState::T_R_DEADLOCK_DETECTED,
        SqlState::T_R_SERIALIZATION_FAILURE,
        SqlState::QUERY_CANCELED,
    ];
    error.code().is_some_and(|code| passing.contains(code))
}

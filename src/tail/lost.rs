//! Why a listening connection was given up.

use std::time::Duration;

use tokio::time::{error::Elapsed, timeout};
use tokio_postgres::error::{DbError, Severity};

/// Why the listening connection had to be given up.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectionLost {
    /// It could not be opened, or a query failed.
    #[error("{doing}")]
    Query {
        /// What was being done.
        doing: &'static str,
        /// Why it failed.
        source: tokio_postgres::Error,
    },
    /// PostgreSQL did not answer in time: perhaps nobody is there any more.
    #[error("{doing}: no answer within {} s", QUERY_TIMEOUT.as_secs())]
    Silent {
        /// What was being done.
        doing: &'static str,
        /// The deadline.
        source: Elapsed,
    },
    /// PostgreSQL closed it.
    #[error("PostgreSQL closed the listening connection")]
    Closed,
    /// The server only replays what another one writes.
    #[error("PostgreSQL is a standby: it can neither notify nor be listened to")]
    Standby,
}

impl ConnectionLost {
    /// PostgreSQL answered that it does not do what it was asked, and goes on otherwise.
    pub(super) fn is_refusal(&self) -> bool {
        let Self::Query { source, .. } = self else { return false };
        let severity = source.as_db_error().and_then(DbError::parsed_severity);
        severity == Some(Severity::Error)
    }
}

/// No query of the tailer takes this long on a connection that lives: they are short, and
/// read pages of bounded size. With the second between safety polls, a connection that has
/// died without a word is found within 10 seconds.
const QUERY_TIMEOUT: Duration = Duration::from_secs(8);

/// Gives what is being done its deadline, and an error its story.
pub(super) async fn within<T>(
    doing: &'static str,
    query: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, ConnectionLost> {
    match timeout(QUERY_TIMEOUT, query).await {
        Ok(answer) => answer.map_err(|source| ConnectionLost::Query { doing, source }),
        Err(source) => Err(ConnectionLost::Silent { doing, source }),
    }
}

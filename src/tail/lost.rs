//! Why a listening connection was lost.

use std::time::Duration;

use tokio::time::{error::Elapsed, timeout};
use tokio_postgres::error::{DbError, Severity};

/// Why the listening connection was lost, or had to be closed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectionLost {
    /// The connection could not be opened, or a query on it failed.
    #[error("{doing}")]
    Query {
        /// The action that failed.
        doing: &'static str,
        /// The cause.
        source: tokio_postgres::Error,
    },
    /// PostgreSQL did not answer in time. The connection may be dead.
    #[error("{doing}: no answer within {} s", QUERY_TIMEOUT.as_secs())]
    Silent {
        /// The action that was not answered.
        doing: &'static str,
        /// The expired timeout.
        source: Elapsed,
    },
    /// PostgreSQL closed the connection.
    #[error("PostgreSQL closed the listening connection")]
    Closed,
    /// The server is a standby.
    #[error("PostgreSQL is a standby: it can neither notify nor be listened to")]
    Standby,
}

impl ConnectionLost {
    /// Whether PostgreSQL refused a query with an error, and is available otherwise.
    pub(super) fn is_refusal(&self) -> bool {
        let Self::Query { source, .. } = self else { return false };
        let severity = source.as_db_error().and_then(DbError::parsed_severity);
        severity == Some(Severity::Error)
    }
}

/// The time limit of each query of the tail. On a working connection none takes this long, because they are
/// short and read pages of bounded size. With a safety poll every second, a connection that died silently is
/// detected within 10 seconds.
const QUERY_TIMEOUT: Duration = Duration::from_secs(8);

/// Runs `query` within [`QUERY_TIMEOUT`]. `doing` names the action in an error.
pub(super) async fn within<T>(
    doing: &'static str,
    query: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, ConnectionLost> {
    match timeout(QUERY_TIMEOUT, query).await {
        Ok(answer) => answer.map_err(|source| ConnectionLost::Query { doing, source }),
        Err(source) => Err(ConnectionLost::Silent { doing, source }),
    }
}

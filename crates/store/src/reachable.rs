//! Waits for a server that is not there yet, as when everything starts at once, and tells that from a
//! refusal, which waiting does not mend.

use std::{error::Error, io, iter, time::Duration};

use tokio::time::{sleep, timeout};
use tokio_postgres::error::SqlState;
use tracing::warn;

use crate::backoff::Policy;
use crate::{error::ErrorChain, server::Server};

/// The pauses between attempts.
const RETRY_PAUSES: Policy = Policy::new(Duration::from_millis(100), Duration::from_secs(5));

/// The time for one attempt. A server that takes longer has accepted the connection and sends nothing.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);

/// Waits until the server accepts a connection.
///
/// # Errors
/// If the server refuses: a wrong password, a missing database, a wrong certificate.
pub async fn wait_for_server(server: &Server) -> Result<(), tokio_postgres::Error> {
    let mut backoff = RETRY_PAUSES.start();
    loop {
        let pause = backoff.pause();
        match timeout(CONNECT_DEADLINE, server.connect()).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(e)) if !is_transient_error(&e) => return Err(e),
            Ok(Err(e)) => {
                warn!(
                    "PostgreSQL at {server} cannot be reached; trying again in {pause:.1?}: {}",
                    ErrorChain(&e)
                );
            }
            Err(_) => warn!(
                "PostgreSQL at {server} accepted a connection and sent nothing within {} s; trying again in \
                 {pause:.1?}",
                CONNECT_DEADLINE.as_secs()
            ),
        }
        sleep(pause).await;
    }
}

/// Whether an error says that the server went away or was busy, so that the same operation may succeed later.
#[must_use]
pub fn is_transient(error: &(dyn Error + 'static)) -> bool {
    let mut causes = iter::successors(Some(error), |error| (*error).source());
    causes.find_map(|cause| cause.downcast_ref()).is_some_and(is_transient_error)
}

/// The errors of a server that stops, starts, or has no room at the moment.
const TRANSIENT_SQLSTATES: [SqlState; 6] = [
    SqlState::CANNOT_CONNECT_NOW,
    SqlState::TOO_MANY_CONNECTIONS,
    SqlState::ADMIN_SHUTDOWN,
    SqlState::CRASH_SHUTDOWN,
    SqlState::IDLE_SESSION_TIMEOUT,
    SqlState::QUERY_CANCELED,
];

/// Whether no server answered, or one with an error that passes.
fn is_transient_error(error: &tokio_postgres::Error) -> bool {
    match error.code() {
        Some(code) => TRANSIENT_SQLSTATES.contains(code),
        None => error.is_closed() || error.source().is_some_and(is_network_error),
    }
}

/// A certificate that is not trusted is reported as an I/O error, too, but does not pass.
fn is_network_error(cause: &(dyn Error + 'static)) -> bool {
    let Some(io) = cause.downcast_ref::<io::Error>() else { return false };
    let inner = io.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    inner.is_none()
}

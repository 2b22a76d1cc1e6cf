//! Waiting for a server that is not there yet, which is no error when everything starts at
//! once; and telling that from a refusal, which waiting does not mend.

use std::{error::Error, io, iter, time::Duration};

use tokio::time::{sleep, timeout};
use tokio_postgres::error::SqlState;
use tracing::warn;

use crate::backoff::Policy;
use crate::{error::Chain, server::Server};

/// Between attempts.
const PAUSES: Policy = Policy::new(Duration::from_millis(100), Duration::from_secs(5));

/// A connection that is not made by then goes to a server that does not speak.
const DEADLINE: Duration = Duration::from_secs(10);

/// Waits until the server accepts a connection; an error is a refusal: a wrong password, a
/// missing database, a wrong certificate.
pub async fn wait(server: &Server) -> Result<(), tokio_postgres::Error> {
    let mut backoff = PAUSES.start();
    loop {
        let pause = backoff.pause();
        match timeout(DEADLINE, server.connect()).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(e)) if !may_come(&e) => return Err(e),
            Ok(Err(e)) => {
                warn!(
                    "waiting for PostgreSQL at {server}; trying again in {pause:.1?}: {}",
                    Chain(&e)
                );
            }
            Err(_) => warn!("PostgreSQL at {server} accepted a connection, and then sent nothing"),
        }
        sleep(pause).await;
    }
}

/// Whether an error comes of a server that went away or was busy, so that the same may succeed
/// once it is back.
#[must_use]
pub fn is_passing(error: &(dyn Error + 'static)) -> bool {
    let mut causes = iter::successors(Some(error), |error| (*error).source());
    causes.find_map(|cause| cause.downcast_ref()).is_some_and(may_come)
}

/// What a server says that stops, starts, or has no room just now.
const PATIENCE: [SqlState; 6] = [
    SqlState::CANNOT_CONNECT_NOW,
    SqlState::TOO_MANY_CONNECTIONS,
    SqlState::ADMIN_SHUTDOWN,
    SqlState::CRASH_SHUTDOWN,
    SqlState::IDLE_SESSION_TIMEOUT,
    SqlState::QUERY_CANCELED,
];

/// Nobody answers, or somebody who asks for patience.
fn may_come(error: &tokio_postgres::Error) -> bool {
    match error.code() {
        Some(code) => PATIENCE.contains(code),
        None => error.is_closed() || error.source().is_some_and(is_of_the_network),
    }
}

/// A certificate that is not believed comes as an input error too, and stays wrong.
fn is_of_the_network(cause: &(dyn Error + 'static)) -> bool {
    let Some(io) = cause.downcast_ref::<io::Error>() else { return false };
    let inner = io.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    inner.is_none()
}

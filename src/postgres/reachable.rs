//! Waiting for a server that is not there yet, which is no error when everything starts at
//! once; and telling that from a refusal, which waiting does not mend.

use std::{error::Error, io, time::Duration};

use tokio::time::sleep;
use tokio_postgres::error::SqlState;
use tracing::warn;

use super::{error::Chain, server::Server};

/// Pauses between attempts.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Waits until the server accepts a connection; an error is a refusal: a wrong password, a
/// missing database, a wrong certificate.
pub async fn wait(server: &Server) -> Result<(), tokio_postgres::Error> {
    let (mut pause, longest) = BACKOFF;
    loop {
        match server.connect().await {
            Ok(_) => return Ok(()),
            Err(e) if !may_come(&e) => return Err(e),
            Err(e) => warn!("waiting for PostgreSQL, will try again in {pause:?}: {}", Chain(&e)),
        }
        sleep(pause).await;
        pause = (pause * 2).min(longest);
    }
}

/// Nobody answers, or somebody who asks for patience.
fn may_come(error: &tokio_postgres::Error) -> bool {
    match error.code() {
        Some(code) => [SqlState::CANNOT_CONNECT_NOW, SqlState::TOO_MANY_CONNECTIONS].contains(code),
        None => error.is_closed() || error.source().is_some_and(is_of_the_network),
    }
}

/// A certificate that is not believed comes as an input error too, and stays wrong.
fn is_of_the_network(cause: &(dyn Error + 'static)) -> bool {
    let Some(io) = cause.downcast_ref::<io::Error>() else { return false };
    let inner = io.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    inner.is_none()
}

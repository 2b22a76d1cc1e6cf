//! Follows the log: reads new rows, asks the [reader](crate::reader) which of them may be delivered, and
//! hands these to a [`Destination`].
//!
//! It uses one connection at a time. When that connection is lost, the tail connects again, listens before it
//! reads, and continues from its head, so that no event is lost in between.

mod destination;
pub mod health;
mod lost;
mod precise_timer;
mod ringer;
pub mod safety;
mod session;
pub mod settled;

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub use self::destination::Destination;
use self::{
    health::Health,
    lost::ConnectionLost,
    session::{Session, SessionContext},
};
use crate::{
    backoff::Policy,
    metrics::Metrics,
    order::Hold,
    reader::Reader,
    store::{error::ErrorChain, event_log::EventRow, server::Server},
};

/// Follows one log.
#[derive(Debug)]
pub struct Tail {
    context: SessionContext,
    hold: Hold,
    shutdown: CancellationToken,
}

/// The pauses between attempts to connect. The first is short, because a restart of PostgreSQL takes only a
/// moment. The longest is short enough for the gateway to be ready within 10 seconds after PostgreSQL.
const RECONNECT_BACKOFF: Policy = Policy::new(Duration::from_millis(50), Duration::from_secs(1));

/// After a connection that lasted longer than this, the pauses start from the shortest again.
const STABLE_CONNECTION: Duration = Duration::from_secs(10);

impl Tail {
    /// A tail of the log on `server`. It reports to `health` whether events move.
    #[must_use]
    pub fn new(
        server: &Server,
        hold: Hold,
        health: &Arc<Health>,
        metrics: &Arc<Metrics>,
        shutdown: &CancellationToken,
    ) -> Self {
        let (health, metrics) = (Arc::clone(health), Arc::clone(metrics));
        let context = SessionContext { server: server.clone(), health, metrics };
        Self { context, hold, shutdown: shutdown.clone() }
    }

    /// Follows the log until the shutdown.
    pub async fn run(self, destination: Box<dyn Destination>) {
        let shutdown = self.shutdown.clone();
        let followed = shutdown.run_until_cancelled(Box::pin(self.follow(destination))).await;
        debug_assert!(followed.is_none(), "following ends only at a shutdown");
    }

    async fn follow(self, mut destination: Box<dyn Destination>) -> Infallible {
        let mut reader = Reader::new(self.hold, Instant::now());
        let mut backoff = RECONNECT_BACKOFF.start();
        let SessionContext { health, metrics, .. } = &self.context;
        loop {
            let since = Instant::now();
            let lost = self.session(&mut reader, &mut *destination).await;
            let what = if lost.is_refusal() { "refuses a query" } else { "is not available" };
            health.waiting(format!("PostgreSQL {what}: {}", ErrorChain(&lost)));
            if since.elapsed() > STABLE_CONNECTION {
                backoff.succeeded();
            }
            let pause = backoff.pause();
            metrics.reconnects.inc();
            warn!(
                error = %ErrorChain(&lost),
                pause_ms = pause.as_millis(),
                "lost the listening connection; connecting again after a pause"
            );
            sleep(pause).await;
        }
    }

    /// Opens a connection and follows the log on it until it is lost. The reader outlives the connection.
    async fn session(
        &self,
        reader: &mut Reader<EventRow>,
        destination: &mut dyn Destination,
    ) -> ConnectionLost {
        match Box::pin(Session::open(&self.context, reader, destination)).await {
            Ok(mut session) => {
                info!("listening");
                let Err(lost) = session.follow().await;
                lost
            }
            Err(lost) => lost,
        }
    }
}

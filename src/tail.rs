//! Follows the log: reads what is new, asks the [reader](crate::reader) what may go, and hands it to a
//! [`Destination`].
//!
//! One connection at a time does all of it. When that is lost the tail connects again,
//! listens first, and goes on from the head where it was: nothing is lost in between.

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
    session::{Session, Surroundings},
};
use crate::{
    backoff::Policy,
    metrics::Metrics,
    order::Hold,
    reader::Reader,
    store::{error::Chain, event_log::EventRow, server::Server},
};

/// Follows one log.
#[derive(Debug)]
pub struct Tail {
    surroundings: Surroundings,
    hold: Hold,
    shutdown: CancellationToken,
}

/// Between attempts to connect: short at first, since a restart takes a moment, and never so long
/// that readiness comes later than 10 seconds after PostgreSQL.
const RECONNECT_PAUSES: Policy = Policy::new(Duration::from_millis(50), Duration::from_secs(1));

/// A connection that lived for so long was a good one: the pauses begin again.
const GOOD_CONNECTION: Duration = Duration::from_secs(10);

impl Tail {
    /// Follows the log on `server`, and tells `health` whether it moves.
    #[must_use]
    pub fn new(
        server: &Server,
        hold: Hold,
        health: &Arc<Health>,
        metrics: &Arc<Metrics>,
        shutdown: &CancellationToken,
    ) -> Self {
        let (health, metrics) = (Arc::clone(health), Arc::clone(metrics));
        let surroundings = Surroundings { server: server.clone(), health, metrics };
        Self { surroundings, hold, shutdown: shutdown.clone() }
    }

    /// Follows the log until `shutdown`.
    pub async fn run(self, destination: Box<dyn Destination>) {
        let shutdown = self.shutdown.clone();
        let followed = shutdown.run_until_cancelled(Box::pin(self.follow(destination))).await;
        debug_assert!(followed.is_none(), "following ends only at a shutdown");
    }

    async fn follow(self, mut destination: Box<dyn Destination>) -> Infallible {
        let mut reader = Reader::new(self.hold, Instant::now());
        let mut backoff = RECONNECT_PAUSES.start();
        let Surroundings { health, metrics, .. } = &self.surroundings;
        loop {
            let since = Instant::now();
            let lost = self.session(&mut reader, &mut *destination).await;
            let what = if lost.is_refusal() { "refuses a query" } else { "is away" };
            health.waiting(format!("PostgreSQL {what}: {}", Chain(&lost)));
            if since.elapsed() > GOOD_CONNECTION {
                backoff.succeeded();
            }
            let pause = backoff.pause();
            metrics.reconnects.inc();
            warn!(error = %Chain(&lost), pause_ms = pause.as_millis(), "lost the listening connection");
            sleep(pause).await;
        }
    }

    /// One connection, from its opening to its loss. The reader outlives it.
    async fn session(
        &self,
        reader: &mut Reader<EventRow>,
        destination: &mut dyn Destination,
    ) -> ConnectionLost {
        match Box::pin(Session::open(&self.surroundings, reader, destination)).await {
            Ok(mut session) => {
                info!("listening");
                let Err(lost) = session.follow().await;
                lost
            }
            Err(lost) => lost,
        }
    }
}

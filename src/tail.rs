//! Follows the log: reads what is new, asks the [reader](crate::reader) what may go, and
//! publishes it.
//!
//! One connection at a time does all of it. When that is lost the tailer connects anew,
//! listens first, and goes on from the head where it was: nothing is lost in between.

mod alarm;
mod recall;
mod ringer;
mod session;

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::{error::Elapsed, sleep, timeout};
use tokio_postgres::error::{DbError, Severity};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

use self::session::Session;
use super::{Settings, health::Health, hub::Hub};
use crate::{
    backoff::Policy,
    event::EventId,
    metrics::Metrics,
    order::Position,
    reader::Reader,
    store::{error::Chain, event_log::EventRow, history::History, server::Server},
};

/// See the module.
#[derive(Debug)]
pub struct Tailer {
    pub(super) server: Server,
    pub(super) hub: Arc<Hub>,
    pub(super) health: Arc<Health>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) settings: Settings,
    pub(super) history: Arc<History>,
    pub(super) tasks: TaskTracker,
    pub(super) shutdown: CancellationToken,
}

/// Why the listening connection had to be given up.
#[derive(Debug, thiserror::Error)]
pub enum Lost {
    /// It could not be opened, or a query failed.
    #[error("{doing}")]
    Query {
        /// What was being done.
        doing: &'static str,
        /// Why it failed.
        source: tokio_postgres::Error,
    },
    /// PostgreSQL did not answer in time: perhaps nobody is there any more.
    #[error("{doing}: no answer within {} s", DEADLINE.as_secs())]
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

impl Lost {
    /// PostgreSQL answered that it does not do what it was asked, and goes on otherwise.
    fn is_refusal(&self) -> bool {
        let Self::Query { source, .. } = self else { return false };
        let severity = source.as_db_error().and_then(DbError::parsed_severity);
        severity == Some(Severity::Error)
    }
}

/// No query of the tailer takes this long on a connection that lives: they are short, and
/// read pages of bounded size. With the second between safety polls, a connection that has
/// died without a word is found within 10 seconds.
const DEADLINE: Duration = Duration::from_secs(8);

/// Between attempts to connect: short at first, since a restart takes a moment, and never so long
/// that readiness comes later than 10 seconds after PostgreSQL.
const PAUSES: Policy = Policy::new(Duration::from_millis(50), Duration::from_secs(1));

impl Tailer {
    /// Follows the log until `shutdown`.
    pub async fn run(self) {
        let shutdown = self.shutdown.clone();
        let followed = shutdown.run_until_cancelled(Box::pin(self.follow())).await;
        debug_assert!(followed.is_none(), "following ends only at a shutdown");
    }

    async fn follow(self) -> Infallible {
        let mut reader = Reader::new(self.settings.hold, Instant::now());
        let mut backoff = PAUSES.start();
        loop {
            let since = Instant::now();
            let lost = self.session(&mut reader).await;
            let what = if lost.is_refusal() { "refuses a query" } else { "is away" };
            self.health.waiting(format!("PostgreSQL {what}: {}", Chain(&lost)));
            if since.elapsed() > Duration::from_secs(10) {
                backoff.succeeded();
            }
            let pause = backoff.pause();
            self.metrics.reconnects.inc();
            warn!(error = %Chain(&lost), pause_ms = pause.as_millis(), "lost the listening connection");
            sleep(pause).await;
        }
    }

    /// The reader starts here, for the first time or in a log that was replaced.
    fn started(&self, position: &Position, as_of: String, origin: EventId) {
        info!(head = %position.head, "reading the log from its end");
        let epoch = self.hub.restart_behind(origin, position, as_of);
        if !self.settings.streams {
            return;
        }
        let (history, hub) = (Arc::clone(&self.history), Arc::clone(&self.hub));
        let recall = recall::recall(history, hub, position.head, epoch);
        let shutdown = self.shutdown.clone();
        self.tasks.spawn(async move { shutdown.run_until_cancelled(recall).await });
    }

    /// One connection, from its opening to its loss. The reader outlives it.
    async fn session(&self, reader: &mut Reader<EventRow>) -> Lost {
        match Box::pin(Session::open(self, reader)).await {
            Ok(mut session) => {
                info!("listening");
                let Err(lost) = session.follow().await;
                lost
            }
            Err(lost) => lost,
        }
    }
}

/// Gives what is being done its deadline, and an error its story.
async fn within<T>(
    doing: &'static str,
    query: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, Lost> {
    match timeout(DEADLINE, query).await {
        Ok(answer) => answer.map_err(|source| Lost::Query { doing, source }),
        Err(source) => Err(Lost::Silent { doing, source }),
    }
}

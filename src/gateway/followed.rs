//! A log that is followed, so that it is known how far it is settled, and it can be read in strict order.

use std::{sync::Arc, time::Instant};

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    crash::vital,
    metrics::{Metrics, State},
    order::Hold,
    read::Read,
    store::{history::History, server::Server},
    tail::{
        Destination, Tail,
        health::Health,
        safety::{self, Checks},
        settled::SettledOnly,
    },
};

/// The settings of reading.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long a hole may hold back the events after it.
    pub hold: Hold,
    /// The number of connections for replays, lookups and checks, in addition to the listening one.
    pub pool: usize,
    /// How many queries of one caller may run at once on these connections; `None`: half their number.
    pub queries_each: Option<usize>,
    /// What to do if the database lacks something that delivery relies on.
    pub checks: Checks,
}

/// A log that is followed. Its tasks end with [`stop`](Self::stop).
#[derive(Debug)]
pub struct FollowedLog {
    read: Arc<Read>,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

impl FollowedLog {
    /// Starts to follow the log on `server`, for strict readers only: the tail reads no payloads, and no
    /// events are kept in memory. The server need not be available yet: the tail waits for it.
    #[must_use]
    pub fn start(server: &Server, settings: &Settings, metrics: &Arc<Metrics>) -> Arc<Self> {
        let log = Self::new(server, settings, metrics);
        let horizons = Arc::clone(log.read.horizons());
        log.follow(server, settings, Box::new(SettledOnly::new(horizons)));
        Arc::new(log)
    }

    /// Creates the log without following it. The first query connects.
    pub(super) fn new(server: &Server, settings: &Settings, metrics: &Arc<Metrics>) -> Self {
        let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
        let history = History::limited(
            server.named("event-piper").pool(settings.pool),
            settings.queries_each.unwrap_or(settings.pool.div_ceil(2)),
            metrics.queries_waiting.clone(),
        );
        let history = Arc::new(history.cancelling(server, &tasks, &shutdown));
        let (read, health) =
            (Arc::new(Read::new(history)), Arc::new(Health::starting(Instant::now())));
        Self { read, health, metrics: Arc::clone(metrics), tasks, shutdown }
    }

    /// Starts to follow the log for this destination.
    pub(super) fn follow(
        &self,
        server: &Server,
        settings: &Settings,
        destination: Box<dyn Destination>,
    ) {
        let tail = Tail::new(server, settings.hold, &self.health, &self.metrics, &self.shutdown);
        self.tasks.spawn(vital("nothing reads the log any more", tail.run(destination)));
        let (history, health) = (Arc::clone(self.read.history()), Arc::clone(&self.health));
        let watch = safety::watch(history, health, settings.checks);
        let watch = vital("nothing checks what delivery relies on any more", watch);
        let until = self.shutdown.clone();
        self.tasks.spawn(async move { until.run_until_cancelled(watch).await });
    }

    /// The tracker of the tasks that end with this log, and the token that cancels them.
    pub(super) fn lifetime(&self) -> (&TaskTracker, &CancellationToken) {
        (&self.tasks, &self.shutdown)
    }

    /// The engine that reads the table.
    #[must_use]
    pub fn read(&self) -> &Arc<Read> {
        &self.read
    }

    /// Checks that events move.
    ///
    /// # Errors
    /// The reason why they do not, in words for an operator.
    pub fn ready(&self) -> Result<(), String> {
        self.health.check(Instant::now())?;
        self.read.ready(Instant::now())
    }

    /// The metrics. Gauges that are not maintained continuously are updated first.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        let (open, idle) = self.read.history().connections();
        let pool = |state, count: usize| {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            self.metrics.pool.get_or_create(&State { state }).set(count);
        };
        pool("idle", idle);
        pool("busy", open.saturating_sub(idle));
        &self.metrics
    }

    /// Stops following the log, ends all strict readers, and waits until all tasks have ended.
    pub async fn stop(&self) {
        self.read.horizons().close();
        self.shutdown.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

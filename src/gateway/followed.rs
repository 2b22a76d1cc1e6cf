//! A log that is followed: how far it is settled is known, so that it can be read in strict order.

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

/// What an operator can turn on reading.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long a hole may hold back the events behind it.
    pub hold: Hold,
    /// Connections used for replays, lookups and checks, beside the listening one.
    pub pool: usize,
    /// Queries of one caller's that run at once on them; none: half of them.
    pub queries_each: Option<usize>,
    /// What is done where the database lacks what delivery rests on.
    pub checks: Checks,
}

/// See the module. Its tasks end with [`stop`](Self::stop).
#[derive(Debug)]
pub struct FollowedLog {
    read: Arc<Read>,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

impl FollowedLog {
    /// Starts to follow the log on `server`, for strict readers only: no payload is read of the tail, and
    /// nothing is kept in memory. Nothing is needed of `server` yet: it is waited for.
    #[must_use]
    pub fn start(server: &Server, settings: &Settings, metrics: &Arc<Metrics>) -> Arc<Self> {
        let log = Self::new(server, settings, metrics);
        let horizons = Arc::clone(log.read.horizons());
        log.follow(server, settings, Box::new(SettledOnly::new(horizons)));
        Arc::new(log)
    }

    /// Connects when it is first asked, and does not follow yet.
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

    /// Follows the log for this destination.
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
        let watch = vital("nothing checks what delivery rests on any more", watch);
        let until = self.shutdown.clone();
        self.tasks.spawn(async move { until.run_until_cancelled(watch).await });
    }

    /// Where tasks belong that end with this, and what ends them.
    pub(super) fn lifetime(&self) -> (&TaskTracker, &CancellationToken) {
        (&self.tasks, &self.shutdown)
    }

    /// Reads the table.
    #[must_use]
    pub fn read(&self) -> &Arc<Read> {
        &self.read
    }

    /// Nothing, or why events do not move.
    ///
    /// # Errors
    /// The reason, in words for an operator.
    pub fn ready(&self) -> Result<(), String> {
        self.health.check(Instant::now())?;
        self.read.ready(Instant::now())
    }

    /// The metrics, with those brought up to date that are not counted as they change.
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

    /// Stops following the log, and waits until that has ended. Strict readers stop.
    pub async fn stop(&self) {
        self.read.horizons().close();
        self.shutdown.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

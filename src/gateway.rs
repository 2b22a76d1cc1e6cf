//! A gateway: the three engines that serve clients, on one log.
//!
//! [`live`](crate::live) delivers new events, [`read`](crate::read) reads the table, and
//! [`write`](crate::write) writes to it. The [tail](crate::tail) feeds the first two. A process that only
//! pumps starts only a [`FollowedLog`].

pub mod followed;

use std::sync::Arc;

use self::followed::FollowedLog;
use crate::{
    live::Live,
    metrics::Metrics,
    read::Read,
    store::server::Server,
    write::{self, Writer},
};

/// The settings of the engines.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The settings of reading.
    pub log: followed::Settings,
    /// The bytes of recent events to keep in memory.
    pub recent: usize,
    /// The settings of writing; `None` if events cannot be written through this gateway.
    pub writer: Option<write::Settings>,
}

/// The running engines. All requests share them. Their tasks end with [`stop`](Self::stop).
#[derive(Debug)]
pub struct Gateway {
    log: FollowedLog,
    live: Live,
    writer: Option<Writer>,
}

impl Gateway {
    /// Starts to follow the log on `server`. The server need not be available yet: the gateway waits for it.
    #[must_use]
    pub fn start(server: &Server, settings: &Settings, metrics: &Arc<Metrics>) -> Arc<Self> {
        let log = FollowedLog::new(server, &settings.log, metrics);
        let live = Live::new(settings.recent, Arc::clone(log.read()), Arc::clone(metrics));
        let (tasks, shutdown) = log.lifetime();
        let start_writer = |it| Writer::start(server, it, metrics, tasks, shutdown);
        let writer = settings.writer.map(start_writer);
        log.follow(server, &settings.log, live.destination(tasks.clone(), shutdown.clone()));
        Arc::new(Self { log, live, writer })
    }

    /// The engine that delivers new events.
    #[must_use]
    pub fn live(&self) -> &Live {
        &self.live
    }

    /// The engine that reads the table.
    #[must_use]
    pub fn read(&self) -> &Arc<Read> {
        self.log.read()
    }

    /// The engine that writes events; `None` if writing is switched off.
    #[must_use]
    pub fn writer(&self) -> Option<&Writer> {
        self.writer.as_ref()
    }

    /// Checks that events move.
    ///
    /// # Errors
    /// The reason why they do not, in words for an operator.
    pub fn ready(&self) -> Result<(), String> {
        self.log.ready()
    }

    /// The metrics. Gauges that are not maintained continuously are updated first.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        let metrics = self.log.metrics();
        metrics.recent_bytes.set(i64::try_from(self.live.recent_bytes()).unwrap_or(i64::MAX));
        metrics
    }

    /// Ends every subscription with the signal `$closing`. A subscription that is opened later gets that
    /// signal only.
    pub fn close(&self) {
        self.live.close();
    }

    /// Ends every subscription, stops following the log, and waits until all tasks have ended.
    pub async fn stop(&self) {
        self.close();
        self.log.stop().await;
    }
}

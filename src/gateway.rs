//! A gateway: the three engines that serve clients, on one log.
//!
//! [`live`](crate::live) delivers what is new, [`read`](crate::read) reads the table, [`write`](crate::write)
//! writes to it; the [tail](crate::tail) feeds the first two. A process that only pumps starts no more than
//! a [`FollowedLog`].

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

/// What an operator can turn on the engines.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Of reading.
    pub log: followed::Settings,
    /// Bytes of recent events kept in memory.
    pub recent: usize,
    /// What is written through this gateway; none: it only reads.
    pub writer: Option<write::Settings>,
}

/// Running engines. They are shared by all who are served; their tasks end with [`stop`](Self::stop).
#[derive(Debug)]
pub struct Gateway {
    log: FollowedLog,
    live: Live,
    writer: Option<Writer>,
}

impl Gateway {
    /// Starts to follow the log on `server`. Nothing is needed of it yet: it is waited for.
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

    /// Delivers what is new.
    #[must_use]
    pub fn live(&self) -> &Live {
        &self.live
    }

    /// Reads the table.
    #[must_use]
    pub fn read(&self) -> &Arc<Read> {
        self.log.read()
    }

    /// What writes events; none where writing is switched off.
    #[must_use]
    pub fn writer(&self) -> Option<&Writer> {
        self.writer.as_ref()
    }

    /// Nothing, or why events do not move.
    ///
    /// # Errors
    /// The reason, in words for an operator.
    pub fn ready(&self) -> Result<(), String> {
        self.log.ready()
    }

    /// The metrics, with those brought up to date that are not counted as they change.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        let metrics = self.log.metrics();
        metrics.recent_bytes.set(i64::try_from(self.live.recent_bytes()).unwrap_or(i64::MAX));
        metrics
    }

    /// Ends every subscription with a good-bye. Those that come now get nothing else.
    pub fn close(&self) {
        self.live.close();
    }

    /// Stops following the log, and waits until that has ended.
    pub async fn stop(&self) {
        self.close();
        self.log.stop().await;
    }
}

//! The engine: reads the log, keeps what is recent, feeds every subscription.
//!
//! Data goes one way: the [`tailer`] reads rows and asks [`order`](crate::order) what may
//! go; their [`frame`]s go to [`recent`] by way of the [`hub`], which wakes those who follow;
//! each [`subscription`] takes them from there, at its client's pace, and from the table
//! when it is behind. Events that are written through this gateway go the other way: by the
//! [`writer`] to the table, and come back as everybody's do.

pub mod amended;
pub mod follower;
pub mod frame;
pub mod health;
pub mod hub;
pub mod output;
pub mod recent;
pub mod safety;
pub mod signal;
pub mod strict;
pub mod subscription;
pub mod tailer;
pub mod versions;
pub mod waiter;
pub mod writer;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    amended::{Correction, Patcher},
    health::Health,
    hub::{Hub, Seat},
    safety::Checks,
    strict::Strict,
    subscription::{Request, Subscription},
    tailer::Tailer,
    versions::Versions,
    writer::Writer,
};
use crate::{
    consumer::ConsumerId,
    crash::vital,
    cursor::Cursor,
    event::{EventId, name::StreamName},
    metrics::{Metrics, Reason, State},
    order::Hold,
    store::{
        history::{History, HistoryError, WholeEvent},
        server::Server,
    },
};

/// What an operator can turn on the engine.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long a hole may hold back the events behind it.
    pub hold: Hold,
    /// A quiet subscription hears a heartbeat this often.
    pub heartbeat: Duration,
    /// Whether subscriptions and streams are served. Without them the gateway reads no payloads and keeps no
    /// events in memory: strict readers of the whole log read the table themselves.
    pub streams: bool,
    /// Bytes of recent events kept in memory.
    pub recent: usize,
    /// Connections used for replays, lookups and checks, beside the listening one.
    pub pool: usize,
    /// Queries of one caller's that run at once on them; none: half of them.
    pub queries_each: Option<usize>,
    /// Clients that are sent away at a shutdown come back spread over this time.
    pub drain: Duration,
    /// What is written through this gateway; none: it only reads.
    pub writer: Option<writer::Settings>,
    /// What is done where the database lacks what delivery rests on.
    pub checks: Checks,
}

/// A running engine. It is shared by all who subscribe; its task ends with
/// [`stop`](Self::stop).
#[derive(Debug)]
pub struct Gateway {
    hub: Arc<Hub>,
    history: Arc<History>,
    patcher: Arc<Patcher>,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    settings: Settings,
    writer: Option<Writer>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

impl Gateway {
    /// Starts to follow the log on `server`. Nothing is needed of it yet: it is waited for.
    #[must_use]
    pub fn start(server: &Server, settings: Settings, metrics: Arc<Metrics>) -> Arc<Self> {
        let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
        let write = |writer| Writer::start(server, writer, &metrics, &tasks, &shutdown);
        let history = History::limited(
            server.named("event-piper").pool(settings.pool),
            settings.queries_each.unwrap_or(settings.pool.div_ceil(2)),
            metrics.queries_waiting.clone(),
        );
        let history = Arc::new(history.cancelling(server, &tasks, &shutdown));
        let gateway = Arc::new(Self {
            writer: settings.writer.map(write),
            hub: Arc::new(Hub::new(settings.recent)),
            patcher: Arc::new(Patcher::new()),
            history,
            health: Arc::new(Health::starting(Instant::now())),
            metrics: Arc::clone(&metrics),
            settings: settings.clone(),
            tasks: tasks.clone(),
            shutdown: shutdown.clone(),
        });
        let tailer = Tailer {
            server: server.clone(),
            hub: Arc::clone(&gateway.hub),
            health: Arc::clone(&gateway.health),
            metrics,
            settings,
            history: Arc::clone(&gateway.history),
            tasks: tasks.clone(),
            shutdown,
        };
        tasks.spawn(vital("nothing reads the log any more", tailer.run()));
        let (history, health) = (Arc::clone(&gateway.history), Arc::clone(&gateway.health));
        let watch = safety::watch(history, health, gateway.settings.checks);
        let until = gateway.shutdown.clone();
        let watch = vital("nothing checks what delivery rests on any more", watch);
        tasks.spawn(async move { until.run_until_cancelled(watch).await });
        gateway
    }

    /// Opens a subscription. It takes effect now: what becomes visible after this call is
    /// delivered, whenever the stream is first read.
    #[must_use]
    pub fn subscribe(self: &Arc<Self>, request: Request) -> Subscription {
        debug_assert!(self.settings.streams, "it reads nothing for subscriptions");
        Subscription::new(Arc::clone(self), request)
    }

    /// What writes events; none where writing is switched off.
    #[must_use]
    pub fn writer(&self) -> Option<&Writer> {
        self.writer.as_ref()
    }

    /// Reads the whole log in strict order, from behind `after` on: see [`strict`].
    #[must_use]
    pub fn strict(&self, after: EventId) -> Strict {
        self.strict_owed(Cursor::behind(after))
    }

    /// The same of what this cursor has not got.
    #[must_use]
    pub fn strict_owed(&self, cursor: Cursor) -> Strict {
        Strict::new(Arc::clone(&self.history), self.hub.horizon(), Some(cursor))
    }

    /// The same from the end of the log on.
    #[must_use]
    pub fn strict_from_now(&self) -> Strict {
        Strict::new(Arc::clone(&self.history), self.hub.horizon(), None)
    }

    /// The end of the log, as soon as that is known: what becomes visible later is behind it. `None` when the
    /// gateway ends.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn now(&self) -> Option<Cursor> {
        let mut horizon = self.hub.horizon();
        let known = horizon.wait_for(|horizon| horizon.closing || horizon.epoch > 0).await.ok()?;
        (!known.closing).then(|| known.now())
    }

    /// Follows a stream behind version `after`: its history, then what comes.
    #[must_use]
    pub fn versions(&self, stream: StreamName, after: i64) -> Versions {
        debug_assert!(self.settings.streams, "it reads nothing for streams");
        let seat = self.hub.sit_at(stream.clone());
        Versions::new(Arc::clone(&self.history), self.hub.horizon(), seat, stream, after)
    }

    /// What is in the table, read in the name of this caller: callers take turns.
    #[must_use]
    pub fn history(&self, caller: &Arc<str>) -> History {
        self.history.of(caller)
    }

    /// A seat for one who reads by other means than a subscription, so that it is counted.
    #[must_use]
    pub fn occupy(&self) -> Seat {
        self.hub.sit([].into())
    }

    /// How often a quiet stream says that it lives.
    #[must_use]
    pub fn heartbeat(&self) -> Duration {
        self.settings.heartbeat
    }

    /// How long clients that are sent away may take to come back.
    #[must_use]
    pub fn drain(&self) -> Duration {
        self.settings.drain
    }

    /// Whether one more subscription to these consumers keeps within the limits: on streams in
    /// all, and on those that follow one consumer. Counts it, if not.
    #[must_use]
    pub fn has_room(&self, consumers: &[ConsumerId], streams: usize, of_one: usize) -> bool {
        let full = if self.hub.seats() >= streams {
            "streams"
        } else if consumers.iter().any(|consumer| self.hub.followers(consumer) >= of_one) {
            "streams-of-a-consumer"
        } else {
            return true;
        };
        self.metrics.refused.get_or_create(&Reason { reason: full }).inc();
        false
    }

    /// One event, whole.
    pub async fn event(&self, id: EventId) -> Result<Option<WholeEvent>, HistoryError> {
        self.history.event(id).await
    }

    /// How one event is corrected by later ones, where it is. All is read in the name of this caller.
    pub async fn correction(
        &self,
        caller: &Arc<str>,
        event: &WholeEvent,
    ) -> Result<Option<Correction>, HistoryError> {
        if event.amends.is_some() {
            return Ok(None);
        }
        let events = std::iter::once((event.id, event.payload.as_bytes()));
        let corrected = self.patcher.corrections(&self.history(caller), events).await?;
        let mut corrections = corrected.corrections;
        Ok(corrections.remove(&event.id))
    }

    /// Whether these patches can correct an event, one after another, behind what corrects it by now, so
    /// that no more than `max_bytes` come out; if not, which one cannot, and why.
    pub async fn try_patches(
        &self,
        caller: &Arc<str>,
        event: &WholeEvent,
        patches: Vec<String>,
        max_bytes: usize,
    ) -> Result<Result<(), (usize, String)>, HistoryError> {
        let history = self.history(caller);
        self.patcher.try_patches(&history, (event.id, &event.payload), patches, max_bytes).await
    }

    /// Nothing, or why events do not move.
    pub fn ready(&self) -> Result<(), String> {
        self.health.check(Instant::now())?;
        self.history.check(Instant::now())
    }

    /// The metrics, with those brought up to date that are not counted as they change.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        let (open, idle) = self.history.connections();
        let whole = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let pool = |state, count: usize| {
            self.metrics.pool.get_or_create(&State { state }).set(whole(count));
        };
        self.metrics.recent_bytes.set(whole(self.hub.state().recent.bytes()));
        pool("idle", idle);
        pool("busy", open.saturating_sub(idle));
        &self.metrics
    }

    /// Ends every subscription with a good-bye. Those that come now get nothing else.
    pub fn close(&self) {
        self.hub.close();
    }

    /// Stops following the log, and waits until that has ended.
    pub async fn stop(&self) {
        self.close();
        self.shutdown.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

//! Writes events: requests that come together share a transaction, and yet each succeeds or
//! fails alone.
//!
//! A request that finds a connection idle goes at once. While all are busy requests gather,
//! and the next connection that is free takes as many as have come: so the wait for the disk
//! is shared by the more, the more there are. The `queue` decides which go together in a `batch`; a
//! `connection` writes one batch at a time.
//!
//! What waits is bounded in number and in bytes. Who comes beyond that is told so at once, and
//! nothing of it is written.

mod batch;
mod connection;
mod dispatcher;
mod queue;
mod refusal;
mod request;

use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use self::refusal::{Answer, Refusal};
use self::{dispatcher::Dispatcher, request::PendingWrite};
use crate::{
    access::{
        budget::{Budget, Exhausted, Share},
        principal::Principal,
    },
    crash::vital,
    event::draft::Draft,
    metrics::{Metrics, Reason, writing::Outcome},
    store::server::Server,
};

/// What an operator can turn on writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Connections that write.
    pub connections: usize,
    /// Requests that may wait.
    pub queue: usize,
    /// Bytes of requests that may wait, or be on their way in.
    pub bytes: usize,
    /// The same of one principal's.
    pub bytes_each: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { connections: 4, queue: 4096, bytes: 64 << 20, bytes_each: 32 << 20 }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Writer {
    inbox: mpsc::UnboundedSender<PendingWrite>,
    slots: Arc<Semaphore>,
    bytes: Arc<Budget>,
    metrics: Arc<Metrics>,
}

/// Room for the bytes of a request, from their arrival until it is answered.
#[derive(Debug)]
pub struct BytesPermit {
    share: Share,
    metrics: Arc<Metrics>,
}

impl BytesPermit {
    /// Takes room for so many bytes that have arrived.
    pub fn take(&mut self, bytes: usize) -> Result<(), Exhausted> {
        self.share.grow(bytes).inspect_err(|exhausted| {
            let reason = match exhausted {
                Exhausted::InAll => "write-buffer",
                Exhausted::ByPrincipal => "write-buffer-of-a-principal",
            };
            self.metrics.refused.get_or_create(&Reason { reason }).inc();
            let full = Outcome { outcome: Refusal::Full.name() };
            self.metrics.writing.requests.get_or_create(&full).inc();
        })
    }

    /// Keeps room for so many bytes only.
    pub fn keep(&mut self, bytes: usize) {
        self.share.settle(bytes);
    }
}

impl Writer {
    pub(crate) fn start(
        server: &Server,
        settings: Settings,
        metrics: &Arc<Metrics>,
        tasks: &TaskTracker,
        shutdown: &CancellationToken,
    ) -> Self {
        // Bounded by the slots: a write holds one until it is answered.
        let (inbox, writes) = mpsc::unbounded_channel();
        let connections = connection::start(server, settings.connections, metrics, tasks);
        let dispatcher = Dispatcher::new(writes, connections, Arc::clone(metrics));
        let dispatching = dispatcher.run(shutdown.clone());
        tasks.spawn(vital("nothing takes what is to be written any more", dispatching));
        let gauge = metrics.writing.buffered.clone();
        Self {
            inbox,
            slots: Arc::new(Semaphore::new(settings.queue.min(Semaphore::MAX_PERMITS))),
            bytes: Budget::new(settings.bytes, settings.bytes_each, gauge),
            metrics: Arc::clone(metrics),
        }
    }

    /// Room for a request of this principal's: none yet, for nothing of it has arrived.
    #[must_use]
    pub fn bytes_permit(&self, who: &Principal) -> BytesPermit {
        BytesPermit { share: self.bytes.share(who), metrics: Arc::clone(&self.metrics) }
    }

    /// Writes all of these events in their order, or none. What was written before under the
    /// same `uid` is not written again, and has the place it had.
    ///
    /// When the future is dropped the events may be written or not.
    pub async fn append(&self, drafts: Vec<Draft>) -> Answer {
        let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() else {
            return Err(self.count(Refusal::Full));
        };
        let (answer, answered) = oneshot::channel();
        let write = PendingWrite::new(drafts, answer, slot);
        // The dispatcher leaves after all who could ask.
        self.inbox.send(write).map_err(|_| Refusal::Away)?;
        let answer = answered.await.unwrap_or(Err(Refusal::Unknown));
        if answer.is_ok() {
            self.metrics.writing.requests.get_or_create(&Outcome { outcome: "written" }).inc();
        }
        answer.map_err(|refusal| self.count(refusal))
    }

    fn count(&self, refusal: Refusal) -> Refusal {
        let outcome = Outcome { outcome: refusal.name() };
        self.metrics.writing.requests.get_or_create(&outcome).inc();
        refusal
    }
}

//! Writes events. Concurrent requests share a transaction, yet each request succeeds or fails alone.
//!
//! If a connection is idle, a request is written at once. While all are busy, requests queue up, and the next
//! free connection takes as many as are waiting. So the higher the load, the more requests share one wait for
//! the disk. The `queue` decides which requests go together in a `batch`; a `connection` writes one batch at
//! a time.
//!
//! Waiting requests are bounded in number and in bytes. A request beyond that is refused at once, and nothing
//! of it is written.

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

/// The settings of writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The number of connections that write.
    pub connections: usize,
    /// The number of requests that may wait.
    pub queue: usize,
    /// The bytes of requests that may wait or be arriving.
    pub bytes: usize,
    /// The bytes of one principal's requests that may wait or be arriving.
    pub bytes_each: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { connections: 4, queue: 4096, bytes: 64 << 20, bytes_each: 32 << 20 }
    }
}

/// The engine that writes events.
#[derive(Debug)]
pub struct Writer {
    inbox: mpsc::UnboundedSender<PendingWrite>,
    slots: Arc<Semaphore>,
    bytes: Arc<Budget>,
    metrics: Arc<Metrics>,
}

/// A permit for the bytes of a request in the write buffer, from their arrival until the request is answered.
#[derive(Debug)]
pub struct BytesPermit {
    share: Share,
    metrics: Arc<Metrics>,
}

impl BytesPermit {
    /// Extends the permit by this many bytes, which have arrived.
    ///
    /// # Errors
    /// Fails if the write buffer, or the principal's part of it, is full. That is counted in the metrics.
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

    /// Reduces the permit to this many bytes.
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
        // The channel is bounded by the slots: a write holds one until it is answered.
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

    /// A permit for a request of this principal. It is for 0 bytes at first, because nothing has arrived yet.
    #[must_use]
    pub fn bytes_permit(&self, who: &Principal) -> BytesPermit {
        BytesPermit { share: self.bytes.share(who), metrics: Arc::clone(&self.metrics) }
    }

    /// Writes all of these events in their order, or none of them. An event that was written before under the
    /// same `uid` is not written again, and is answered with the place that it has.
    ///
    /// # Errors
    /// Fails with the reason why nothing was written, or with [`Refusal::Unknown`] if that is not known.
    ///
    /// # Cancel safety
    /// If the future is dropped, the events may or may not be written.
    pub async fn append(&self, drafts: Vec<Draft>) -> Answer {
        let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() else {
            return Err(self.count(Refusal::Full));
        };
        let (answer, answered) = oneshot::channel();
        let write = PendingWrite::new(drafts, answer, slot);
        // The dispatcher ends only after everything that could send to it.
        self.inbox.send(write).map_err(|_| Refusal::Unavailable)?;
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

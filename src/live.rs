//! Live delivery: keeps the end of the log in memory and serves every subscription from it.
//!
//! Data flows one way. The [tail](crate::tail) hands over rows. The [`hub`] adds their
//! [frames](crate::item::frame) to [`recent`] and wakes the subscriptions that follow their consumers. Each
//! [`subscription`] reads from `recent` at its client's pace, and from the table when it has fallen behind.

mod broadcast;
mod erased;
pub mod follower;
pub mod hub;
pub mod recent;
pub mod subscription;
mod warm_up;

use std::sync::Arc;

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    broadcast::Broadcast,
    hub::{Hub, Registration},
    subscription::{Request, Shared, Subscription},
};
use crate::{
    consumer::ConsumerId,
    metrics::{Metrics, Reason},
    read::Read,
    tail::Destination,
};

/// The live engine: the recent events in memory, and every subscription to them.
#[derive(Debug)]
pub struct Live {
    hub: Arc<Hub>,
    read: Arc<Read>,
    metrics: Arc<Metrics>,
}

impl Live {
    /// Keeps up to `recent_bytes` bytes of recent events. Nothing is published until the tail reads for
    /// [`destination`](Self::destination).
    #[must_use]
    pub fn new(recent_bytes: usize, read: Arc<Read>, metrics: Arc<Metrics>) -> Self {
        let hub = Arc::new(Hub::new(recent_bytes, Arc::clone(read.horizons())));
        Self { hub, read, metrics }
    }

    /// The destination to give to the tail. Each time the tail starts to read a log, a task among `tasks`
    /// loads recent events into memory. `shutdown` cancels that task.
    #[must_use]
    pub fn destination(
        &self,
        tasks: TaskTracker,
        shutdown: CancellationToken,
    ) -> Box<dyn Destination> {
        let (hub, streams) = (Arc::clone(&self.hub), Arc::clone(self.read.streams()));
        let history = Arc::clone(self.read.history());
        Box::new(Broadcast::new(hub, streams, history, tasks, shutdown))
    }

    /// Opens a subscription. It takes effect immediately: an event that becomes visible after this call is
    /// delivered, no matter when the stream is first read.
    #[must_use]
    pub fn subscribe(&self, request: Request) -> Subscription {
        let (hub, metrics) = (Arc::clone(&self.hub), Arc::clone(&self.metrics));
        let (history, patcher) = (Arc::clone(self.read.history()), Arc::clone(self.read.patcher()));
        Subscription::new(Shared { hub, history, patcher, metrics }, request)
    }

    /// Counts a stream that is served without a subscription, until the registration is dropped.
    #[must_use]
    pub fn register_stream(&self) -> Registration {
        self.hub.register([].into())
    }

    /// Whether one more subscription to these consumers is within the limits: `streams` streams in all, and
    /// `of_one` streams that follow one consumer. A refusal is counted in the metrics.
    #[must_use]
    pub fn has_room(&self, consumers: &[ConsumerId], streams: usize, of_one: usize) -> bool {
        let full = if self.hub.open_streams() >= streams {
            "streams"
        } else if consumers.iter().any(|consumer| self.hub.followers(consumer) >= of_one) {
            "streams-of-a-consumer"
        } else {
            return true;
        };
        self.metrics.refused.get_or_create(&Reason { reason: full }).inc();
        false
    }

    /// The size in bytes of the recent events in memory, overhead included.
    #[must_use]
    pub fn recent_bytes(&self) -> usize {
        self.hub.state().recent.bytes()
    }

    /// Ends every subscription with the signal `$closing`. A subscription that is opened later gets that
    /// signal only.
    pub fn close(&self) {
        self.hub.close();
        self.read.streams().notify_all();
    }
}

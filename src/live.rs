//! Live delivery: keeps the end of the log in memory, and serves every subscription from there.
//!
//! Data goes one way. The [tail](crate::tail) hands over rows; their [frames](crate::item::frame) go to
//! [`recent`] by way of the [`hub`], which wakes the subscriptions to their consumers. Each [`subscription`]
//! takes them from there, at its client's pace, and from the table when it is behind.

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

/// See the module.
#[derive(Debug)]
pub struct Live {
    hub: Arc<Hub>,
    read: Arc<Read>,
    metrics: Arc<Metrics>,
}

impl Live {
    /// Keeps this many bytes of recent events. Nothing is published before the tail reads for
    /// [`destination`](Self::destination).
    #[must_use]
    pub fn new(recent_bytes: usize, read: Arc<Read>, metrics: Arc<Metrics>) -> Self {
        let hub = Arc::new(Hub::new(recent_bytes, Arc::clone(read.horizons())));
        Self { hub, read, metrics }
    }

    /// Where the tail has to put what it reads. At each start of the log, a task among `tasks` reads recent
    /// events back into memory, until `shutdown`.
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

    /// Opens a subscription. It takes effect now: what becomes visible after this call is
    /// delivered, whenever the stream is first read.
    #[must_use]
    pub fn subscribe(&self, request: Request) -> Subscription {
        let (hub, metrics) = (Arc::clone(&self.hub), Arc::clone(&self.metrics));
        let (history, patcher) = (Arc::clone(self.read.history()), Arc::clone(self.read.patcher()));
        Subscription::new(Shared { hub, history, patcher, metrics }, request)
    }

    /// A registration for one who reads by other means than a subscription, so that it is counted.
    #[must_use]
    pub fn register_stream(&self) -> Registration {
        self.hub.register([].into())
    }

    /// Whether one more subscription to these consumers keeps within the limits: on streams in
    /// all, and on those that follow one consumer. Counts it, if not.
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

    /// The bytes of recent events in memory.
    #[must_use]
    pub fn recent_bytes(&self) -> usize {
        self.hub.state().recent.bytes()
    }

    /// Ends every subscription with a good-bye. Those that come now get nothing else.
    pub fn close(&self) {
        self.hub.close();
        self.read.streams().notify_all();
    }
}

//! Connects the reader with the subscriptions: the recent events, and the waiters to notify of new ones.

use std::sync::{
    Arc, MutexGuard,
    atomic::{AtomicUsize, Ordering},
};

use super::recent::{HistoryPage, Recent};
use crate::{
    consumer::ConsumerId,
    crash::Lock,
    event::EventId,
    order::Position,
    read::{
        horizon::{Horizon, Horizons},
        waiter::Waiter,
    },
};

/// The recent events, shared by the reader and all subscriptions.
#[derive(Debug)]
pub struct Hub {
    state: Lock<State>,
    horizons: Arc<Horizons>,
    open_streams: AtomicUsize,
}

/// The state behind the hub's lock. The lock is held briefly, and never across an await.
#[derive(Debug)]
pub struct State {
    /// The recent events.
    pub recent: Recent,
    /// A snapshot of the table, as PostgreSQL prints it. Changes of rows that it sees are applied to the
    /// recent events. Later changes may not be.
    pub clean_as_of: String,
    /// The number of the log, which increases when the log is found replaced. 0 until the log was read.
    pub epoch: u64,
    /// The id after which the subscriptions to a log that was replaced continue.
    pub origin: EventId,
    /// The gateway is shutting down.
    pub closing: bool,
}

impl State {
    /// Adds history of the log of this epoch: see [`Recent::warm_up`]. Ignores it and returns false if the
    /// log was replaced in the meantime.
    pub fn warm_up(&mut self, epoch: u64, past: HistoryPage) -> bool {
        self.epoch == epoch && self.recent.warm_up(past)
    }

    fn horizon(&self) -> Horizon {
        Horizon::at(self.epoch, self.recent.position(), self.closing)
    }
}

impl Hub {
    /// Creates a hub that keeps up to `capacity` bytes of recent events. It shows how far the log is settled
    /// in `horizons`.
    #[must_use]
    pub fn new(capacity: usize, horizons: Arc<Horizons>) -> Self {
        let recent = Recent::new(capacity, Position::default());
        Self {
            state: Lock::new(State {
                recent,
                clean_as_of: String::new(),
                epoch: 0,
                origin: EventId::ZERO,
                closing: false,
            }),
            horizons,
            open_streams: AtomicUsize::new(0),
        }
    }

    /// Locks the state.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// The reader starts at `position`, for the first time or because the log was replaced. It reads
    /// nothing older than the snapshot `as_of`. Returns the new epoch.
    pub fn restart(&self, position: &Position, as_of: String) -> u64 {
        self.restart_after(position.head, position, as_of)
    }

    /// Like [`restart`](Self::restart). Existing subscriptions continue after `origin`.
    pub fn restart_after(&self, origin: EventId, position: &Position, as_of: String) -> u64 {
        let mut state = self.state();
        state.origin = origin.min(position.head);
        state.recent.reset(position);
        state.clean_as_of = as_of;
        state.epoch += 1;
        let epoch = state.epoch;
        self.notify_all(state);
        epoch
    }

    /// The gateway is shutting down: every subscription tells its client and ends.
    pub fn close(&self) {
        let mut state = self.state();
        state.closing = true;
        self.notify_all(state);
    }

    /// Calls `publish` to add recent events, then notifies the followers of their consumers.
    pub fn publish(&self, publish: impl FnOnce(&mut Recent)) {
        let mut state = self.state();
        publish(&mut state.recent);
        let waiters = state.recent.take_to_notify();
        self.show(state);
        for waiter in waiters {
            waiter.notify();
        }
    }

    /// Registers a subscription that follows these consumers.
    pub fn register(self: &Arc<Self>, consumers: Box<[ConsumerId]>) -> Registration {
        self.open_streams.fetch_add(1, Ordering::Relaxed);
        let waiter = Arc::default();
        let keys = self.state().recent.follow(&consumers, &waiter);
        Registration { hub: Arc::clone(self), consumers, keys, waiter }
    }

    /// How many streams are registered.
    #[must_use]
    pub fn open_streams(&self) -> usize {
        self.open_streams.load(Ordering::Relaxed)
    }

    /// How many streams follow this consumer.
    #[must_use]
    pub fn followers(&self, consumer: &ConsumerId) -> usize {
        self.state().recent.followers(consumer)
    }

    /// Shows the horizon of this state, then releases the lock. The horizon is shown under the lock, so that
    /// horizons appear in the order of the states.
    fn show(&self, state: MutexGuard<'_, State>) {
        self.horizons.show(state.horizon());
        drop(state);
    }

    fn notify_all(&self, state: MutexGuard<'_, State>) {
        let all: Vec<_> = state.recent.all_followers().cloned().collect();
        self.show(state);
        for waiter in all {
            waiter.notify();
        }
    }
}

/// A stream that is registered with the hub, until this value is dropped. The hub notifies it of new events,
/// and keeps the backlogs of its consumers.
#[derive(Debug)]
pub struct Registration {
    hub: Arc<Hub>,
    consumers: Box<[ConsumerId]>,
    /// The follower's key at each consumer.
    keys: Box<[usize]>,
    waiter: Arc<Waiter>,
}

impl Registration {
    /// The hub that this is registered with.
    #[must_use]
    pub fn hub(&self) -> &Hub {
        &self.hub
    }

    /// Waits until there may be new events: see [`Waiter::notified`].
    pub async fn woken(&self) {
        self.waiter.notified().await;
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.hub.open_streams.fetch_sub(1, Ordering::Relaxed);
        self.hub.state().recent.unfollow(&self.consumers, &self.keys);
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;
    use crate::crash::tests::ends_the_process;

    #[test]
    fn a_dropped_registration_leaves_nothing_behind() {
        let hub = Arc::new(Hub::new(10_000, Arc::default()));
        let toto: ConsumerId = "toto".parse().unwrap();
        let registration = hub.register([toto.clone()].into());
        assert_eq!((hub.open_streams(), hub.followers(&toto)), (1, 1));
        drop(registration);
        assert_eq!((hub.open_streams(), hub.followers(&toto)), (0, 0));
        assert!(hub.state().recent.consumers().is_empty());
    }

    #[test]
    fn a_panic_while_publishing_ends_the_process() {
        let name = "live::hub::tests::a_panic_while_publishing_ends_the_process";
        ends_the_process(name, || {
            let hub = Hub::new(10_000, Arc::default());
            let published = catch_unwind(AssertUnwindSafe(|| {
                hub.publish(|_| panic!("between two events"));
            }));
            assert!(published.is_err());
            drop(hub.state());
        });
    }

    #[test]
    fn ignores_history_of_a_log_that_was_replaced() {
        let hub = Hub::new(10_000, Arc::default());
        let at = |head| Position { head: EventId::new(head), ..Position::default() };
        let past = || HistoryPage { upto: EventId::new(5), after: EventId::ZERO, rows: Vec::new() };
        let first = hub.restart(&at(5), String::new());
        let second = hub.restart(&at(5), String::new());
        assert!(!hub.state().warm_up(first, past()));
        assert!(hub.state().warm_up(second, past()));
    }
}

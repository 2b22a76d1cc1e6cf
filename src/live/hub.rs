//! Where the reader and the subscriptions meet: the recent events, and who waits for more.

use std::sync::{
    Arc, MutexGuard,
    atomic::{AtomicUsize, Ordering},
};

use super::recent::{Past, Recent};
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

/// See the module.
#[derive(Debug)]
pub struct Hub {
    state: Lock<State>,
    horizons: Arc<Horizons>,
    open_streams: AtomicUsize,
}

/// What is behind the hub's lock. The lock is held for moments: never across an await.
#[derive(Debug)]
pub struct State {
    /// The recent events.
    pub recent: Recent,
    /// Behind this snapshot of the table, rows may have been changed that are kept here.
    pub clean_as_of: String,
    /// Which log this is: counts up when the log is found replaced. 0: not read yet.
    pub epoch: u64,
    /// Whoever was there when the log was replaced goes on behind this id.
    pub origin: EventId,
    /// The gateway is about to end.
    pub closing: bool,
}

impl State {
    /// Takes in history of the log of this epoch, as [`Recent::warm_up`] does. A log that was
    /// replaced meanwhile has nothing to do with it.
    pub fn warm_up(&mut self, epoch: u64, past: Past) -> bool {
        self.epoch == epoch && self.recent.warm_up(past)
    }

    fn horizon(&self) -> Horizon {
        Horizon::at(self.epoch, self.recent.position(), self.closing)
    }
}

impl Hub {
    /// A hub that keeps this many bytes of recent events, and waits for the reader. It shows here how far the
    /// log is settled.
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

    /// The recent events, and what else everybody shares.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// The reader starts at `position`, for the first time or in a log that was replaced, and
    /// will have read nothing that is older than the snapshot `as_of`. Answers which log this is
    /// now.
    pub fn restart(&self, position: &Position, as_of: String) -> u64 {
        self.restart_behind(position.head, position, as_of)
    }

    /// The same; whoever was there before goes on behind `origin`.
    pub fn restart_behind(&self, origin: EventId, position: &Position, as_of: String) -> u64 {
        let mut state = self.state();
        state.origin = origin.min(position.head);
        state.recent.reset(position);
        state.clean_as_of = as_of;
        state.epoch += 1;
        let epoch = state.epoch;
        self.notify_all(state);
        epoch
    }

    /// The gateway is about to end: every subscription says so to its client, and ends.
    pub fn close(&self) {
        let mut state = self.state();
        state.closing = true;
        self.notify_all(state);
    }

    /// Lets `publish` add to the recent events, and tells those who follow.
    pub fn publish(&self, publish: impl FnOnce(&mut Recent)) {
        let mut state = self.state();
        publish(&mut state.recent);
        let waiters = state.recent.take_to_notify();
        self.show(state);
        for waiter in waiters {
            waiter.notify();
        }
    }

    /// Takes a registration for a subscription that follows these consumers.
    pub fn register(self: &Arc<Self>, consumers: Box<[ConsumerId]>) -> Registration {
        self.open_streams.fetch_add(1, Ordering::Relaxed);
        let waiter = Arc::default();
        let keys = self.state().recent.follow(&consumers, &waiter);
        Registration { hub: Arc::clone(self), consumers, keys, waiter }
    }

    /// How many subscriptions there are.
    #[must_use]
    pub fn open_streams(&self) -> usize {
        self.open_streams.load(Ordering::Relaxed)
    }

    /// How many of them follow this consumer.
    #[must_use]
    pub fn followers(&self, consumer: &ConsumerId) -> usize {
        self.state().recent.followers(consumer)
    }

    /// Shows the horizon of this state, which is let go of, if it has changed. Under its lock,
    /// so that horizons come in the order of the states.
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

/// A subscription's place in the hub: while it sits, the hub keeps it awake and its backlog
/// known.
#[derive(Debug)]
pub struct Registration {
    hub: Arc<Hub>,
    consumers: Box<[ConsumerId]>,
    /// At each of them.
    keys: Box<[usize]>,
    waiter: Arc<Waiter>,
}

impl Registration {
    /// The hub.
    #[must_use]
    pub fn hub(&self) -> &Hub {
        &self.hub
    }

    /// Waits until there is something to look at; see [`Waiter::notified`].
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
    fn nothing_is_kept_of_those_who_have_left() {
        let hub = Arc::new(Hub::new(10_000, Arc::default()));
        let toto: ConsumerId = "toto".parse().unwrap();
        let registration = hub.register([toto.clone()].into());
        assert_eq!((hub.open_streams(), hub.followers(&toto)), (1, 1));
        drop(registration);
        assert_eq!((hub.open_streams(), hub.followers(&toto)), (0, 0));
        assert!(hub.state().recent.consumers().is_empty());
    }

    #[test]
    fn events_that_are_half_published_are_never_looked_at() {
        let name = "live::hub::tests::events_that_are_half_published_are_never_looked_at";
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
    fn history_of_a_log_that_was_replaced_is_not_taken_in() {
        let hub = Hub::new(10_000, Arc::default());
        let at = |head| Position { head: EventId::new(head), ..Position::default() };
        let past = || Past { upto: EventId::new(5), after: EventId::ZERO, rows: Vec::new() };
        let first = hub.restart(&at(5), String::new());
        let second = hub.restart(&at(5), String::new());
        assert!(!hub.state().warm_up(first, past()));
        assert!(hub.state().warm_up(second, past()));
    }
}

//! Where the reader and the subscriptions meet: the recent events, and who waits for more.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use tokio::sync::Notify;

use super::recent::Recent;
use crate::{consumer::ConsumerId, order::Position};

/// See the module.
#[derive(Debug)]
pub struct Hub {
    state: Mutex<State>,
    waiting: Mutex<Waiting>,
    last_seat: AtomicU64,
    seats: AtomicUsize,
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
    /// The gateway is about to end.
    pub closing: bool,
}

/// Who is woken by whose events.
type Waiting = HashMap<ConsumerId, HashMap<u64, Arc<Notify>>>;

impl Hub {
    /// A hub that keeps this many bytes of recent events, and waits for the reader.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let recent = Recent::new(capacity, Position::default());
        Self {
            state: Mutex::new(State {
                recent,
                clean_as_of: String::new(),
                epoch: 0,
                closing: false,
            }),
            waiting: Mutex::default(),
            last_seat: AtomicU64::new(0),
            seats: AtomicUsize::new(0),
        }
    }

    /// The recent events, and what else everybody shares.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The reader starts at `position`, for the first time or in a log that was replaced, and
    /// will have read nothing that is older than the snapshot `as_of`. Answers which log this is
    /// now.
    pub fn restart(&self, position: &Position, as_of: String) -> u64 {
        let mut state = self.state();
        state.recent.reset(position);
        state.clean_as_of = as_of;
        state.epoch += 1;
        let epoch = state.epoch;
        drop(state);
        self.wake_all();
        epoch
    }

    /// The gateway is about to end: every subscription says so to its client, and ends.
    pub fn close(&self) {
        self.state().closing = true;
        self.wake_all();
    }

    /// Lets `publish` add to the recent events, and wakes those who follow `touched`.
    pub fn publish(&self, touched: &HashSet<ConsumerId>, publish: impl FnOnce(&mut Recent)) {
        publish(&mut self.state().recent);
        let waiting = self.waiting();
        let followers = touched.iter().filter_map(|consumer| waiting.get(consumer));
        followers.flat_map(HashMap::values).for_each(|waiter| waiter.notify_one());
    }

    /// Takes a seat for a subscription that follows these consumers.
    pub fn sit(self: &Arc<Self>, consumers: Box<[ConsumerId]>) -> Seat {
        let number = self.last_seat.fetch_add(1, Ordering::Relaxed);
        self.seats.fetch_add(1, Ordering::Relaxed);
        let waiter = Arc::new(Notify::new());
        let mut waiting = self.waiting();
        for consumer in &consumers {
            let seats = waiting.entry(consumer.clone()).or_default();
            seats.insert(number, Arc::clone(&waiter));
        }
        drop(waiting);
        self.state().recent.follow(&consumers);
        Seat { hub: Arc::clone(self), consumers, number, waiter }
    }

    /// How many subscriptions there are.
    #[must_use]
    pub fn seats(&self) -> usize {
        self.seats.load(Ordering::Relaxed)
    }

    /// How many of them follow this consumer.
    #[must_use]
    pub fn followers(&self, consumer: &ConsumerId) -> usize {
        self.waiting().get(consumer).map_or(0, HashMap::len)
    }

    fn wake_all(&self) {
        let waiting = self.waiting();
        waiting.values().flat_map(HashMap::values).for_each(|waiter| waiter.notify_one());
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A subscription's place in the hub: while it sits, the hub keeps it awake and its backlog
/// known.
#[derive(Debug)]
pub struct Seat {
    hub: Arc<Hub>,
    consumers: Box<[ConsumerId]>,
    number: u64,
    waiter: Arc<Notify>,
}

impl Seat {
    /// The hub.
    #[must_use]
    pub fn hub(&self) -> &Hub {
        &self.hub
    }

    /// Waits until there is something to look at; returns at once if that happened since the
    /// last wait, so that a look before waiting misses nothing.
    pub async fn woken(&self) {
        self.waiter.notified().await;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.hub.seats.fetch_sub(1, Ordering::Relaxed);
        let mut waiting = self.hub.waiting();
        for consumer in &self.consumers {
            if let Some(seats) = waiting.get_mut(consumer) {
                seats.remove(&self.number);
                if seats.is_empty() {
                    waiting.remove(consumer);
                }
            }
        }
        drop(waiting);
        self.hub.state().recent.unfollow(&self.consumers);
    }
}

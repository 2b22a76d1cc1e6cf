//! Where the reader and the subscriptions meet: the recent events, and who waits for more.

use std::{
    collections::HashMap,
    sync::{
        Arc, MutexGuard,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use tokio::sync::watch;

use super::{
    recent::{Past, Recent},
    waiter::Waiter,
};
use crate::{
    consumer::ConsumerId,
    crash::Lock,
    cursor::Cursor,
    event::{EventId, name::StreamName},
    order::{Late, Position},
};

/// See the module.
#[derive(Debug)]
pub struct Hub {
    state: Lock<State>,
    streams: Lock<Streams>,
    horizon: watch::Sender<Horizon>,
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
    /// Whoever was there when the log was replaced goes on behind this id.
    pub origin: EventId,
    /// The gateway is about to end.
    pub closing: bool,
}

/// How far the log is settled, for those who read the table in strict order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Horizon {
    /// Which log this is: as [`State::epoch`].
    pub epoch: u64,
    /// The greatest id that was passed.
    pub head: EventId,
    /// Nothing at or before this can appear any more.
    pub settled: EventId,
    /// Who can still write between `settled` and `head`.
    pub late: Late,
    /// The gateway is about to end.
    pub closing: bool,
}

impl Horizon {
    /// Behind everything that is visible by now.
    #[must_use]
    pub fn now(&self) -> Cursor {
        Cursor::now(&Position { head: self.head, late: self.late.clone() })
    }
}

impl State {
    /// Takes in history of the log of this epoch, as [`Recent::recall`] does. A log that was
    /// replaced meanwhile has nothing to do with it.
    pub fn recall(&mut self, epoch: u64, past: Past) -> bool {
        self.epoch == epoch && self.recent.recall(past)
    }

    fn horizon(&self) -> Horizon {
        let position = self.recent.position();
        let (head, settled) = (position.head, position.horizon());
        let late = position.late.clone();
        Horizon { epoch: self.epoch, head, settled, late, closing: self.closing }
    }
}

/// Who is told of which stream's events.
type Streams = HashMap<StreamName, HashMap<u64, Arc<Waiter>>>;

impl Hub {
    /// A hub that keeps this many bytes of recent events, and waits for the reader.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let recent = Recent::new(capacity, Position::default());
        Self {
            state: Lock::new(State {
                recent,
                clean_as_of: String::new(),
                epoch: 0,
                origin: EventId::ZERO,
                closing: false,
            }),
            streams: Lock::default(),
            horizon: watch::Sender::default(),
            last_seat: AtomicU64::new(0),
            seats: AtomicUsize::new(0),
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
        self.tell_all(state);
        epoch
    }

    /// The gateway is about to end: every subscription says so to its client, and ends.
    pub fn close(&self) {
        let mut state = self.state();
        state.closing = true;
        self.tell_all(state);
    }

    /// Lets `publish` add to the recent events, and tells those who follow.
    pub fn publish(&self, publish: impl FnOnce(&mut Recent)) {
        let mut state = self.state();
        publish(&mut state.recent);
        let told = state.recent.take_told();
        self.show(state);
        for waiter in told {
            waiter.tell();
        }
    }

    /// How far the log is settled, now and from now on.
    #[must_use]
    pub fn horizon(&self) -> watch::Receiver<Horizon> {
        self.horizon.subscribe()
    }

    /// Takes a seat for a subscription that follows these consumers.
    pub fn sit(self: &Arc<Self>, consumers: Box<[ConsumerId]>) -> Seat {
        self.seats.fetch_add(1, Ordering::Relaxed);
        let waiter = Arc::default();
        let seats = self.state().recent.follow(&consumers, &waiter);
        Seat { hub: Arc::clone(self), consumers, seats, waiter }
    }

    /// Tells those who follow these streams.
    pub fn tell_streams<'a>(&self, touched: impl Iterator<Item = &'a str>) {
        let streams = self.streams();
        if streams.is_empty() {
            return;
        }
        let followers = touched.filter_map(|name| streams.get(name));
        followers.flat_map(HashMap::values).for_each(|waiter| waiter.tell());
    }

    /// Takes a seat for one who follows a stream.
    pub fn sit_at(self: &Arc<Self>, stream: StreamName) -> StreamSeat {
        let number = self.last_seat.fetch_add(1, Ordering::Relaxed);
        let waiter = Arc::default();
        let mut streams = self.streams();
        streams.entry(stream.clone()).or_default().insert(number, Arc::clone(&waiter));
        drop(streams);
        StreamSeat { hub: Arc::clone(self), stream, number, waiter }
    }

    /// How many subscriptions there are.
    #[must_use]
    pub fn seats(&self) -> usize {
        self.seats.load(Ordering::Relaxed)
    }

    /// How many of them follow this consumer.
    #[must_use]
    pub fn followers(&self, consumer: &ConsumerId) -> usize {
        self.state().recent.followers(consumer)
    }

    /// Shows the horizon of this state, which is let go of, if it has changed. Under its lock,
    /// so that horizons come in the order of the states.
    fn show(&self, state: MutexGuard<'_, State>) {
        let now = state.horizon();
        self.horizon.send_if_modified(|shown| {
            let moved = *shown != now;
            *shown = now;
            moved
        });
        drop(state);
    }

    fn tell_all(&self, state: MutexGuard<'_, State>) {
        let all: Vec<_> = state.recent.all_followers().cloned().collect();
        self.show(state);
        for waiter in all {
            waiter.tell();
        }
        self.tell_all_streams();
    }

    /// Tells everybody who follows a stream.
    pub fn tell_all_streams(&self) {
        let streams = self.streams();
        streams.values().flat_map(HashMap::values).for_each(|waiter| waiter.tell());
    }

    fn streams(&self) -> MutexGuard<'_, Streams> {
        self.streams.lock()
    }
}

/// A subscription's place in the hub: while it sits, the hub keeps it awake and its backlog
/// known.
#[derive(Debug)]
pub struct Seat {
    hub: Arc<Hub>,
    consumers: Box<[ConsumerId]>,
    /// At each of them.
    seats: Box<[usize]>,
    waiter: Arc<Waiter>,
}

impl Seat {
    /// The hub.
    #[must_use]
    pub fn hub(&self) -> &Hub {
        &self.hub
    }

    /// Waits until there is something to look at; see [`Waiter::told`].
    pub async fn woken(&self) {
        self.waiter.told().await;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.hub.seats.fetch_sub(1, Ordering::Relaxed);
        self.hub.state().recent.unfollow(&self.consumers, &self.seats);
    }
}

/// The place of one who follows a stream: while it sits, it is woken by that stream's events.
#[derive(Debug)]
pub struct StreamSeat {
    hub: Arc<Hub>,
    stream: StreamName,
    number: u64,
    waiter: Arc<Waiter>,
}

impl StreamSeat {
    /// Waits until there is something to look at, as [`Seat::woken`].
    pub async fn woken(&self) {
        self.waiter.told().await;
    }
}

impl Drop for StreamSeat {
    fn drop(&mut self) {
        let mut streams = self.hub.streams();
        if let Some(seats) = streams.get_mut(&self.stream) {
            seats.remove(&self.number);
            if seats.is_empty() {
                streams.remove(&self.stream);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;
    use crate::crash::tests::ends_the_process;

    #[test]
    fn nothing_is_kept_of_those_who_have_left() {
        let hub = Arc::new(Hub::new(10_000));
        let toto: ConsumerId = "toto".parse().unwrap();
        let (seat, stream) = (hub.sit([toto.clone()].into()), hub.sit_at("s".parse().unwrap()));
        assert_eq!((hub.seats(), hub.followers(&toto)), (1, 1));
        drop((seat, stream));
        assert_eq!((hub.seats(), hub.followers(&toto)), (0, 0));
        assert!(hub.streams().is_empty());
        assert!(hub.state().recent.consumers().is_empty());
    }

    #[test]
    fn events_that_are_half_published_are_never_looked_at() {
        let name = "gateway::hub::tests::events_that_are_half_published_are_never_looked_at";
        ends_the_process(name, || {
            let hub = Hub::new(10_000);
            let published = catch_unwind(AssertUnwindSafe(|| {
                hub.publish(|_| panic!("between two events"));
            }));
            assert!(published.is_err());
            drop(hub.state());
        });
    }

    #[test]
    fn history_of_a_log_that_was_replaced_is_not_taken_in() {
        let hub = Hub::new(10_000);
        let at = |head| Position { head: EventId::new(head), ..Position::default() };
        let past = || Past { upto: EventId::new(5), after: EventId::ZERO, rows: Vec::new() };
        let first = hub.restart(&at(5), String::new());
        let second = hub.restart(&at(5), String::new());
        assert!(!hub.state().recall(first, past()));
        assert!(hub.state().recall(second, past()));
    }
}

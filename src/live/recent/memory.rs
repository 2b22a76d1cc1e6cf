//! The log in memory: published events are added at one end, and events over the capacity are evicted at the
//! other.

use std::{
    collections::{HashSet, VecDeque},
    iter,
    sync::Arc,
};

use super::{
    backlog::{Backlog, Backlogs},
    claim::Claim,
    entry::{Entry, HistoryPage, Sequence},
};
use crate::{
    consumer::ConsumerId,
    cursor::Cursor,
    event::{EventId, Logged},
    item::frame::Frame,
    order::Position,
    read::waiter::Waiter,
};

/// The recent events, in the order of delivery.
#[derive(Debug)]
pub struct Recent {
    /// The entries by place, from `begin` on. `None` where an entry was invalidated.
    pub(super) log: VecDeque<Option<Entry>>,
    pub(super) begin: Sequence,
    pub(super) backlogs: Backlogs,
    pub(super) bytes: usize,
    capacity: usize,
    /// The claim that holds for every consumer. A backlog may claim more for its consumer.
    pub(super) claim: Claim,
    pub(super) position: Position,
    /// Nothing was evicted or invalidated since the reader started, so history can be put before the log.
    pub(super) warming_up: bool,
}

/// The place of the first event. It is not 0, because history that is loaded gets places before it.
const FIRST_PLACE: Sequence = 1 << 40;

impl Recent {
    /// The bytes that an entry costs in addition to its frame. They are counted until its place is dropped.
    pub(super) const OVERHEAD: usize = size_of::<Option<Entry>>() + size_of::<Sequence>();

    /// Creates an empty log that keeps at most `capacity` bytes, with the reader at `position`.
    #[must_use]
    pub fn new(capacity: usize, position: Position) -> Self {
        Self {
            log: VecDeque::new(),
            begin: FIRST_PLACE,
            backlogs: Backlogs::default(),
            bytes: 0,
            capacity,
            claim: Claim::new(FIRST_PLACE, position.clone()),
            position,
            warming_up: true,
        }
    }

    /// The reader's position.
    #[must_use]
    pub fn position(&self) -> &Position {
        &self.position
    }

    /// The place that the next event will get.
    #[must_use]
    pub fn end(&self) -> Sequence {
        self.begin + self.log.len() as Sequence
    }

    /// The size of the log in bytes, overhead included.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds an event that is delivered. `position` is the reader's position after it. `found` is explained
    /// at [`Entry::found`].
    ///
    /// Nothing is evicted before [`advance_to`](Self::advance_to).
    pub fn publish(
        &mut self,
        consumer: &ConsumerId,
        frame: Frame,
        position: &Position,
        found: bool,
    ) {
        self.bytes += frame.len() + Self::OVERHEAD;
        let (sequence, position) = (self.end(), position.clone());
        let backlog = self.backlogs.with_new_event(consumer, &self.claim);
        backlog.places.push_back(sequence);
        let consumer = backlog.consumer.clone();
        self.log.push_back(Some(Entry { sequence, position, frame, found, consumer }));
    }

    /// Adds history from before the reader started, so that clients which reconnect after a restart need no
    /// query. Pages must come in descending order, each ending where the one before it begins. Returns
    /// whether there is space for the next page.
    pub fn warm_up(&mut self, past: HistoryPage) -> bool {
        let HistoryPage { upto, mut after, rows } = past;
        // An event that was evicted, or changed since this page was read, would be missing between the page
        // and the log.
        if !self.warming_up || upto != self.claim.after().head {
            self.warming_up = false;
            return false;
        }
        // As in a replay that joined at the start: the events of transactions that were late then come live.
        let late = self.claim.after().late.clone();
        let mut below = upto;
        for (consumer, frame) in rows {
            let head = descended(frame.id(), (after, below));
            below = head.previous();
            if late.has(&frame) {
                continue;
            }
            if self.bytes + frame.len() + Self::OVERHEAD > self.capacity {
                after = head;
                self.warming_up = false;
                break;
            }
            self.put_first(&consumer, frame, Position { head, late: late.clone() });
        }
        self.claim = Claim::new(self.begin, Position { head: after, late });
        for backlog in self.backlogs.values_mut() {
            // Nothing was evicted, so the common claim holds for each backlog.
            backlog.claim.clone_from(&self.claim);
        }
        self.check_if_cheap();
        self.warming_up
    }

    fn put_first(&mut self, consumer: &ConsumerId, frame: Frame, position: Position) {
        self.bytes += frame.len() + Self::OVERHEAD;
        self.begin -= 1;
        let backlog = self.backlogs.of(consumer, &self.claim);
        backlog.places.push_front(self.begin);
        let (sequence, consumer) = (self.begin, backlog.consumer.clone());
        self.log.push_front(Some(Entry { sequence, position, frame, found: false, consumer }));
    }

    /// The reader has advanced to `position`, and everything up to there has been published. Evicts the
    /// oldest events until the log is within its capacity.
    pub fn advance_to(&mut self, position: &Position) {
        self.position.clone_from(position);
        while self.bytes > self.capacity {
            self.drop_oldest();
        }
        self.check_if_cheap();
    }

    /// The table was replaced, so no event in memory is valid any more. Empties the log, with the reader at
    /// `position`.
    pub fn reset(&mut self, position: &Position) {
        self.begin = self.end();
        self.log.clear();
        self.bytes = 0;
        self.warming_up = true;
        self.position.clone_from(position);
        self.claim = Claim::new(self.begin, position.clone());
        self.backlogs.retain_followed();
        for backlog in self.backlogs.values_mut() {
            backlog.places.clear();
            backlog.claim.clone_from(&self.claim);
        }
        self.check_if_cheap();
    }

    /// More events of these consumers became visible up to `position` than fit. Drops their events; clients
    /// that lack some of them read from the table.
    pub fn evict(&mut self, consumers: &HashSet<ConsumerId>, position: &Position) {
        // An empty place stands for the new events, so that a follower that has read everything before it
        // is behind.
        self.bytes += Self::OVERHEAD;
        self.log.push_back(None);
        self.position.clone_from(position);
        for consumer in consumers {
            self.backlogs.with_new_event(consumer, &self.claim);
        }
        self.drop_entries(consumers.iter());
        self.check_if_cheap();
    }

    /// The events of these consumers may differ in the table. Drops them from memory; clients that lack some
    /// of them read from the table. Returns how many of the consumers had events in memory.
    pub fn invalidate(&mut self, consumers: &HashSet<ConsumerId>) -> usize {
        // The next page of history may have been read before the change, so it must not be added.
        self.warming_up = false;
        let keeps = |consumer: &&ConsumerId| {
            self.backlogs.get(consumer).is_some_and(|backlog| !backlog.places.is_empty())
        };
        let kept: Vec<&ConsumerId> = consumers.iter().filter(keeps).collect();
        if !kept.is_empty() {
            self.drop_entries(kept.iter().copied());
        }
        self.check_if_cheap();
        kept.len()
    }

    /// Drops all entries of these consumers. The dropped places do not record whose they were, so the common
    /// claim, which holds for consumers without a backlog, is raised as well.
    fn drop_entries<'a>(&mut self, consumers: impl Iterator<Item = &'a ConsumerId>) {
        let claim = Claim::new(self.end(), self.position.clone());
        self.claim.raise(&claim);
        self.warming_up = false;
        for consumer in consumers {
            let Some(backlog) = self.backlogs.get_mut(consumer) else { continue };
            for place in backlog.places.drain(..) {
                let entry = slot(self.begin, place).and_then(|slot| self.log[slot].take());
                let entry = entry.expect("a place in a backlog has an entry");
                self.bytes -= entry.frame.len();
            }
            backlog.claim.raise(&claim);
            self.backlogs.remove_if_idle(consumer);
        }
        while self.log.front().is_some_and(Option::is_none) {
            self.drop_oldest();
        }
    }

    /// The consumers that have events in memory, or followers.
    #[must_use]
    pub fn consumers(&self) -> HashSet<ConsumerId> {
        self.backlogs.each().map(|(consumer, _)| consumer.clone()).collect()
    }

    fn drop_oldest(&mut self) {
        let Some(oldest) = self.log.pop_front() else { return };
        let place = self.begin;
        self.begin += 1;
        self.bytes -= Self::OVERHEAD;
        self.warming_up = false;
        let Some(Entry { position, frame, consumer, .. }) = oldest else {
            assert!(self.claim.from() > place, "a missing entry is claimed");
            return;
        };
        self.bytes -= frame.len();
        let claim = Claim::new(self.begin, position);
        let backlog = self.backlogs.get_mut(&consumer).expect("an entry is in its backlog");
        assert_eq!(
            backlog.places.pop_front(),
            Some(place),
            "the oldest entry must be its backlog's oldest"
        );
        backlog.claim.raise(&claim);
        self.claim.raise(&claim);
        self.backlogs.remove_if_idle(&consumer);
    }

    pub(super) fn entry(&self, place: Sequence) -> Option<&Entry> {
        self.log.get(slot(self.begin, place)?)?.as_ref()
    }

    /// The entry at a place that is in a backlog.
    fn kept(&self, place: Sequence) -> &Entry {
        self.entry(place).expect("a place in a backlog has an entry")
    }

    /// Registers a follower of these consumers, to be notified of their new events. Returns its key at each
    /// of them, for [`unfollow`](Self::unfollow).
    pub fn follow(&mut self, consumers: &[ConsumerId], waiter: &Arc<Waiter>) -> Box<[usize]> {
        consumers
            .iter()
            .map(|consumer| self.backlogs.register(consumer, waiter, &self.claim))
            .collect()
    }

    /// Removes the follower of these consumers that has these keys.
    pub fn unfollow(&mut self, consumers: &[ConsumerId], keys: &[usize]) {
        for (consumer, &key) in consumers.iter().zip(keys) {
            self.backlogs.unregister(consumer, key);
        }
    }

    /// How many subscriptions follow this consumer.
    #[must_use]
    pub fn followers(&self, consumer: &ConsumerId) -> usize {
        self.backlogs.get(consumer).map_or(0, Backlog::followers)
    }

    /// The followers of all consumers.
    pub fn all_followers(&self) -> impl Iterator<Item = &Arc<Waiter>> {
        self.backlogs.all_followers()
    }

    /// Takes the waiters to notify because of events that were added since the last call.
    pub fn take_to_notify(&mut self) -> Vec<Arc<Waiter>> {
        self.backlogs.take_to_notify()
    }

    /// The place from which a client with this cursor can continue without the table. `None` if memory may
    /// not have all the events that the client lacks.
    #[must_use]
    pub fn seek(&self, cursor: &Cursor, consumers: &[ConsumerId]) -> Option<Sequence> {
        let mut claims = consumers.iter().map(|consumer| self.claim_of(consumer));
        if !claims.all(|claim| claim.covers(cursor, &self.position)) {
            return None;
        }
        if !cursor.marks().is_empty() {
            return consumers.iter().map(|consumer| self.claim_of(consumer).from()).max();
        }
        Some(self.first_after(cursor.head(), consumers).unwrap_or(self.end()))
    }

    /// The place of the first entry of these consumers that was delivered at a head above `head`.
    fn first_after(&self, head: EventId, consumers: &[ConsumerId]) -> Option<Sequence> {
        let first = |consumer: &ConsumerId| {
            let places = &self.backlogs.get(consumer)?.places;
            let first = places.partition_point(|&place| self.kept(place).position.head <= head);
            places.get(first).copied()
        };
        consumers.iter().filter_map(first).min()
    }

    /// The claim for this consumer.
    fn claim_of(&self, consumer: &ConsumerId) -> &Claim {
        self.backlogs.get(consumer).map_or(&self.claim, |backlog| &backlog.claim)
    }

    /// The events of these consumers from the place `next` on, in the order of delivery. `None` if one of
    /// them may have been dropped.
    #[must_use]
    pub fn read<'a>(
        &'a self,
        consumers: &'a [ConsumerId],
        next: Sequence,
    ) -> Option<impl Iterator<Item = &'a Entry>> {
        let kept = |consumer: &ConsumerId| self.claim_of(consumer).from() <= next;
        if !consumers.iter().all(kept) {
            return None;
        }
        let mut next = next;
        Some(iter::from_fn(move || {
            let places = consumers.iter().filter_map(|consumer| self.backlogs.get(consumer));
            let first = places.filter_map(|backlog| backlog.first_from(next)).min()?;
            next = first + 1;
            Some(self.kept(first))
        }))
    }
}

/// Asserts that `id`, the next one of rows in descending order, is above `after` and at most `upto`.
fn descended(id: EventId, (after, upto): (EventId, EventId)) -> EventId {
    assert!(after < id && id <= upto, "{id} is not above {after} and at most {upto}");
    id
}

/// The index of a place in a log that begins at `begin`. `None` if the place is before that.
fn slot(begin: Sequence, place: Sequence) -> Option<usize> {
    usize::try_from(place.checked_sub(begin)?).ok()
}

#[cfg(test)]
mod tests;

//! The memory itself: what is published goes in at one end, and what does not fit is evicted at the other.

use std::{
    collections::{HashSet, VecDeque},
    iter,
    sync::Arc,
};

use super::{
    backlog::{Backlog, Backlogs},
    claim::Claim,
    entry::{Entry, Past, Sequence},
};
use crate::{
    consumer::ConsumerId,
    cursor::Cursor,
    event::{EventId, Logged},
    item::frame::Frame,
    order::Position,
    read::waiter::Waiter,
};

/// See the module.
#[derive(Debug)]
pub struct Recent {
    /// The entries by their places, which begin at `begin`; none, where one was forgotten.
    pub(super) log: VecDeque<Option<Entry>>,
    pub(super) begin: Sequence,
    pub(super) backlogs: Backlogs,
    pub(super) bytes: usize,
    capacity: usize,
    /// What is true for every consumer; a backlog may claim more for its own.
    pub(super) claim: Claim,
    pub(super) position: Position,
    /// Nothing was let go of since the reader started, so history can be put before the log.
    pub(super) warming_up: bool,
}

/// History that is loaded goes before the first place, so that is not 0.
const FIRST: Sequence = 1 << 40;

impl Recent {
    /// What an entry costs beside the bytes of its frame, and is charged until its place is let go.
    pub(super) const OVERHEAD: usize = size_of::<Option<Entry>>() + size_of::<Sequence>();

    /// Keeps at most `capacity` bytes; starts empty, with the reader at `position`.
    #[must_use]
    pub fn new(capacity: usize, position: Position) -> Self {
        Self {
            log: VecDeque::new(),
            begin: FIRST,
            backlogs: Backlogs::default(),
            bytes: 0,
            capacity,
            claim: Claim::new(FIRST, position.clone()),
            position,
            warming_up: true,
        }
    }

    /// Where the reader is.
    #[must_use]
    pub fn position(&self) -> &Position {
        &self.position
    }

    /// The place of the next event.
    #[must_use]
    pub fn end(&self) -> Sequence {
        self.begin + self.log.len() as Sequence
    }

    /// The bytes that are kept, overhead included.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes in an event that is delivered; `position` is where the reader is after it.
    pub fn publish(
        &mut self,
        consumer: &ConsumerId,
        frame: Frame,
        position: &Position,
        found: bool,
    ) {
        self.bytes += frame.len() + Self::OVERHEAD;
        let (sequence, position) = (self.end(), position.clone());
        let backlog = self.backlogs.with_news(consumer, &self.claim);
        backlog.places.push_back(sequence);
        let consumer = backlog.consumer.clone();
        self.log.push_back(Some(Entry { sequence, position, frame, found, consumer }));
    }

    /// Takes in history of before the reader started, so that clients which come back after a
    /// restart need no query. Pages come in descending order, each where the one before it ends.
    /// Answers whether it wants the next one.
    pub fn warm_up(&mut self, past: Past) -> bool {
        let Past { upto, mut after, rows } = past;
        // Whatever was let go of, or has been changed since this page was read, would be missing
        // between it and what is kept.
        if !self.warming_up || upto != self.claim.after().head {
            self.warming_up = false;
            return false;
        }
        // As in a replay that joined at the start: what was late then comes live.
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
            // Nothing was let go of, so each claims what everybody does.
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

    /// The reader has moved; everything up to `position` has been published. Lets go of the
    /// oldest events that are over the capacity.
    pub fn advance_to(&mut self, position: &Position) {
        self.position.clone_from(position);
        while self.bytes > self.capacity {
            self.drop_oldest();
        }
        self.check_if_cheap();
    }

    /// The log has been replaced: nothing that is kept means anything any more.
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

    /// Up to `position`, more of these consumers' events have become visible than can be kept:
    /// whoever is owed some of them reads on from the table.
    pub fn evict(&mut self, consumers: &HashSet<ConsumerId>, position: &Position) {
        // They have a place, so that a follower that has read all before it is behind.
        self.bytes += Self::OVERHEAD;
        self.log.push_back(None);
        self.position.clone_from(position);
        for consumer in consumers {
            self.backlogs.with_news(consumer, &self.claim);
        }
        self.drop_entries(consumers.iter());
        self.check_if_cheap();
    }

    /// The table no longer says what is kept for these consumers: whoever still lacks some of it
    /// reads it from there. Answers for how many of them something was kept.
    pub fn invalidate(&mut self, consumers: &HashSet<ConsumerId>) -> usize {
        // The next page of history may have been read before the change.
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

    /// Drops all that is kept for these consumers. Nothing tells later that they had entries here,
    /// so this is claimed for nobody who has none.
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

    /// Everybody for whom something is kept, or who is followed.
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
            assert!(self.claim.from() > place, "an entry that is missing is claimed");
            return;
        };
        self.bytes -= frame.len();
        let claim = Claim::new(self.begin, position);
        let backlog = self.backlogs.get_mut(&consumer).expect("an entry is in its backlog");
        assert_eq!(backlog.places.pop_front(), Some(place), "the oldest entry is its oldest");
        backlog.claim.raise(&claim);
        self.claim.raise(&claim);
        self.backlogs.remove_if_idle(&consumer);
    }

    pub(super) fn entry(&self, place: Sequence) -> Option<&Entry> {
        self.log.get(slot(self.begin, place)?)?.as_ref()
    }

    /// The entry at a place that stands in a backlog.
    fn kept(&self, place: Sequence) -> &Entry {
        self.entry(place).expect("a place in a backlog has an entry")
    }

    /// A subscription follows these consumers from now on, and is told of what is new for them.
    /// Answers its key at each, to be given back.
    pub fn follow(&mut self, consumers: &[ConsumerId], waiter: &Arc<Waiter>) -> Box<[usize]> {
        consumers
            .iter()
            .map(|consumer| self.backlogs.register(consumer, waiter, &self.claim))
            .collect()
    }

    /// A subscription no longer follows these consumers, at which it had these keys.
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

    /// Those who follow, of whatever consumers.
    pub fn all_followers(&self) -> impl Iterator<Item = &Arc<Waiter>> {
        self.backlogs.all_followers()
    }

    /// Takes those who are to be told that there is something new for them, since they were taken
    /// last.
    pub fn take_to_notify(&mut self) -> Vec<Arc<Waiter>> {
        self.backlogs.take_to_notify()
    }

    /// The place from which a client with this cursor can go on without the table; `None`
    /// when something that it lacks may be kept no longer.
    #[must_use]
    pub fn seek(&self, cursor: &Cursor, consumers: &[ConsumerId]) -> Option<Sequence> {
        let mut claims = consumers.iter().map(|consumer| self.claim_of(consumer));
        if !claims.all(|claim| claim.covers(cursor, &self.position)) {
            return None;
        }
        if !cursor.marks().is_empty() {
            return consumers.iter().map(|consumer| self.claim_of(consumer).from()).max();
        }
        Some(self.first_behind(cursor.head(), consumers).unwrap_or(self.end()))
    }

    /// The first entry of these consumers that was delivered at a greater head than this one.
    fn first_behind(&self, head: EventId, consumers: &[ConsumerId]) -> Option<Sequence> {
        let first = |consumer: &ConsumerId| {
            let places = &self.backlogs.get(consumer)?.places;
            let first = places.partition_point(|&place| self.kept(place).position.head <= head);
            places.get(first).copied()
        };
        consumers.iter().filter_map(first).min()
    }

    /// What is claimed for this consumer.
    fn claim_of(&self, consumer: &ConsumerId) -> &Claim {
        self.backlogs.get(consumer).map_or(&self.claim, |backlog| &backlog.claim)
    }

    /// The events of these consumers from `next` on, in the order of delivery; `None` when
    /// one of them is kept no longer.
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

/// The next id of rows in descending order: it lies behind the first of these, and no further than
/// the second.
fn descended(id: EventId, (after, upto): (EventId, EventId)) -> EventId {
    assert!(after < id && id <= upto, "{id} does not lie behind {after} and up to {upto}");
    id
}

/// Where a place is in a log that begins there.
fn slot(begin: Sequence, place: Sequence) -> Option<usize> {
    usize::try_from(place.checked_sub(begin)?).ok()
}

#[cfg(test)]
mod tests;

//! The recent end of the log, in memory, in the order in which it was delivered.
//!
//! It is channel and history at once: a live subscription is a place in it, a reconnecting
//! one usually finds its place again without a query, and one that has fallen out of it
//! reads on from the table. Nothing waits for a slow subscription, and none costs memory.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    iter,
};

use super::frame::Frame;
use crate::{
    consumer::ConsumerId,
    cursor::Cursor,
    event::{EventId, Logged},
    order::{Late, Position},
};

/// A place in the order of delivery. It counts up with every event that is published, and
/// means nothing outside of this process.
pub type Sequence = u64;

/// One event as it was delivered.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its place in the order of delivery.
    pub sequence: Sequence,
    /// Where the reader was after it.
    pub position: Position,
    /// Its bytes.
    pub frame: Frame,
    /// It turned up where nothing could be any more: it goes to everybody who is live, what
    /// ever their cursors say.
    pub found: bool,
}

/// What is kept for one consumer.
#[derive(Debug)]
struct Backlog {
    entries: VecDeque<Entry>,
    /// Everything of this consumer that was delivered after here is in `entries`.
    floor: Position,
    /// The place behind the last entry that was let go.
    dropped: Sequence,
    /// How many subscriptions follow; as long as there is one, the backlog stays.
    followers: usize,
}

/// See the module.
#[derive(Debug)]
pub struct Recent {
    backlogs: HashMap<ConsumerId, Backlog>,
    /// Whose entry is the oldest, the next oldest, and so on.
    ages: VecDeque<ConsumerId>,
    bytes: usize,
    capacity: usize,
    floor: Position,
    /// The place behind which the floor rises.
    floored: Sequence,
    position: Position,
    begin: Sequence,
    end: Sequence,
    /// Something was let go since the reader started: there is nothing to recall any more.
    forgot: bool,
}

/// History that is recalled goes before the first place, so that is not 0.
const FIRST: Sequence = 1 << 40;

impl Recent {
    /// What an entry costs beside the bytes of its frame.
    const OVERHEAD: usize = size_of::<Entry>() + size_of::<ConsumerId>();

    /// Keeps at most `capacity` bytes; starts empty, with the reader at `position`.
    #[must_use]
    pub fn new(capacity: usize, position: Position) -> Self {
        Self {
            backlogs: HashMap::new(),
            ages: VecDeque::new(),
            bytes: 0,
            capacity,
            floor: position.clone(),
            floored: 0,
            position,
            begin: FIRST,
            end: FIRST,
            forgot: false,
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
        self.end
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
        let (sequence, position) = (self.end, position.clone());
        self.ages.push_back(consumer.clone());
        self.backlog(consumer).entries.push_back(Entry { sequence, position, frame, found });
        self.end += 1;
    }

    /// Takes in history, so that clients which come back after a restart need no query:
    /// events of before the reader started, `rows` of them in descending order, all that
    /// there are behind `floor` and before what is kept. Answers whether it wants more.
    pub fn recall(&mut self, rows: Vec<(ConsumerId, Frame)>, floor: EventId) -> bool {
        if self.forgot {
            return false;
        }
        // As in a replay that joined at the start: what was late then comes live.
        let late = self.floor.late.clone();
        let mut floor = floor;
        for (consumer, frame) in rows.into_iter().filter(|(_, it)| !late.contains(it.xid())) {
            let bytes = frame.len() + Self::OVERHEAD;
            if self.bytes + bytes > self.capacity {
                floor = frame.id();
                self.forgot = true;
                break;
            }
            self.bytes += bytes;
            self.begin -= 1;
            self.ages.push_front(consumer.clone());
            let (sequence, found) = (self.begin, false);
            let position = Position { head: frame.id(), late: late.clone() };
            let entry = Entry { sequence, position, frame, found };
            self.backlog(&consumer).entries.push_front(entry);
        }
        self.floor.head = floor;
        for backlog in self.backlogs.values_mut() {
            backlog.floor.clone_from(&self.floor);
            // Who followed before the reader started has lost nothing behind here either.
            backlog.dropped = self.begin;
        }
        !self.forgot
    }

    /// The reader has moved; everything up to `position` has been published. Lets go of the
    /// oldest events that are over the capacity.
    pub fn moved_to(&mut self, position: &Position) {
        self.position.clone_from(position);
        while self.bytes > self.capacity {
            self.drop_oldest();
        }
    }

    /// The log has been replaced: nothing that is kept means anything any more.
    pub fn reset(&mut self, position: &Position) {
        self.ages.clear();
        self.bytes = 0;
        self.floored = self.end;
        self.begin = self.end;
        self.forgot = false;
        self.floor.clone_from(position);
        self.position.clone_from(position);
        self.backlogs.retain(|_, backlog| backlog.followers > 0);
        for backlog in self.backlogs.values_mut() {
            backlog.entries.clear();
            backlog.floor.clone_from(position);
            backlog.dropped = self.end;
        }
    }

    /// Up to `position`, more of these consumers' events have become visible than can be kept:
    /// whoever is owed some of them reads on from the table.
    pub fn let_go(&mut self, consumers: &HashSet<ConsumerId>, position: &Position) {
        self.end += 1;
        self.position.clone_from(position);
        self.forget(consumers);
    }

    /// What is kept for these consumers is no longer what the table says: whoever still lacks
    /// some of it reads it from there.
    pub fn forget(&mut self, consumers: &HashSet<ConsumerId>) {
        self.floored = self.end;
        self.forgot = true;
        self.floor.clone_from(&self.position);
        self.ages.retain(|consumer| !consumers.contains(consumer));
        for consumer in consumers {
            let Some(backlog) = self.backlogs.get_mut(consumer) else { continue };
            let entries = backlog.entries.drain(..);
            self.bytes -= entries.map(|entry| entry.frame.len() + Self::OVERHEAD).sum::<usize>();
            backlog.floor.clone_from(&self.position);
            backlog.dropped = self.end;
            self.forget_if_idle(consumer);
        }
    }

    /// Everybody for whom something is kept.
    #[must_use]
    pub fn consumers(&self) -> HashSet<ConsumerId> {
        self.backlogs.keys().cloned().collect()
    }

    fn drop_oldest(&mut self) {
        let Some(consumer) = self.ages.pop_front() else { return };
        self.forgot = true;
        let backlog = self.backlogs.get_mut(&consumer).expect("an age has its entry");
        let entry = backlog.entries.pop_front().expect("an age has its entry");
        self.bytes -= entry.frame.len() + Self::OVERHEAD;
        if entry.sequence >= self.floored {
            self.floor.clone_from(&entry.position);
        }
        backlog.dropped = entry.sequence + 1;
        backlog.floor = entry.position;
        self.forget_if_idle(&consumer);
    }

    fn forget_if_idle(&mut self, consumer: &ConsumerId) {
        let idle = |backlog: &Backlog| backlog.followers == 0 && backlog.entries.is_empty();
        if self.backlogs.get(consumer).is_some_and(idle) {
            self.backlogs.remove(consumer);
        }
    }

    fn backlog(&mut self, consumer: &ConsumerId) -> &mut Backlog {
        let fresh = || Backlog {
            entries: VecDeque::new(),
            floor: self.floor.clone(),
            dropped: 0,
            followers: 0,
        };
        self.backlogs.entry(consumer.clone()).or_insert_with(fresh)
    }

    /// A subscription follows these consumers from now on.
    pub fn follow(&mut self, consumers: &[ConsumerId]) {
        for consumer in consumers {
            self.backlog(consumer).followers += 1;
        }
    }

    /// A subscription no longer follows these consumers.
    pub fn unfollow(&mut self, consumers: &[ConsumerId]) {
        for consumer in consumers {
            if let Some(backlog) = self.backlogs.get_mut(consumer) {
                backlog.followers -= 1;
            }
            self.forget_if_idle(consumer);
        }
    }

    /// The place from which a client with this cursor can go on without the table; `None`
    /// when something that it lacks may be kept no longer.
    #[must_use]
    pub fn seek(&self, cursor: &Cursor, consumers: &[ConsumerId]) -> Option<Sequence> {
        let floors = consumers.iter().map(|consumer| self.floor_of(consumer));
        if !floors.into_iter().all(|floor| self.reaches_back_to(floor, cursor)) {
            return None;
        }
        if !cursor.marks().is_empty() {
            return consumers.iter().map(|consumer| self.dropped_of(consumer)).max();
        }
        // Entries that were delivered at a head the cursor has reached are not owed.
        let owed = |consumer: &ConsumerId| {
            let entries = &self.backlogs.get(consumer)?.entries;
            let first = entries.partition_point(|entry| entry.position.head <= cursor.head());
            entries.get(first).map(|entry| entry.sequence)
        };
        Some(consumers.iter().filter_map(owed).min().unwrap_or(self.end))
    }

    /// Whether all that the cursor lacks was delivered after `floor`. Events of a marked
    /// transaction were, if it was late there, or is still late.
    fn reaches_back_to(&self, floor: &Position, cursor: &Cursor) -> bool {
        let late = |late: &Late, xid| late.contains(xid);
        let known = |xid| late(&floor.late, xid) || late(&self.position.late, xid);
        cursor.head() >= floor.head && cursor.marks().iter().all(|mark| known(mark.xid))
    }

    fn floor_of(&self, consumer: &ConsumerId) -> &Position {
        self.backlogs.get(consumer).map_or(&self.floor, |backlog| &backlog.floor)
    }

    fn dropped_of(&self, consumer: &ConsumerId) -> Sequence {
        self.backlogs.get(consumer).map_or(0, |backlog| backlog.dropped)
    }

    /// The events of these consumers from `next` on, in the order of delivery; `None` when
    /// one of them is kept no longer.
    #[must_use]
    pub fn read<'a>(
        &'a self,
        consumers: &'a [ConsumerId],
        next: Sequence,
    ) -> Option<impl Iterator<Item = &'a Entry>> {
        let kept = |consumer: &ConsumerId| self.dropped_of(consumer) <= next;
        if !consumers.iter().all(kept) {
            return None;
        }
        let mut next = next;
        let first = move |consumer: &ConsumerId, next| {
            let entries = &self.backlogs.get(consumer)?.entries;
            entries.get(entries.partition_point(|entry| entry.sequence < next))
        };
        Some(iter::from_fn(move || {
            let entries = consumers.iter().filter_map(|consumer| first(consumer, next));
            let entry = entries.min_by_key(|entry| entry.sequence)?;
            next = entry.sequence + 1;
            Some(entry)
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{event::Xid, gateway::frame::Encoder};

    struct Row(i64);

    impl Logged for Row {
        fn id(&self) -> EventId {
            EventId::new(self.0)
        }
        fn xid(&self) -> Xid {
            Xid::new(7)
        }
    }

    fn at(head: i64) -> Position {
        Position { head: EventId::new(head), late: Late::default() }
    }

    fn publish(recent: &mut Recent, whose: &str, id: i64) {
        let frame = Encoder::default().encode(&Row(id), "t", b"{}");
        recent.publish(&whose.parse().unwrap(), frame, &at(id), false);
        recent.moved_to(&at(id));
    }

    #[test]
    fn it_keeps_no_more_than_it_may_and_nothing_of_those_who_are_gone() {
        let mut recent = Recent::new(10_000, at(0));
        let toto: ConsumerId = "toto".parse().unwrap();
        recent.follow(std::slice::from_ref(&toto));
        for id in 1..1000 {
            publish(&mut recent, &format!("consumer {id}"), id);
            assert!(recent.bytes() <= 10_000);
        }
        let most = 10_000 / Recent::OVERHEAD;
        assert!(recent.consumers().len() <= most + 1, "{}", recent.consumers().len());
        assert!(recent.consumers().contains(&toto), "who is followed stays");
        recent.unfollow(std::slice::from_ref(&toto));
        assert!(!recent.consumers().contains(&toto));
    }

    #[test]
    fn what_was_forgotten_stays_so_when_older_events_are_let_go() {
        let mut one = Recent::new(10_000, at(0));
        publish(&mut one, "a", 1);
        let mut recent = Recent::new(2 * one.bytes(), at(0));
        publish(&mut recent, "a", 1);
        publish(&mut recent, "b", 2);
        let b: ConsumerId = "b".parse().unwrap();
        recent.forget(&HashSet::from([b.clone()]));
        publish(&mut recent, "a", 3);
        publish(&mut recent, "a", 4);
        assert_eq!(recent.seek(&"1".parse().unwrap(), &[b]), None, "event 2 is in the table only");
    }

    /// The ten events before event 11, the newest first.
    fn history() -> Vec<(ConsumerId, Frame)> {
        let mut encoder = Encoder::default();
        (1..=10)
            .rev()
            .map(|id| ("toto".parse().unwrap(), encoder.encode(&Row(id), "t", b"{}")))
            .collect()
    }

    #[test]
    fn of_history_as_much_is_recalled_as_there_is_room_for() {
        let mut roomy = Recent::new(1 << 20, at(10));
        assert!(roomy.recall(history(), EventId::ZERO));
        let toto: [ConsumerId; 1] = ["toto".parse().unwrap()];
        assert!(roomy.seek(&"0".parse().unwrap(), &toto).is_some());

        let capacity = roomy.bytes() / 2 + Recent::OVERHEAD / 2;
        let mut recent = Recent::new(capacity, at(10));
        assert!(!recent.recall(history(), EventId::ZERO), "there is more");
        assert!(recent.bytes() <= capacity);
        assert_eq!(recent.seek(&"4".parse().unwrap(), &toto), None);
        let place = recent.seek(&"5".parse().unwrap(), &toto).unwrap();
        let ids = recent.read(&toto, place).unwrap().map(|entry| entry.frame.id().get());
        assert_eq!(ids.collect::<Vec<_>>(), [6, 7, 8, 9, 10]);
    }

    #[test]
    fn once_something_was_let_go_of_no_history_comes_back() {
        let mut recent = Recent::new(1 << 20, at(10));
        recent.forget(&HashSet::new());
        assert!(!recent.recall(history(), EventId::ZERO));
        assert_eq!(recent.bytes(), 0);
    }

    #[test]
    fn nothing_of_a_log_that_was_replaced_is_read_in_the_next() {
        let mut recent = Recent::new(10_000, at(0));
        let toto: [ConsumerId; 1] = ["toto".parse().unwrap()];
        recent.follow(&toto);
        publish(&mut recent, "toto", 10);
        recent.reset(&at(2));
        assert_eq!(recent.bytes(), 0);
        let place = recent.seek(&"2".parse().unwrap(), &toto).unwrap();
        assert_eq!(recent.read(&toto, place).unwrap().count(), 0);
    }
}

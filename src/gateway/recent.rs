//! The recent end of the log, in memory, in the order in which it was delivered.
//!
//! It is channel and history at once: a live subscription is a place in it, a reconnecting
//! one usually finds its place again without a query, and one that has fallen out of it
//! reads on from the table. Nothing waits for a slow subscription, and none costs memory.

mod backlog;

use std::{
    collections::{HashSet, VecDeque},
    iter,
    sync::Arc,
};

use self::backlog::{Backlog, Backlogs};
use super::{frame::Frame, waiter::Waiter};
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
    consumer: ConsumerId,
}

/// See the module.
#[derive(Debug)]
pub struct Recent {
    /// The entries by their places, which begin at `begin`; none, where one was forgotten.
    log: VecDeque<Option<Entry>>,
    begin: Sequence,
    backlogs: Backlogs,
    bytes: usize,
    capacity: usize,
    floor: Position,
    /// The place behind which the floor rises.
    floored: Sequence,
    position: Position,
    /// Something was let go since the reader started: there is nothing to recall any more.
    forgot: bool,
}

/// History that is recalled goes before the first place, so that is not 0.
const FIRST: Sequence = 1 << 40;

impl Recent {
    /// What an entry costs beside the bytes of its frame, and is charged until its place is let go.
    const OVERHEAD: usize = size_of::<Option<Entry>>() + size_of::<Sequence>();

    /// Keeps at most `capacity` bytes; starts empty, with the reader at `position`.
    #[must_use]
    pub fn new(capacity: usize, position: Position) -> Self {
        Self {
            log: VecDeque::new(),
            begin: FIRST,
            backlogs: Backlogs::default(),
            bytes: 0,
            capacity,
            floor: position.clone(),
            floored: 0,
            position,
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
        let backlog = self.backlogs.with_news(consumer, &self.floor);
        backlog.places.push_back(sequence);
        let consumer = backlog.consumer.clone();
        self.log.push_back(Some(Entry { sequence, position, frame, found, consumer }));
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
            let (sequence, found) = (self.begin, false);
            let position = Position { head: frame.id(), late: late.clone() };
            let backlog = self.backlogs.of(&consumer, &self.floor);
            backlog.places.push_front(sequence);
            let consumer = backlog.consumer.clone();
            self.log.push_front(Some(Entry { sequence, position, frame, found, consumer }));
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
        self.begin = self.end();
        self.log.clear();
        self.bytes = 0;
        self.floored = self.begin;
        self.forgot = false;
        self.floor.clone_from(position);
        self.position.clone_from(position);
        self.backlogs.forget_unfollowed();
        for backlog in self.backlogs.values_mut() {
            backlog.places.clear();
            backlog.floor.clone_from(position);
            backlog.dropped = self.begin;
        }
    }

    /// Up to `position`, more of these consumers' events have become visible than can be kept:
    /// whoever is owed some of them reads on from the table.
    pub fn let_go(&mut self, consumers: &HashSet<ConsumerId>, position: &Position) {
        self.bytes += Self::OVERHEAD;
        self.log.push_back(None);
        self.position.clone_from(position);
        for consumer in consumers {
            self.backlogs.with_news(consumer, &self.floor);
        }
        self.forget(consumers);
    }

    /// What is kept for these consumers is no longer what the table says: whoever still lacks
    /// some of it reads it from there.
    pub fn forget(&mut self, consumers: &HashSet<ConsumerId>) {
        let end = self.end();
        self.floored = end;
        self.forgot = true;
        self.floor.clone_from(&self.position);
        for consumer in consumers {
            let Some(backlog) = self.backlogs.get_mut(consumer) else { continue };
            for place in backlog.places.drain(..) {
                let entry = slot(self.begin, place).and_then(|slot| self.log[slot].take());
                self.bytes -= entry.map_or(0, |entry| entry.frame.len());
            }
            backlog.floor.clone_from(&self.position);
            backlog.dropped = end;
            self.backlogs.forget_if_idle(consumer);
        }
        while self.log.front().is_some_and(Option::is_none) {
            self.drop_oldest();
        }
    }

    /// Whether anything is kept for this consumer.
    #[must_use]
    pub fn keeps(&self, consumer: &ConsumerId) -> bool {
        self.backlogs.get(consumer).is_some()
    }

    /// Everybody for whom something is kept.
    #[must_use]
    pub fn consumers(&self) -> HashSet<ConsumerId> {
        self.backlogs.consumers().cloned().collect()
    }

    fn drop_oldest(&mut self) {
        let Some(oldest) = self.log.pop_front() else { return };
        self.begin += 1;
        self.bytes -= Self::OVERHEAD;
        self.forgot = true;
        let Some(Entry { sequence, position, frame, consumer, .. }) = oldest else { return };
        self.bytes -= frame.len();
        if sequence >= self.floored {
            self.floor.clone_from(&position);
        }
        let backlog = self.backlogs.get_mut(&consumer).expect("an entry is in its backlog");
        backlog.places.pop_front();
        backlog.dropped = sequence + 1;
        backlog.floor = position;
        self.backlogs.forget_if_idle(&consumer);
    }

    fn entry(&self, place: Sequence) -> Option<&Entry> {
        self.log.get(slot(self.begin, place)?)?.as_ref()
    }

    /// A subscription follows these consumers from now on, and is told of what is new for them.
    /// Answers its seat at each, to be given back.
    pub fn follow(&mut self, consumers: &[ConsumerId], waiter: &Arc<Waiter>) -> Box<[usize]> {
        consumers.iter().map(|consumer| self.backlogs.sit(consumer, waiter, &self.floor)).collect()
    }

    /// A subscription no longer follows these consumers, at which it had these seats.
    pub fn unfollow(&mut self, consumers: &[ConsumerId], seats: &[usize]) {
        for (consumer, &seat) in consumers.iter().zip(seats) {
            self.backlogs.leave(consumer, seat);
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
    pub fn take_told(&mut self) -> Vec<Arc<Waiter>> {
        self.backlogs.take_told()
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
            let places = &self.backlogs.get(consumer)?.places;
            let head = |&place: &Sequence| self.entry(place).map(|entry| entry.position.head);
            let first = places.partition_point(|place| head(place) <= Some(cursor.head()));
            places.get(first).copied()
        };
        Some(consumers.iter().filter_map(owed).min().unwrap_or(self.end()))
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
        Some(iter::from_fn(move || {
            let places = consumers.iter().filter_map(|consumer| self.backlogs.get(consumer));
            let first = places.filter_map(|backlog| backlog.first_from(next)).min()?;
            next = first + 1;
            self.entry(first)
        }))
    }
}

/// Where a place is in a log that begins there.
fn slot(begin: Sequence, place: Sequence) -> Option<usize> {
    usize::try_from(place.checked_sub(begin)?).ok()
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
        let seats = recent.follow(std::slice::from_ref(&toto), &Arc::default());
        for id in 1..1000 {
            publish(&mut recent, &format!("consumer {id}"), id);
            assert!(recent.bytes() <= 10_000);
        }
        let most = 10_000 / Recent::OVERHEAD;
        assert!(recent.consumers().len() <= most + 1, "{}", recent.consumers().len());
        assert!(recent.consumers().contains(&toto), "who is followed stays");
        recent.unfollow(std::slice::from_ref(&toto), &seats);
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

    #[test]
    fn what_is_forgotten_again_and_again_keeps_no_places() {
        let mut recent = Recent::new(10_000, at(0));
        publish(&mut recent, "a", 1);
        let b: HashSet<ConsumerId> = HashSet::from(["b".parse().unwrap()]);
        for id in 2..1000 {
            publish(&mut recent, "b", id);
            recent.forget(&b);
            assert!(recent.log.len() * Recent::OVERHEAD <= recent.bytes());
            assert!(recent.bytes() <= 10_000);
        }
        assert_eq!(recent.consumers().len(), 0, "the oldest went to make room");
    }

    #[test]
    fn of_several_new_events_none_is_passed_over() {
        let mut recent = Recent::new(1 << 20, at(0));
        for id in 1..=9 {
            publish(&mut recent, if id % 3 == 0 { "other" } else { "toto" }, id);
        }
        let toto: [ConsumerId; 1] = ["toto".parse().unwrap()];
        let end = recent.end();
        let behind = |back| -> Vec<i64> {
            let entries = recent.read(&toto, end - back).unwrap();
            entries.map(|entry| entry.frame.id().get()).collect()
        };
        assert!(behind(0).is_empty() && behind(1).is_empty());
        assert_eq!(behind(2), [8]);
        assert_eq!(behind(3), [7, 8]);
        assert_eq!(behind(8), [2, 4, 5, 7, 8]);
    }

    #[test]
    fn who_is_owed_what_was_let_go_reads_it_from_the_table() {
        let mut recent = Recent::new(1 << 20, at(0));
        let [toto, other] = ["toto", "other"].map(|name| [name.parse::<ConsumerId>().unwrap()]);
        recent.follow(&toto, &Arc::default());
        publish(&mut recent, "toto", 1);
        publish(&mut recent, "other", 2);
        let live = recent.end();
        recent.let_go(&toto.iter().cloned().collect(), &at(2));
        assert!(recent.read(&toto, live).is_none(), "who has all before it lacks what was let go");
        assert!(recent.read(&other, live).is_some());
        assert!(recent.read(&toto, recent.end()).is_some());
    }

    #[test]
    fn those_who_follow_are_told_once_a_round() {
        let mut recent = Recent::new(1 << 20, at(0));
        let names = ["a", "b", "c"].map(|name| name.parse().unwrap());
        let [both, one, neither] = [0; 3].map(|_| Arc::<Waiter>::default());
        recent.follow(&names[..2], &both);
        let seats = recent.follow(&names[..1], &one);
        recent.follow(&names[2..], &neither);
        let told = |recent: &mut Recent, who| {
            recent.take_told().iter().filter(|told| Arc::ptr_eq(told, who)).count()
        };
        for (who, times) in [(&both, 2), (&one, 1), (&neither, 0)] {
            publish(&mut recent, "a", 1);
            publish(&mut recent, "b", 2);
            publish(&mut recent, "a", 3);
            assert_eq!(told(&mut recent, who), times);
        }
        assert!(recent.take_told().is_empty());
        recent.let_go(&HashSet::from([names[1].clone()]), &at(9));
        assert_eq!(told(&mut recent, &both), 1);
        recent.unfollow(&names[..1], &seats);
        publish(&mut recent, "a", 10);
        assert_eq!(told(&mut recent, &one), 0);
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
        recent.follow(&toto, &Arc::default());
        publish(&mut recent, "toto", 10);
        recent.reset(&at(2));
        assert_eq!(recent.bytes(), 0);
        let place = recent.seek(&"2".parse().unwrap(), &toto).unwrap();
        assert_eq!(recent.read(&toto, place).unwrap().count(), 0);
    }
}

//! The state of each consumer: where its events are in the log, and which subscriptions follow it.

use std::{
    collections::{HashMap, VecDeque},
    mem,
    sync::Arc,
};

use slab::Slab;

use super::{claim::Claim, entry::Sequence};
use crate::{consumer::ConsumerId, read::waiter::Waiter};

/// The state of one consumer.
#[derive(Debug)]
pub(super) struct Backlog {
    /// The consumer. Its entries clone this value, so that memory holds each name once.
    pub(super) consumer: ConsumerId,
    /// The places of its entries in the log, in ascending order. A queue of entries for each consumer would
    /// reserve capacity for many entries that never come: a third of all memory, and uncounted.
    pub(super) places: VecDeque<Sequence>,
    /// What memory has of this consumer's events.
    pub(super) claim: Claim,
    /// The subscriptions that follow the consumer. A backlog with a follower is never removed.
    followers: Slab<Arc<Waiter>>,
    /// The round in which the followers were last added to `Backlogs::to_notify`.
    notified_in: Option<u64>,
}

impl Backlog {
    /// How many subscriptions follow the consumer.
    pub(super) fn followers(&self) -> usize {
        self.followers.len()
    }

    /// The first place at or after `next`. Most callers ask for the newest place, which needs no search.
    pub(super) fn first_from(&self, next: Sequence) -> Option<Sequence> {
        let mut newest = self.places.iter().rev().copied().take_while(|&place| place >= next);
        match (newest.next(), newest.next()) {
            (_, Some(_)) => {}
            (newest, None) => return newest,
        }
        self.places.get(self.places.partition_point(|&place| place < next)).copied()
    }
}

/// The backlogs of all consumers that have events in the log, or followers.
#[derive(Debug, Default)]
pub(super) struct Backlogs {
    each: HashMap<ConsumerId, Backlog>,
    /// The waiters to notify of new events. A waiter that follows several consumers with new events is
    /// here once for each of them.
    to_notify: Vec<Arc<Waiter>>,
    /// How often `to_notify` was taken.
    round: u64,
}

impl Backlogs {
    pub(super) fn get(&self, consumer: &ConsumerId) -> Option<&Backlog> {
        self.each.get(consumer)
    }

    pub(super) fn get_mut(&mut self, consumer: &ConsumerId) -> Option<&mut Backlog> {
        self.each.get_mut(consumer)
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut Backlog> {
        self.each.values_mut()
    }

    pub(super) fn each(&self) -> impl Iterator<Item = (&ConsumerId, &Backlog)> {
        self.each.iter()
    }

    /// The backlog of this consumer. A new backlog starts with the claim that holds for `everybody`.
    pub(super) fn of(&mut self, consumer: &ConsumerId, everybody: &Claim) -> &mut Backlog {
        of(&mut self.each, consumer, everybody)
    }

    /// Like [`of`](Self::of), and adds the consumer's followers to those to notify.
    pub(super) fn with_new_event(
        &mut self,
        consumer: &ConsumerId,
        everybody: &Claim,
    ) -> &mut Backlog {
        let backlog = of(&mut self.each, consumer, everybody);
        if backlog.notified_in.replace(self.round) != Some(self.round) {
            self.to_notify.extend(backlog.followers.iter().map(|(_, waiter)| Arc::clone(waiter)));
        }
        backlog
    }

    /// Takes the waiters to notify that were added since the last call.
    pub(super) fn take_to_notify(&mut self) -> Vec<Arc<Waiter>> {
        self.round += 1;
        mem::take(&mut self.to_notify)
    }

    /// Adds a follower of this consumer. Returns the key to [`unregister`](Self::unregister) it with.
    pub(super) fn register(
        &mut self,
        consumer: &ConsumerId,
        waiter: &Arc<Waiter>,
        everybody: &Claim,
    ) -> usize {
        self.of(consumer, everybody).followers.insert(Arc::clone(waiter))
    }

    /// Removes the follower with this key.
    pub(super) fn unregister(&mut self, consumer: &ConsumerId, key: usize) {
        if let Some(backlog) = self.each.get_mut(consumer) {
            backlog.followers.try_remove(key);
        }
        self.remove_if_idle(consumer);
    }

    /// The followers of all consumers.
    pub(super) fn all_followers(&self) -> impl Iterator<Item = &Arc<Waiter>> {
        self.each.values().flat_map(|backlog| backlog.followers.iter()).map(|(_, it)| it)
    }

    /// Removes the backlog of a consumer that has neither events nor followers.
    pub(super) fn remove_if_idle(&mut self, consumer: &ConsumerId) {
        let idle = |backlog: &Backlog| backlog.followers.is_empty() && backlog.places.is_empty();
        if self.each.get(consumer).is_some_and(idle) {
            self.each.remove(consumer);
        }
    }

    /// Removes the backlogs that have no follower.
    pub(super) fn retain_followed(&mut self) {
        self.each.retain(|_, backlog| !backlog.followers.is_empty());
    }
}

fn of<'a>(
    each: &'a mut HashMap<ConsumerId, Backlog>,
    consumer: &ConsumerId,
    everybody: &Claim,
) -> &'a mut Backlog {
    each.entry(consumer.clone()).or_insert_with(|| Backlog {
        consumer: consumer.clone(),
        places: VecDeque::new(),
        claim: everybody.clone(),
        followers: Slab::new(),
        notified_in: None,
    })
}

//! What is known of each consumer: where its events are in the log, and who follows it.

use std::{
    collections::{HashMap, VecDeque},
    mem,
    sync::Arc,
};

use slab::Slab;

use super::{claim::Claim, entry::Sequence};
use crate::{consumer::ConsumerId, read::waiter::Waiter};

/// What is kept for one consumer.
#[derive(Debug)]
pub(super) struct Backlog {
    /// Whose it is: as its entries say it, so that a name is kept once.
    pub(super) consumer: ConsumerId,
    /// Where its entries are in the log. A queue of entries for each consumer would have room for
    /// many that never come: a third of all memory, of which nobody keeps count.
    pub(super) places: VecDeque<Sequence>,
    /// What is true of this consumer's events.
    pub(super) claim: Claim,
    /// Those who follow; as long as there is one, the backlog stays.
    followers: Slab<Arc<Waiter>>,
    /// In this round they were put among those to be told.
    notified_in: Option<u64>,
}

impl Backlog {
    /// How many follow.
    pub(super) fn followers(&self) -> usize {
        self.followers.len()
    }

    /// The first place that is not before `next`. Most ask for the newest, and do not have to search.
    pub(super) fn first_from(&self, next: Sequence) -> Option<Sequence> {
        let mut newest = self.places.iter().rev().copied().take_while(|&place| place >= next);
        match (newest.next(), newest.next()) {
            (_, Some(_)) => {}
            (newest, None) => return newest,
        }
        self.places.get(self.places.partition_point(|&place| place < next)).copied()
    }
}

/// The backlogs of all consumers who have events in the log, or followers.
#[derive(Debug, Default)]
pub(super) struct Backlogs {
    each: HashMap<ConsumerId, Backlog>,
    /// Those who are to be told of something new, each once for a consumer.
    to_notify: Vec<Arc<Waiter>>,
    /// Counts up whenever these are taken.
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

    /// The backlog of this consumer. A new one claims what is claimed for `everybody`.
    pub(super) fn of(&mut self, consumer: &ConsumerId, everybody: &Claim) -> &mut Backlog {
        of(&mut self.each, consumer, everybody)
    }

    /// The same; those who follow it are to be told.
    pub(super) fn with_news(&mut self, consumer: &ConsumerId, everybody: &Claim) -> &mut Backlog {
        let backlog = of(&mut self.each, consumer, everybody);
        if backlog.notified_in.replace(self.round) != Some(self.round) {
            self.to_notify.extend(backlog.followers.iter().map(|(_, waiter)| Arc::clone(waiter)));
        }
        backlog
    }

    /// Takes those who are to be told, since they were taken last.
    pub(super) fn take_to_notify(&mut self) -> Vec<Arc<Waiter>> {
        self.round += 1;
        mem::take(&mut self.to_notify)
    }

    /// Somebody follows this consumer; answers the key.
    pub(super) fn register(
        &mut self,
        consumer: &ConsumerId,
        waiter: &Arc<Waiter>,
        everybody: &Claim,
    ) -> usize {
        self.of(consumer, everybody).followers.insert(Arc::clone(waiter))
    }

    /// Somebody leaves this key.
    pub(super) fn unregister(&mut self, consumer: &ConsumerId, key: usize) {
        if let Some(backlog) = self.each.get_mut(consumer) {
            backlog.followers.try_remove(key);
        }
        self.remove_if_idle(consumer);
    }

    /// Those who follow, of whatever consumers.
    pub(super) fn all_followers(&self) -> impl Iterator<Item = &Arc<Waiter>> {
        self.each.values().flat_map(|backlog| backlog.followers.iter()).map(|(_, it)| it)
    }

    /// Of a consumer without events and followers nothing is kept.
    pub(super) fn remove_if_idle(&mut self, consumer: &ConsumerId) {
        let idle = |backlog: &Backlog| backlog.followers.is_empty() && backlog.places.is_empty();
        if self.each.get(consumer).is_some_and(idle) {
            self.each.remove(consumer);
        }
    }

    /// Keeps only those that somebody follows.
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

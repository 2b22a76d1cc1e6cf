//! The invariants of the recent events. They hold before and after each call of a method.

use super::{
    backlog::Backlog,
    claim::Claim,
    entry::{Entry, Sequence},
    memory::Recent,
};
use crate::{consumer::ConsumerId, event::EventId};

impl Recent {
    /// With debug assertions, a log of up to this many entries is checked after each change.
    const MAX_CHECKED_ENTRIES: usize = 64;

    /// Calls [`check`](Self::check) if debug assertions are on and the log is short.
    pub(super) fn check_if_cheap(&self) {
        if cfg!(debug_assertions) && self.log.len() <= Self::MAX_CHECKED_ENTRIES {
            self.check();
        }
    }

    /// Asserts that the log, the backlogs and the claims agree with each other.
    ///
    /// # Panics
    /// Panics if they do not.
    pub fn check(&self) {
        self.check_claim(&self.claim);
        assert!(self.claim.from() >= self.begin, "an evicted place is claimed");
        if self.warming_up {
            assert_eq!(
                self.claim.from(),
                self.begin,
                "loaded history must end where the claim begins"
            );
        }
        self.check_log();
        let backlogs = self.backlogs.each().map(|(consumer, backlog)| {
            self.check_backlog(consumer, backlog);
            backlog.places.len()
        });
        let known: usize = backlogs.sum();
        assert_eq!(known, self.log.iter().flatten().count(), "each entry must be in a backlog");
    }

    fn check_log(&self) {
        let (mut head, mut bytes) = (EventId::ZERO, 0);
        for (place, slot) in (self.begin..).zip(&self.log) {
            bytes += Self::OVERHEAD;
            let Some(entry) = slot else {
                assert!(place < self.claim.from(), "a missing entry is claimed");
                continue;
            };
            bytes += entry.frame.len();
            assert_eq!(entry.sequence, place);
            assert!(entry.position.head >= head, "the reader went back");
            head = entry.position.head;
        }
        assert_eq!(bytes, self.bytes);
        assert!(self.position.head >= head, "the reader is behind what it delivered");
    }

    fn check_backlog(&self, consumer: &ConsumerId, backlog: &Backlog) {
        self.check_claim(&backlog.claim);
        assert!(backlog.places.iter().is_sorted());
        let first = backlog.places.front().copied().unwrap_or(Sequence::MAX);
        assert!(first >= backlog.claim.from(), "an entry is before the claim of its backlog");
        for &place in &backlog.places {
            let entry = self.entry(place).expect("a place in a backlog has an entry");
            assert_eq!(&entry.consumer, consumer);
        }
    }

    fn check_claim(&self, claim: &Claim) {
        assert!(claim.from() <= self.end(), "a claim begins after the end of the log");
        assert!(claim.after().head <= self.position.head);
        let behind = self.entries_from(claim.from());
        let early = behind.into_iter().find(|entry| entry.position.head < claim.after().head);
        assert!(early.is_none(), "{early:?} was delivered before what it should follow");
    }

    fn entries_from(&self, place: Sequence) -> Vec<&Entry> {
        (place.max(self.begin)..self.end()).filter_map(|place| self.entry(place)).collect()
    }
}

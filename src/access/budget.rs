//! Bytes that callers share: so many in all, and so many for each principal.

use std::{
    collections::HashMap,
    sync::{Arc, MutexGuard},
};

use crate::crash::Lock;

use prometheus_client::metrics::gauge::Gauge;

use super::principal::{Kind, Principal};

/// See the module.
#[derive(Debug)]
pub struct Budget {
    most_bytes: usize,
    most_bytes_each: usize,
    used: Lock<Used>,
    gauge: Gauge,
}

#[derive(Debug, Default)]
struct Used {
    all: usize,
    each: HashMap<Arc<str>, usize>,
}

/// Which limit leaves no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exhausted {
    /// All callers together have too much.
    InAll,
    /// This principal has too much, and others still find room.
    ByPrincipal,
}

/// What one request takes of a [`Budget`], until it is dropped.
#[derive(Debug)]
pub struct Share {
    budget: Arc<Budget>,
    /// None: it counts in all only.
    who: Option<Arc<str>>,
    bytes: usize,
}

impl Budget {
    /// So many bytes in all and for each principal, shown by this gauge.
    #[must_use]
    pub fn new(most_bytes: usize, most_bytes_each: usize, gauge: Gauge) -> Arc<Self> {
        Arc::new(Self { most_bytes, most_bytes_each, used: Lock::default(), gauge })
    }

    /// Nothing yet, for a request of this principal's. In the open mode there is but one, which may
    /// have everything.
    #[must_use]
    pub fn share(self: &Arc<Self>, who: &Principal) -> Share {
        let who = (*who.kind() != Kind::Anybody).then(|| Arc::clone(who.name()));
        Share { budget: Arc::clone(self), who, bytes: 0 }
    }

    /// The limit in all, and for each principal.
    #[must_use]
    pub fn limits(&self) -> (usize, usize) {
        (self.most_bytes, self.most_bytes_each)
    }

    fn used(&self) -> MutexGuard<'_, Used> {
        self.used.lock()
    }
}

impl Share {
    /// Takes so many bytes more, or none. What is larger than all the room there is may have all of
    /// it, when nobody else has any.
    pub fn grow(&mut self, bytes: usize) -> Result<(), Exhausted> {
        let budget = Arc::clone(&self.budget);
        let mut used = budget.used();
        if used.all > self.bytes && used.all.saturating_add(bytes) > budget.most_bytes {
            return Err(Exhausted::InAll);
        }
        if let Some(who) = &self.who {
            let its = used.each.get(who).copied().unwrap_or_default();
            if its > self.bytes && its.saturating_add(bytes) > budget.most_bytes_each {
                return Err(Exhausted::ByPrincipal);
            }
        }
        self.put(&mut used, self.bytes.saturating_add(bytes));
        Ok(())
    }

    /// Takes exactly so many bytes from now on, of which it is known that they are there: where
    /// these are more than before, the limits are passed rather than the bytes not counted.
    pub fn settle(&mut self, bytes: usize) {
        let budget = Arc::clone(&self.budget);
        self.put(&mut budget.used(), bytes);
    }

    /// How many bytes it has.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn put(&mut self, used: &mut Used, bytes: usize) {
        used.all = used.all - self.bytes + bytes;
        if let Some(who) = &self.who {
            let its = used.each.entry(Arc::clone(who)).or_default();
            *its = *its - self.bytes + bytes;
            if *its == 0 {
                used.each.remove(who);
            }
        }
        self.bytes = bytes;
        self.budget.gauge.set(i64::try_from(used.all).unwrap_or(i64::MAX));
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.settle(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::rights::Rights;

    fn principal(name: &str) -> Principal {
        Principal::new(name, Kind::Header, None, Rights::default(), None)
    }

    fn budget() -> Arc<Budget> {
        Budget::new(100, 60, Gauge::default())
    }

    #[test]
    fn one_principal_leaves_room_for_another() {
        let budget = budget();
        let (bad, good) = (principal("bad"), principal("good"));
        let mut shares = [budget.share(&bad), budget.share(&bad)];
        assert_eq!(shares[0].grow(50), Ok(()));
        assert_eq!(shares[1].grow(11), Err(Exhausted::ByPrincipal));
        let mut its = budget.share(&good);
        assert_eq!(its.grow(50), Ok(()));
        assert_eq!(shares[1].grow(1), Err(Exhausted::InAll));
        assert_eq!(budget.gauge.get(), 100);
        drop(its);
        assert_eq!(shares[1].grow(10), Ok(()));
    }

    #[test]
    fn what_was_taken_comes_back_to_the_byte() {
        let budget = budget();
        let mut share = budget.share(&principal("a"));
        share.grow(40).unwrap();
        share.settle(10);
        assert_eq!((share.bytes(), budget.gauge.get()), (10, 10));
        share.settle(90);
        assert_eq!(budget.share(&principal("a")).grow(1), Err(Exhausted::ByPrincipal));
        drop(share);
        assert_eq!(budget.gauge.get(), 0);
        assert!(budget.used().each.is_empty());
    }

    #[test]
    fn what_is_larger_than_all_room_may_have_all_of_it_and_in_the_open_mode_one_may() {
        let budget = budget();
        let mut large = budget.share(&principal("a"));
        assert_eq!(large.grow(1000), Ok(()));
        assert_eq!(budget.share(&principal("b")).grow(1), Err(Exhausted::InAll));
        drop(large);
        let mut shares = [budget.share(&Principal::anybody()), budget.share(&Principal::anybody())];
        assert_eq!([shares[0].grow(70), shares[1].grow(30)], [Ok(()), Ok(())]);
        assert_eq!(shares[1].grow(1), Err(Exhausted::InAll));
    }
}

//! Bytes that callers share: so many in all, and so many for each principal. What can be refused is,
//! where there is no room. What cannot waits for room, principals in rotation: up to half of each limit,
//! so that the other half is there for what would be refused.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, MutexGuard},
};

use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::oneshot;

use super::principal::{Kind, Principal};
use crate::crash::Lock;

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
    each: HashMap<Arc<str>, Its>,
    /// Principals that wait and have room of their own, the one that got none for longest first.
    rotation: VecDeque<Arc<str>>,
}

/// What one principal has, and waits for.
#[derive(Debug, Default)]
struct Its {
    bytes: usize,
    waiting: VecDeque<Wait>,
    in_rotation: bool,
}

#[derive(Debug)]
struct Wait {
    bytes: usize,
    most_bytes_each: usize,
    give: oneshot::Sender<()>,
}

/// Which limit leaves no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exhausted {
    /// All callers together have too much.
    InAll,
    /// This principal has too much, and others still find room.
    ByPrincipal,
}

/// Where it is counted what is done for one principal.
#[derive(Clone, Debug)]
pub struct Account {
    budget: Arc<Budget>,
    who: Arc<str>,
    most_bytes_each: usize,
}

/// What one request takes of a [`Budget`], until it is dropped.
#[derive(Debug)]
pub struct Share {
    account: Account,
    bytes: usize,
}

impl Budget {
    /// So many bytes in all and for each principal, shown by this gauge.
    #[must_use]
    pub fn new(most_bytes: usize, most_bytes_each: usize, gauge: Gauge) -> Arc<Self> {
        Arc::new(Self { most_bytes, most_bytes_each, used: Lock::default(), gauge })
    }

    /// Where this principal's bytes are counted. In the open mode there is but one, which may have
    /// everything.
    #[must_use]
    pub fn account(self: &Arc<Self>, who: &Principal) -> Account {
        let is_anybody = *who.kind() == Kind::Anybody;
        Account {
            budget: Arc::clone(self),
            who: Arc::clone(who.name()),
            most_bytes_each: if is_anybody { usize::MAX } else { self.most_bytes_each },
        }
    }

    /// Nothing yet, for a request of this principal's.
    #[must_use]
    pub fn share(self: &Arc<Self>, who: &Principal) -> Share {
        self.account(who).share()
    }

    /// The limit in all, and for each principal.
    #[must_use]
    pub fn limits(&self) -> (usize, usize) {
        (self.most_bytes, self.most_bytes_each)
    }

    fn used(&self) -> MutexGuard<'_, Used> {
        self.used.lock()
    }

    fn show(&self, used: &Used) {
        self.gauge.set(i64::try_from(used.all).unwrap_or(i64::MAX));
    }
}

impl Account {
    /// Nothing yet.
    #[must_use]
    pub fn share(&self) -> Share {
        Share { account: self.clone(), bytes: 0 }
    }

    /// Waits for room for so many bytes, behind those of the same principal that wait already.
    ///
    /// # Cancel safety
    /// Who leaves gives back the room that it was given meanwhile.
    pub async fn room(&self, bytes: usize) -> Share {
        let Some(given) = self.ask(bytes) else { return Share { account: self.clone(), bytes } };
        let mut ask = Ask { account: self.clone(), bytes, given };
        // The sender is dropped only when it has given the room, or with the budget.
        let _ = (&mut ask.given).await;
        ask.taken()
    }

    /// Takes the room, or answers what to wait for.
    fn ask(&self, bytes: usize) -> Option<oneshot::Receiver<()>> {
        let (budget, most_bytes_each) = (&*self.budget, self.most_bytes_each / 2);
        let mut used = budget.used();
        let waits = used.each.get(&self.who).is_some_and(|its| !its.waiting.is_empty());
        if !waits
            && used.has_room(&self.who, 0, bytes, (budget.most_bytes / 2, most_bytes_each)).is_ok()
        {
            used.put(&self.who, 0, bytes);
            budget.show(&used);
            return None;
        }
        let (give, given) = oneshot::channel();
        let its = used.each.entry(Arc::clone(&self.who)).or_default();
        its.waiting.push_back(Wait { bytes, most_bytes_each, give });
        used.rotate(&self.who);
        Some(given)
    }
}

impl Used {
    /// Whether somebody who has `had` may have so many bytes more. What is larger than all the room there
    /// is may have all of it, when nobody else has any.
    fn has_room(
        &self,
        who: &Arc<str>,
        had: usize,
        bytes: usize,
        (most_bytes, most_bytes_each): (usize, usize),
    ) -> Result<(), Exhausted> {
        if self.all > had && self.all.saturating_add(bytes) > most_bytes {
            return Err(Exhausted::InAll);
        }
        let its = self.each.get(who).map_or(0, |its| its.bytes);
        if its > had && its.saturating_add(bytes) > most_bytes_each {
            return Err(Exhausted::ByPrincipal);
        }
        Ok(())
    }

    /// Somebody has so many bytes, who `had` others.
    fn put(&mut self, who: &Arc<str>, had: usize, bytes: usize) {
        self.all = self.all - had + bytes;
        let its = self.each.entry(Arc::clone(who)).or_default();
        its.bytes = its.bytes - had + bytes;
        self.forget(who);
    }

    /// Puts a principal that waits into the rotation: it may have room of its own.
    fn rotate(&mut self, who: &Arc<str>) {
        let Some(its) = self.each.get_mut(who) else { return };
        if !its.in_rotation && !its.waiting.is_empty() {
            its.in_rotation = true;
            self.rotation.push_back(Arc::clone(who));
        }
    }

    /// Gives what is free to those whose turn it is. Who has no room of its own left comes back into the
    /// rotation when it gives some back.
    fn give(&mut self, most_bytes: usize) {
        while let Some(who) = self.rotation.pop_front() {
            let Some(its) = self.each.get_mut(&who) else { continue };
            its.in_rotation = false;
            // Who has left is passed over.
            while its.waiting.pop_front_if(|wait| wait.give.is_closed()).is_some() {}
            let asked = its.waiting.front().map(|wait| (wait.bytes, wait.most_bytes_each));
            if let Some((bytes, most_each)) = asked {
                match self.has_room(&who, 0, bytes, (most_bytes, most_each)) {
                    Ok(()) => self.give_first(&who, bytes),
                    Err(Exhausted::ByPrincipal) => {}
                    Err(Exhausted::InAll) => {
                        if let Some(its) = self.each.get_mut(&who) {
                            its.in_rotation = true;
                        }
                        return self.rotation.push_front(who);
                    }
                }
            }
            self.forget(&who);
        }
    }

    fn give_first(&mut self, who: &Arc<str>, bytes: usize) {
        let first = self.each.get_mut(who).and_then(|its| its.waiting.pop_front());
        if first.is_some_and(|wait| wait.give.send(()).is_ok()) {
            self.put(who, 0, bytes);
        }
        self.rotate(who);
    }

    /// Forgets a principal that has nothing and waits for nothing.
    fn forget(&mut self, who: &Arc<str>) {
        let idle = |its: &Its| its.bytes == 0 && its.waiting.is_empty() && !its.in_rotation;
        if self.each.get(who).is_some_and(idle) {
            self.each.remove(who);
        }
    }
}

impl Share {
    /// Takes so many bytes more, or none.
    pub fn grow(&mut self, bytes: usize) -> Result<(), Exhausted> {
        let Account { budget, who, most_bytes_each } = &self.account;
        let mut used = budget.used();
        used.has_room(who, self.bytes, bytes, (budget.most_bytes, *most_bytes_each))?;
        let grown = self.bytes.saturating_add(bytes);
        used.put(who, self.bytes, grown);
        budget.show(&used);
        self.bytes = grown;
        Ok(())
    }

    /// Takes exactly so many bytes from now on, of which it is known that they are there: where
    /// these are more than before, the limits are passed rather than the bytes not counted.
    pub fn settle(&mut self, bytes: usize) {
        let Account { budget, who, .. } = &self.account;
        let mut used = budget.used();
        used.put(who, self.bytes, bytes);
        if bytes < self.bytes {
            used.rotate(who);
            used.give(budget.most_bytes / 2);
        }
        budget.show(&used);
        self.bytes = bytes;
    }

    /// How many bytes it has.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.settle(0);
    }
}

/// Somebody who waits.
struct Ask {
    account: Account,
    bytes: usize,
    given: oneshot::Receiver<()>,
}

impl Ask {
    fn taken(self) -> Share {
        let share = Share { account: self.account.clone(), bytes: self.bytes };
        drop(self);
        share
    }
}

impl Drop for Ask {
    fn drop(&mut self) {
        self.given.close();
        if self.given.try_recv().is_ok() {
            // It was given between the last look and now.
            drop(Share { account: self.account.clone(), bytes: self.bytes });
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt, future::BoxFuture};

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

    fn wait(account: &Account, bytes: usize) -> BoxFuture<'static, Share> {
        let account = account.clone();
        let mut waiting = async move { account.room(bytes).await }.boxed();
        assert!((&mut waiting).now_or_never().is_none(), "it waits");
        waiting
    }

    fn now(waiting: impl Future<Output = Share>) -> Option<Share> {
        waiting.now_or_never()
    }

    /// What waits has half of it.
    fn twice_the_budget() -> Arc<Budget> {
        Budget::new(200, 120, Gauge::default())
    }

    #[test]
    fn who_waits_is_given_room_in_its_turn_and_its_principal_in_rotation() {
        let budget = twice_the_budget();
        let [bad, good] = ["bad", "good"].map(|name| budget.account(&principal(name)));
        let held = [bad.room(40), bad.room(20), good.room(40)].map(|it| now(it).unwrap());
        let [large, small, its] = held;
        let (first, second) = (wait(&bad, 30), wait(&bad, 1));
        let other = wait(&good, 20);
        drop(its);
        let other = now(other).expect("there is room in all, and the good one has room of its own");
        drop(small);
        assert_eq!(budget.gauge.get(), 60, "the first of the bad one's does not fit yet");
        drop(large);
        assert_eq!(budget.gauge.get(), 51);
        assert_eq!([first, second].map(|it| now(it).unwrap().bytes()), [30, 1]);
        drop(other);
        assert_eq!(budget.gauge.get(), 0);
        assert!(budget.used().each.is_empty() && budget.used().rotation.is_empty());
    }

    #[test]
    fn who_leaves_gives_its_room_to_the_next_one() {
        let budget = twice_the_budget();
        let who = budget.account(&principal("a"));
        let held = now(who.room(60)).unwrap();
        let (gone, given, last) = (wait(&who, 50), wait(&who, 50), wait(&who, 50));
        drop(gone);
        drop(held);
        assert_eq!(budget.gauge.get(), 50, "the second has it, and has not looked yet");
        drop(given);
        assert_eq!(now(last).unwrap().bytes(), 50);
        assert!(budget.used().each.is_empty());
    }

    #[test]
    fn what_waits_leaves_room_for_what_would_be_refused() {
        let budget = twice_the_budget();
        let who = budget.account(&principal("a"));
        let held = now(who.room(60)).unwrap();
        let waiting = wait(&who, 1);
        let mut answer = who.share();
        assert_eq!([answer.grow(60), answer.grow(1)], [Ok(()), Err(Exhausted::ByPrincipal)]);
        drop(held);
        assert!(now(waiting).is_none(), "the answer has more than half");
        assert_eq!(budget.gauge.get(), 60);
    }

    #[test]
    fn what_is_larger_than_all_room_waits_until_nobody_has_any() {
        let budget = twice_the_budget();
        let [a, b] = ["a", "b"].map(|name| budget.account(&principal(name)));
        let held = now(a.room(1)).unwrap();
        let large = wait(&b, 1000);
        drop(held);
        assert_eq!(now(large).unwrap().bytes(), 1000);
    }
}

//! A budget of bytes that principals share: a limit in all, and a limit per principal.
//!
//! A request that can be refused takes bytes with [`Share::grow`], and is refused when none are left.
//! Work that cannot be refused waits for bytes with [`Account::room`]. Waiting principals are served in
//! rotation, and together get at most half of each limit, so that the other half is left for requests
//! that would be refused.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, MutexGuard},
};

use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::oneshot;

use super::principal::{Kind, Principal};
use crate::crash::Lock;

/// Bytes in use, in all and per principal, and their limits.
#[derive(Debug)]
pub struct Budget {
    max_bytes: usize,
    max_bytes_each: usize,
    used: Lock<Used>,
    gauge: Gauge,
}

#[derive(Debug, Default)]
struct Used {
    all: usize,
    each: HashMap<Arc<str>, PrincipalUse>,
    /// Principals that wait and may be below their own limit. The one that has waited longest is first.
    rotation: VecDeque<Arc<str>>,
}

/// The bytes of one principal, and its waiting work.
#[derive(Debug, Default)]
struct PrincipalUse {
    bytes: usize,
    waiting: VecDeque<Wait>,
    in_rotation: bool,
}

#[derive(Debug)]
struct Wait {
    bytes: usize,
    max_bytes_each: usize,
    grant: oneshot::Sender<()>,
}

/// The limit that is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exhausted {
    /// The limit of all principals together.
    InAll,
    /// The limit of this principal. Others may still take bytes.
    ByPrincipal,
}

/// The part of a [`Budget`] that one principal uses.
#[derive(Clone, Debug)]
pub struct Account {
    budget: Arc<Budget>,
    who: Arc<str>,
    max_bytes_each: usize,
}

/// Bytes of a [`Budget`] that one request holds. Dropping it returns them.
#[derive(Debug)]
pub struct Share {
    account: Account,
    bytes: usize,
}

impl Budget {
    /// A budget with a limit in all and a limit per principal. The gauge shows the bytes in use.
    #[must_use]
    pub fn new(max_bytes: usize, max_bytes_each: usize, gauge: Gauge) -> Arc<Self> {
        Arc::new(Self { max_bytes, max_bytes_each, used: Lock::default(), gauge })
    }

    /// The account of a principal. In the open mode there is only one, and only the limit in all applies.
    #[must_use]
    pub fn account(self: &Arc<Self>, who: &Principal) -> Account {
        let is_open = *who.kind() == Kind::Open;
        Account {
            budget: Arc::clone(self),
            who: Arc::clone(who.name()),
            max_bytes_each: if is_open { usize::MAX } else { self.max_bytes_each },
        }
    }

    /// An empty share for a request of this principal.
    #[must_use]
    pub fn share(self: &Arc<Self>, who: &Principal) -> Share {
        self.account(who).share()
    }

    /// The limit in all, and the limit per principal, in bytes.
    #[must_use]
    pub fn limits(&self) -> (usize, usize) {
        (self.max_bytes, self.max_bytes_each)
    }

    fn used(&self) -> MutexGuard<'_, Used> {
        self.used.lock()
    }

    fn update_gauge(&self, used: &Used) {
        self.gauge.set(i64::try_from(used.all).unwrap_or(i64::MAX));
    }
}

impl Account {
    /// An empty share.
    #[must_use]
    pub fn share(&self) -> Share {
        Share { account: self.clone(), bytes: 0 }
    }

    /// Waits until this many bytes can be taken. Work of the same principal is served in order.
    ///
    /// # Cancel safety
    /// Bytes that were granted to a dropped future are returned.
    pub async fn room(&self, bytes: usize) -> Share {
        let Some(granted) = self.ask(bytes) else { return Share { account: self.clone(), bytes } };
        let mut pending = PendingShare { account: self.clone(), bytes, granted };
        // The sender is dropped only after it has granted the bytes, or with the budget.
        let _ = (&mut pending.granted).await;
        pending.into_share()
    }

    /// Takes the bytes, or returns what to wait for.
    fn ask(&self, bytes: usize) -> Option<oneshot::Receiver<()>> {
        let (budget, max_bytes_each) = (&*self.budget, self.max_bytes_each / 2);
        let mut used = budget.used();
        let waits = used.each.get(&self.who).is_some_and(|its| !its.waiting.is_empty());
        if !waits && used.check(&self.who, 0, bytes, (budget.max_bytes / 2, max_bytes_each)).is_ok()
        {
            used.set(&self.who, 0, bytes);
            budget.update_gauge(&used);
            return None;
        }
        let (grant, granted) = oneshot::channel();
        let its = used.each.entry(Arc::clone(&self.who)).or_default();
        its.waiting.push_back(Wait { bytes, max_bytes_each, grant });
        used.rotate(&self.who);
        Some(granted)
    }
}

impl Used {
    /// Whether a request that holds `had` bytes may take more. A request that is larger than a limit is
    /// admitted when no other bytes count against that limit.
    fn check(
        &self,
        who: &Arc<str>,
        had: usize,
        bytes: usize,
        (max_bytes, max_bytes_each): (usize, usize),
    ) -> Result<(), Exhausted> {
        if self.all > had && self.all.saturating_add(bytes) > max_bytes {
            return Err(Exhausted::InAll);
        }
        let its = self.each.get(who).map_or(0, |its| its.bytes);
        if its > had && its.saturating_add(bytes) > max_bytes_each {
            return Err(Exhausted::ByPrincipal);
        }
        Ok(())
    }

    /// Notes that a request holds `bytes` in place of the `had` bytes before.
    fn set(&mut self, who: &Arc<str>, had: usize, bytes: usize) {
        self.all = self.all - had + bytes;
        let its = self.each.entry(Arc::clone(who)).or_default();
        its.bytes = its.bytes - had + bytes;
        self.remove_idle(who);
    }

    /// Adds a waiting principal to the rotation, since it may be below its own limit again.
    fn rotate(&mut self, who: &Arc<str>) {
        let Some(its) = self.each.get_mut(who) else { return };
        if !its.in_rotation && !its.waiting.is_empty() {
            its.in_rotation = true;
            self.rotation.push_back(Arc::clone(who));
        }
    }

    /// Grants free bytes to waiting principals in turn. A principal at its own limit leaves the rotation
    /// until it returns bytes.
    fn grant(&mut self, max_bytes: usize) {
        while let Some(who) = self.rotation.pop_front() {
            let Some(its) = self.each.get_mut(&who) else { continue };
            its.in_rotation = false;
            // Dropped futures are skipped.
            while its.waiting.pop_front_if(|wait| wait.grant.is_closed()).is_some() {}
            let asked = its.waiting.front().map(|wait| (wait.bytes, wait.max_bytes_each));
            if let Some((bytes, max_each)) = asked {
                match self.check(&who, 0, bytes, (max_bytes, max_each)) {
                    Ok(()) => self.grant_first(&who, bytes),
                    Err(Exhausted::ByPrincipal) => {}
                    Err(Exhausted::InAll) => {
                        if let Some(its) = self.each.get_mut(&who) {
                            its.in_rotation = true;
                        }
                        return self.rotation.push_front(who);
                    }
                }
            }
            self.remove_idle(&who);
        }
    }

    fn grant_first(&mut self, who: &Arc<str>, bytes: usize) {
        let first = self.each.get_mut(who).and_then(|its| its.waiting.pop_front());
        if first.is_some_and(|wait| wait.grant.send(()).is_ok()) {
            self.set(who, 0, bytes);
        }
        self.rotate(who);
    }

    /// Removes a principal that holds no bytes and does not wait.
    fn remove_idle(&mut self, who: &Arc<str>) {
        let idle =
            |its: &PrincipalUse| its.bytes == 0 && its.waiting.is_empty() && !its.in_rotation;
        if self.each.get(who).is_some_and(idle) {
            self.each.remove(who);
        }
    }
}

impl Share {
    /// Takes more bytes, or none if a limit is reached.
    pub fn grow(&mut self, bytes: usize) -> Result<(), Exhausted> {
        let Account { budget, who, max_bytes_each } = &self.account;
        let mut used = budget.used();
        used.check(who, self.bytes, bytes, (budget.max_bytes, *max_bytes_each))?;
        let grown = self.bytes.saturating_add(bytes);
        used.set(who, self.bytes, grown);
        budget.update_gauge(&used);
        self.bytes = grown;
        Ok(())
    }

    /// Sets the bytes that the request holds to what it really uses. More bytes than before are
    /// counted even beyond the limits, because they are already in memory.
    pub fn settle(&mut self, bytes: usize) {
        let Account { budget, who, .. } = &self.account;
        let mut used = budget.used();
        used.set(who, self.bytes, bytes);
        if bytes < self.bytes {
            used.rotate(who);
            used.grant(budget.max_bytes / 2);
        }
        budget.update_gauge(&used);
        self.bytes = bytes;
    }

    /// The bytes that it holds.
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

/// Waits for bytes to be granted.
struct PendingShare {
    account: Account,
    bytes: usize,
    granted: oneshot::Receiver<()>,
}

impl PendingShare {
    fn into_share(self) -> Share {
        let share = Share { account: self.account.clone(), bytes: self.bytes };
        drop(self);
        share
    }
}

impl Drop for PendingShare {
    fn drop(&mut self) {
        self.granted.close();
        if self.granted.try_recv().is_ok() {
            // The bytes were granted after the last poll: return them.
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
    fn a_dropped_share_returns_every_byte() {
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
    fn a_request_larger_than_the_budget_is_admitted_alone() {
        let budget = budget();
        let mut large = budget.share(&principal("a"));
        assert_eq!(large.grow(1000), Ok(()));
        assert_eq!(budget.share(&principal("b")).grow(1), Err(Exhausted::InAll));
        drop(large);
        let mut shares = [budget.share(&Principal::open()), budget.share(&Principal::open())];
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

    /// Waiting work may use half of it.
    fn twice_the_budget() -> Arc<Budget> {
        Budget::new(200, 120, Gauge::default())
    }

    #[test]
    fn waiting_principals_are_served_in_rotation() {
        let budget = twice_the_budget();
        let [bad, good] = ["bad", "good"].map(|name| budget.account(&principal(name)));
        let held = [bad.room(40), bad.room(20), good.room(40)].map(|it| now(it).unwrap());
        let [large, small, its] = held;
        let (first, second) = (wait(&bad, 30), wait(&bad, 1));
        let other = wait(&good, 20);
        drop(its);
        let other =
            now(other).expect("there are bytes in all, and the good one is below its limit");
        drop(small);
        assert_eq!(budget.gauge.get(), 60, "the first request of the bad one does not fit yet");
        drop(large);
        assert_eq!(budget.gauge.get(), 51);
        assert_eq!([first, second].map(|it| now(it).unwrap().bytes()), [30, 1]);
        drop(other);
        assert_eq!(budget.gauge.get(), 0);
        assert!(budget.used().each.is_empty() && budget.used().rotation.is_empty());
    }

    #[test]
    fn a_dropped_future_returns_its_bytes() {
        let budget = twice_the_budget();
        let who = budget.account(&principal("a"));
        let held = now(who.room(60)).unwrap();
        let (gone, granted, last) = (wait(&who, 50), wait(&who, 50), wait(&who, 50));
        drop(gone);
        drop(held);
        assert_eq!(
            budget.gauge.get(),
            50,
            "the bytes are granted to the second, which was not polled yet"
        );
        drop(granted);
        assert_eq!(now(last).unwrap().bytes(), 50);
        assert!(budget.used().each.is_empty());
    }

    #[test]
    fn waiting_work_leaves_half_of_the_budget() {
        let budget = twice_the_budget();
        let who = budget.account(&principal("a"));
        let held = now(who.room(60)).unwrap();
        let waiting = wait(&who, 1);
        let mut response = who.share();
        assert_eq!([response.grow(60), response.grow(1)], [Ok(()), Err(Exhausted::ByPrincipal)]);
        drop(held);
        assert!(now(waiting).is_none(), "the response holds more than half");
        assert_eq!(budget.gauge.get(), 60);
    }

    #[test]
    fn a_share_larger_than_the_budget_waits_until_it_is_free() {
        let budget = twice_the_budget();
        let [a, b] = ["a", "b"].map(|name| budget.account(&principal(name)));
        let held = now(a.room(1)).unwrap();
        let large = wait(&b, 1000);
        drop(held);
        assert_eq!(now(large).unwrap().bytes(), 1000);
    }
}

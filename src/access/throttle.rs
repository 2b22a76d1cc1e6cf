//! How much one principal may ask for, and how often one address may be wrong.

use std::{
    collections::HashMap,
    hash::Hash,
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
    sync::{Arc, MutexGuard},
    time::{Duration, Instant},
};

use crate::crash::Lock;

use governor::{
    DefaultKeyedRateLimiter, NotUntil, Quota, RateLimiter,
    clock::{Clock, DefaultClock, Reference},
};

/// How much one principal may ask for. Nobody is limited in the open mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Streams that are open at once.
    pub streams: usize,
    /// Requests a second; a second's worth may come at once.
    pub requests: NonZeroU32,
    /// Events appended a second; a second's worth may come at once.
    pub appends: NonZeroU32,
    /// Bytes of these a second, as they are kept and sent.
    pub append_bytes: NonZeroU32,
}

impl Default for Limits {
    fn default() -> Self {
        let number = |number| NonZeroU32::new(number).unwrap_or(NonZeroU32::MAX);
        Self {
            streams: 10_000,
            requests: number(1_000),
            appends: number(10_000),
            append_bytes: number(32 << 20),
        }
    }
}

/// After so many bad proofs from one address the next is answered later by ...
const FAILURES: u32 = 20;
/// ... this, and the one after that by twice as much: one is answered in this time.
const PACE: Duration = Duration::from_secs(1);
/// As many answers wait at once; to more bad proofs there is none, but that it is too much.
const WAITING: u32 = 5;
/// As many addresses are known that were wrong lately; beyond that they go free, rather than memory.
const MOST_WRONG: usize = 50_000;
/// Names with a recent request are known up to this number; then those whose
/// allowance is whole again are forgotten at once instead of now and then.
const MOST_KNOWN: usize = 200_000;

/// See the module. Everything in it is forgotten when it has been quiet for a while.
#[derive(Debug)]
pub(super) struct Throttle {
    requests: Keyed<Arc<str>>,
    appends: Keyed<Arc<str>>,
    append_bytes: Keyed<Arc<str>>,
    limits: Limits,
    /// When all bad proofs of an address are paid for, one in each [`PACE`].
    wrong: Lock<HashMap<IpAddr, Instant>>,
    streams: Arc<Streams>,
    clock: DefaultClock,
}

type Keyed<K> = DefaultKeyedRateLimiter<K>;

/// Come back after this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryAfter(pub Duration);

impl Throttle {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            requests: RateLimiter::keyed(Quota::per_second(limits.requests)),
            appends: RateLimiter::keyed(Quota::per_second(limits.appends)),
            append_bytes: RateLimiter::keyed(Quota::per_second(limits.append_bytes)),
            limits,
            wrong: Lock::default(),
            streams: Arc::new(Streams { most: limits.streams, open: Lock::default() }),
            clock: DefaultClock::default(),
        }
    }

    /// One more request of this principal's.
    pub(super) fn request(&self, who: &Arc<str>) -> Result<(), RetryAfter> {
        bound(&self.requests);
        self.requests.check_key(who).map_err(|until| self.wait(&until))
    }

    /// So many more events of this principal's. A batch of more than a second's worth takes
    /// the whole second.
    pub(super) fn append(&self, who: &Arc<str>, events: usize) -> Result<(), RetryAfter> {
        self.take(&self.appends, self.limits.appends, who, events)
    }

    /// So many more bytes of them.
    pub(super) fn append_bytes(&self, who: &Arc<str>, bytes: usize) -> Result<(), RetryAfter> {
        self.take(&self.append_bytes, self.limits.append_bytes, who, bytes)
    }

    fn take(
        &self,
        limiter: &Keyed<Arc<str>>,
        most: NonZeroU32,
        who: &Arc<str>,
        amount: usize,
    ) -> Result<(), RetryAfter> {
        let amount = u32::try_from(amount).unwrap_or(u32::MAX);
        let Some(amount) = NonZeroU32::new(amount) else { return Ok(()) };
        bound(limiter);
        match limiter.check_key_n(who, amount.min(most)) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(until)) => Err(self.wait(&until)),
            Err(_) => Err(RetryAfter(Duration::from_secs(1))),
        }
    }

    /// This address has shown a bad proof: how long the answer shall wait, if there is one.
    /// A good proof is never made to wait, so nobody can be shut out by those who share their
    /// address: nothing that is shown here can be found by trying, it is the trying that costs.
    pub(super) fn failed(&self, from: IpAddr) -> Result<Duration, RetryAfter> {
        let (from, now) = (network(from), Instant::now());
        let mut wrong = self.wrong();
        if wrong.len() >= MOST_WRONG {
            wrong.retain(|_, paid| *paid > now);
        }
        if wrong.len() >= MOST_WRONG {
            wrong.clear();
        }
        let paid = wrong.get(&from).map_or(now, |paid| now.max(*paid)) + PACE;
        let wait = paid.saturating_duration_since(now + PACE * FAILURES);
        if wait > PACE * WAITING {
            return Err(RetryAfter(wait));
        }
        wrong.insert(from, paid);
        Ok(wait)
    }

    /// Room for one more stream of this principal's; it is taken for as long as the guard lives.
    pub(super) fn stream(&self, who: &Arc<str>) -> Option<StreamGuard> {
        self.streams.take(who)
    }

    /// Forgets who has been quiet.
    pub(super) fn forget(&self) {
        for limiter in [&self.requests, &self.appends, &self.append_bytes] {
            limiter.retain_recent();
            limiter.shrink_to_fit();
        }
        let now = Instant::now();
        let mut wrong = self.wrong();
        wrong.retain(|_, paid| *paid > now);
        wrong.shrink_to_fit();
    }

    fn wait<P: Reference>(&self, until: &NotUntil<P>) -> RetryAfter
    where
        DefaultClock: Clock<Instant = P>,
    {
        RetryAfter(until.wait_time_from(self.clock.now()))
    }

    fn wrong(&self) -> MutexGuard<'_, HashMap<IpAddr, Instant>> {
        self.wrong.lock()
    }
}

fn bound<K: Hash + Eq + Clone>(limiter: &Keyed<K>) {
    if limiter.len() >= MOST_KNOWN {
        limiter.retain_recent();
    }
}

/// One customer has a whole /64 of IPv6.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)))
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// Who has how many streams open.
#[derive(Debug)]
struct Streams {
    most: usize,
    open: Lock<HashMap<Arc<str>, usize>>,
}

impl Streams {
    fn take(self: &Arc<Self>, who: &Arc<str>) -> Option<StreamGuard> {
        let mut open = self.open.lock();
        let count = open.entry(Arc::clone(who)).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(StreamGuard { streams: Arc::clone(self), who: Arc::clone(who) })
    }
}

/// Room for one stream.
#[derive(Debug)]
pub(super) struct StreamGuard {
    streams: Arc<Streams>,
    who: Arc<str>,
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        let mut open = self.streams.open.lock();
        if let Some(count) = open.get_mut(&self.who) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.who);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limited(streams: usize, requests: u32) -> Throttle {
        let requests = NonZeroU32::new(requests).unwrap();
        Throttle::new(Limits { streams, requests, appends: requests, append_bytes: requests })
    }

    #[test]
    fn one_principal_uses_up_its_own_allowance_and_nobody_elses() {
        let (throttle, [a, b]) = (limited(1, 3), ["a", "b"].map(Arc::from));
        assert!((0..3).all(|_| throttle.request(&a).is_ok()));
        let RetryAfter(wait) = throttle.request(&a).unwrap_err();
        assert!(wait > Duration::ZERO && wait <= Duration::from_secs(1));
        assert!(throttle.request(&b).is_ok());
    }

    #[test]
    fn a_batch_larger_than_the_allowance_takes_all_of_it() {
        let (throttle, who) = (limited(1, 10), Arc::from("a"));
        assert!(throttle.append(&who, 1000).is_ok());
        assert!(throttle.append(&who, 1).is_err());
        assert!(throttle.append_bytes(&who, 0).is_ok());
        assert!(throttle.append_bytes(&who, usize::MAX).is_ok());
        assert!(throttle.append_bytes(&who, 1).is_err());
    }

    #[test]
    fn room_for_streams_comes_back_when_they_end() {
        let (throttle, who) = (limited(2, 1), Arc::from("a"));
        let (one, _two) = (throttle.stream(&who).unwrap(), throttle.stream(&who).unwrap());
        assert!(throttle.stream(&who).is_none());
        drop(one);
        assert!(throttle.stream(&who).is_some());
    }

    #[test]
    fn an_address_that_is_wrong_too_often_is_answered_later_and_then_not_at_all() {
        let throttle = limited(1, 1);
        let (bad, near, other) = ("2001:db8::1", "2001:db8::2", "2001:db8:0:1::1");
        let [bad, near, other] = [bad, near, other].map(|it| it.parse::<IpAddr>().unwrap());
        for _ in 0..FAILURES {
            assert_eq!(throttle.failed(bad), Ok(Duration::ZERO));
        }
        let waits: Vec<_> = (0..WAITING).map(|_| throttle.failed(near).unwrap()).collect();
        assert!(waits[0] > Duration::ZERO && waits.is_sorted(), "{waits:?}");
        assert!(throttle.failed(bad).is_err() && throttle.failed(near).is_err());
        assert_eq!(throttle.failed(other), Ok(Duration::ZERO));
        let mapped = "::ffff:10.0.0.1".parse().unwrap();
        (0..FAILURES + WAITING).for_each(|_| assert!(throttle.failed(mapped).is_ok()));
        assert!(throttle.failed("10.0.0.1".parse().unwrap()).is_err());
    }

    #[test]
    fn addresses_without_end_take_no_more_memory() {
        let throttle = limited(1, 1);
        for n in 0..=u32::try_from(MOST_WRONG).unwrap() {
            throttle.failed(IpAddr::V4(n.into())).unwrap();
        }
        assert!(throttle.wrong().len() <= MOST_WRONG);
    }

    #[test]
    fn an_address_is_forgotten_once_it_has_paid_and_not_before() {
        let (throttle, now) = (limited(1, 1), Instant::now());
        let [paid, owing, new] = [1, 2, 3].map(|n| IpAddr::V4(n.into()));
        let known = |at| throttle.wrong().contains_key(&at);
        throttle.wrong().extend([(paid, now), (owing, now + Duration::from_mins(1))]);
        throttle.forget();
        assert!(!known(paid) && known(owing));

        let many = u32::try_from(MOST_WRONG).unwrap();
        throttle.wrong().extend((10..10 + many).map(|n| (IpAddr::V4(n.into()), now)));
        throttle.failed(new).unwrap();
        assert!(known(owing) && throttle.wrong().len() == 2, "those that have paid make room");
    }

    #[test]
    fn who_is_quiet_is_forgotten() {
        let throttle = limited(1, 1000);
        for n in 0..100 {
            throttle.request(&Arc::from(n.to_string())).unwrap();
        }
        while !throttle.requests.is_empty() {
            throttle.forget();
            std::thread::yield_now();
        }
    }
}

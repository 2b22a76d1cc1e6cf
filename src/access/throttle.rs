//! Rate limits of principals, limits of open streams, and delays after bad credentials.

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

/// The limits of one principal. In the open mode they do not apply, except for bytes written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Open streams.
    pub streams: usize,
    /// Requests per second. The requests of one second may come in a burst.
    pub requests: NonZeroU32,
    /// Events appended per second. The events of one second may come in a burst.
    pub appends: NonZeroU32,
    /// Bytes of these events per second.
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

/// The number of bad credentials from one address that are answered without delay.
const FREE_FAILURES: u32 = 20;
/// Each further failure delays its response by this much more, so that one response per interval is sent.
const FAILURE_INTERVAL: Duration = Duration::from_secs(1);
/// The number of responses to one address that may be delayed at once. Further failures are refused.
const MAX_DELAYED_FAILURES: u32 = 5;
/// The number of addresses with recent failures that are remembered. Beyond it all are forgotten, so
/// that memory is bounded.
const MAX_FAILED_ADDRESSES: usize = 50_000;
/// Above this number of known names, each request evicts the names whose allowance is whole again.
const MAX_KNOWN_NAMES: usize = 200_000;

/// The state of all limits. [`evict`](Self::evict) removes the entries of idle principals and addresses.
#[derive(Debug)]
pub(super) struct Throttle {
    requests: Keyed<Arc<str>>,
    appends: Keyed<Arc<str>>,
    append_bytes: Keyed<Arc<str>>,
    limits: Limits,
    /// For each address, when all its failures are paid for, at one per [`FAILURE_INTERVAL`].
    failures: Lock<HashMap<IpAddr, Instant>>,
    streams: Arc<Streams>,
    clock: DefaultClock,
}

type Keyed<K> = DefaultKeyedRateLimiter<K>;

/// The request is refused. It may be sent again after this time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryAfter(pub Duration);

impl Throttle {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            requests: RateLimiter::keyed(Quota::per_second(limits.requests)),
            appends: RateLimiter::keyed(Quota::per_second(limits.appends)),
            append_bytes: RateLimiter::keyed(Quota::per_second(limits.append_bytes)),
            limits,
            failures: Lock::default(),
            streams: Arc::new(Streams { max: limits.streams, open: Lock::default() }),
            clock: DefaultClock::default(),
        }
    }

    /// Counts a request of a principal.
    pub(super) fn request(&self, who: &Arc<str>) -> Result<(), RetryAfter> {
        evict_above_limit(&self.requests);
        self.requests.check_key(who).map_err(|until| self.wait(&until))
    }

    /// Counts events of a principal. A batch that is larger than the allowance of a second uses all of it.
    pub(super) fn append(&self, who: &Arc<str>, events: usize) -> Result<(), RetryAfter> {
        self.take(&self.appends, self.limits.appends, who, events)
    }

    /// Counts the bytes of events of a principal.
    pub(super) fn append_bytes(&self, who: &Arc<str>, bytes: usize) -> Result<(), RetryAfter> {
        self.take(&self.append_bytes, self.limits.append_bytes, who, bytes)
    }

    fn take(
        &self,
        limiter: &Keyed<Arc<str>>,
        allowance: NonZeroU32,
        who: &Arc<str>,
        amount: usize,
    ) -> Result<(), RetryAfter> {
        let amount = u32::try_from(amount).unwrap_or(u32::MAX);
        let Some(amount) = NonZeroU32::new(amount) else { return Ok(()) };
        evict_above_limit(limiter);
        match limiter.check_key_n(who, amount.min(allowance)) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(until)) => Err(self.wait(&until)),
            Err(_) => Err(RetryAfter(Duration::from_secs(1))),
        }
    }

    /// Notes bad credentials from an address, and returns how long to delay the response.
    ///
    /// Requests with valid credentials are never delayed, so clients that share an address cannot lock
    /// each other out. That is safe because no credentials can be guessed: what has to be limited is
    /// the cost of the attempts.
    ///
    /// # Errors
    /// If too many responses to this address are delayed already.
    pub(super) fn failed(&self, from: IpAddr) -> Result<Duration, RetryAfter> {
        let (from, now) = (network(from), Instant::now());
        let mut failures = self.failures();
        if failures.len() >= MAX_FAILED_ADDRESSES {
            failures.retain(|_, paid| *paid > now);
        }
        if failures.len() >= MAX_FAILED_ADDRESSES {
            failures.clear();
        }
        let paid = failures.get(&from).map_or(now, |paid| now.max(*paid)) + FAILURE_INTERVAL;
        let wait = paid.saturating_duration_since(now + FAILURE_INTERVAL * FREE_FAILURES);
        if wait > FAILURE_INTERVAL * MAX_DELAYED_FAILURES {
            return Err(RetryAfter(wait));
        }
        failures.insert(from, paid);
        Ok(wait)
    }

    /// Counts a stream of a principal until the guard is dropped. `None`: the limit is reached.
    pub(super) fn stream(&self, who: &Arc<str>) -> Option<StreamGuard> {
        self.streams.take(who)
    }

    /// Removes the entries of idle principals, and of addresses without recent failures.
    pub(super) fn evict(&self) {
        for limiter in [&self.requests, &self.appends, &self.append_bytes] {
            limiter.retain_recent();
            limiter.shrink_to_fit();
        }
        let now = Instant::now();
        let mut failures = self.failures();
        failures.retain(|_, paid| *paid > now);
        failures.shrink_to_fit();
    }

    fn wait<P: Reference>(&self, until: &NotUntil<P>) -> RetryAfter
    where
        DefaultClock: Clock<Instant = P>,
    {
        RetryAfter(until.wait_time_from(self.clock.now()))
    }

    fn failures(&self) -> MutexGuard<'_, HashMap<IpAddr, Instant>> {
        self.failures.lock()
    }
}

fn evict_above_limit<K: Hash + Eq + Clone>(limiter: &Keyed<K>) {
    if limiter.len() >= MAX_KNOWN_NAMES {
        limiter.retain_recent();
    }
}

/// The network that failures are counted for: of IPv6 the /64, since one customer usually has all of it.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)))
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// The number of open streams of each principal.
#[derive(Debug)]
struct Streams {
    max: usize,
    open: Lock<HashMap<Arc<str>, usize>>,
}

impl Streams {
    fn take(self: &Arc<Self>, who: &Arc<str>) -> Option<StreamGuard> {
        let mut open = self.open.lock();
        let count = open.entry(Arc::clone(who)).or_default();
        if *count >= self.max {
            return None;
        }
        *count += 1;
        Some(StreamGuard { streams: Arc::clone(self), who: Arc::clone(who) })
    }
}

/// Counts one open stream.
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
    fn each_principal_has_an_allowance_of_its_own() {
        let (throttle, [a, b]) = (limited(1, 3), ["a", "b"].map(Arc::from));
        assert!((0..3).all(|_| throttle.request(&a).is_ok()));
        let RetryAfter(wait) = throttle.request(&a).unwrap_err();
        assert!(wait > Duration::ZERO && wait <= Duration::from_secs(1));
        assert!(throttle.request(&b).is_ok());
    }

    #[test]
    fn a_batch_larger_than_the_allowance_uses_all_of_it() {
        let (throttle, who) = (limited(1, 10), Arc::from("a"));
        assert!(throttle.append(&who, 1000).is_ok());
        assert!(throttle.append(&who, 1).is_err());
        assert!(throttle.append_bytes(&who, 0).is_ok());
        assert!(throttle.append_bytes(&who, usize::MAX).is_ok());
        assert!(throttle.append_bytes(&who, 1).is_err());
    }

    #[test]
    fn a_stream_counts_until_it_ends() {
        let (throttle, who) = (limited(2, 1), Arc::from("a"));
        let (one, _two) = (throttle.stream(&who).unwrap(), throttle.stream(&who).unwrap());
        assert!(throttle.stream(&who).is_none());
        drop(one);
        assert!(throttle.stream(&who).is_some());
    }

    #[test]
    fn repeated_failures_are_delayed_and_then_refused() {
        let throttle = limited(1, 1);
        let (bad, near, other) = ("2001:db8::1", "2001:db8::2", "2001:db8:0:1::1");
        let [bad, near, other] = [bad, near, other].map(|it| it.parse::<IpAddr>().unwrap());
        for _ in 0..FREE_FAILURES {
            assert_eq!(throttle.failed(bad), Ok(Duration::ZERO));
        }
        let waits: Vec<_> =
            (0..MAX_DELAYED_FAILURES).map(|_| throttle.failed(near).unwrap()).collect();
        assert!(waits[0] > Duration::ZERO && waits.is_sorted(), "{waits:?}");
        assert!(throttle.failed(bad).is_err() && throttle.failed(near).is_err());
        assert_eq!(throttle.failed(other), Ok(Duration::ZERO));
        let mapped = "::ffff:10.0.0.1".parse().unwrap();
        (0..FREE_FAILURES + MAX_DELAYED_FAILURES)
            .for_each(|_| assert!(throttle.failed(mapped).is_ok()));
        assert!(throttle.failed("10.0.0.1".parse().unwrap()).is_err());
    }

    #[test]
    fn the_memory_for_failed_addresses_is_bounded() {
        let throttle = limited(1, 1);
        for n in 0..=u32::try_from(MAX_FAILED_ADDRESSES).unwrap() {
            throttle.failed(IpAddr::V4(n.into())).unwrap();
        }
        assert!(throttle.failures().len() <= MAX_FAILED_ADDRESSES);
    }

    #[test]
    fn an_address_is_evicted_once_its_failures_are_paid_for() {
        let (throttle, now) = (limited(1, 1), Instant::now());
        let [paid, owing, new] = [1, 2, 3].map(|n| IpAddr::V4(n.into()));
        let known = |at| throttle.failures().contains_key(&at);
        throttle.failures().extend([(paid, now), (owing, now + Duration::from_mins(1))]);
        throttle.evict();
        assert!(!known(paid) && known(owing));

        let many = u32::try_from(MAX_FAILED_ADDRESSES).unwrap();
        throttle.failures().extend((10..10 + many).map(|n| (IpAddr::V4(n.into()), now)));
        throttle.failed(new).unwrap();
        assert!(
            known(owing) && throttle.failures().len() == 2,
            "addresses that have paid are evicted first"
        );
    }

    #[test]
    fn idle_principals_are_evicted() {
        let throttle = limited(1, 1000);
        for n in 0..100 {
            throttle.request(&Arc::from(n.to_string())).unwrap();
        }
        while !throttle.requests.is_empty() {
            throttle.evict();
            std::thread::yield_now();
        }
    }
}

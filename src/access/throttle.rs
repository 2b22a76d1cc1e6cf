//! How much one principal may ask for, and how often one address may be wrong.

use std::{
    collections::HashMap,
    hash::Hash,
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

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
}

impl Default for Limits {
    fn default() -> Self {
        let number = |number| NonZeroU32::new(number).unwrap_or(NonZeroU32::MAX);
        Self { streams: 10_000, requests: number(1_000), appends: number(10_000) }
    }
}

/// Bad proofs that an address may show at once, and ...
const FAILURES: NonZeroU32 = NonZeroU32::new(20).unwrap();
/// ... for how long it is not listened to when there were more than that and one a second.
const SILENCE: Duration = Duration::from_secs(5);
/// Of addresses that are not listened to as many are known; beyond that the oldest go free,
/// rather than memory.
const MOST_SILENCED: usize = 50_000;
/// Names and addresses with a recent request are known up to this number; then those whose
/// allowance is whole again are forgotten at once instead of now and then.
const MOST_KNOWN: usize = 200_000;

/// See the module. Everything in it is forgotten when it has been quiet for a while.
#[derive(Debug)]
pub(super) struct Throttle {
    requests: Keyed<Arc<str>>,
    appends: Keyed<Arc<str>>,
    failures: Keyed<IpAddr>,
    silenced: Mutex<HashMap<IpAddr, Instant>>,
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
            failures: RateLimiter::keyed(
                Quota::with_period(Duration::from_secs(1))
                    .expect("a second is a period")
                    .allow_burst(FAILURES),
            ),
            silenced: Mutex::default(),
            streams: Arc::new(Streams { most: limits.streams, open: Mutex::default() }),
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
    pub(super) fn append(
        &self,
        who: &Arc<str>,
        events: NonZeroU32,
        most: NonZeroU32,
    ) -> Result<(), RetryAfter> {
        bound(&self.appends);
        match self.appends.check_key_n(who, events.min(most)) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(until)) => Err(self.wait(&until)),
            Err(_) => Err(RetryAfter(Duration::from_secs(1))),
        }
    }

    /// Whether this address is listened to.
    pub(super) fn listen(&self, from: IpAddr) -> Result<(), RetryAfter> {
        let until = self.silenced().get(&network(from)).copied();
        let wait = until.map(|until| until.saturating_duration_since(Instant::now()));
        wait.filter(|wait| !wait.is_zero()).map_or(Ok(()), |wait| Err(RetryAfter(wait)))
    }

    /// This address has shown a bad proof.
    pub(super) fn failed(&self, from: IpAddr) {
        bound(&self.failures);
        if self.failures.check_key(&network(from)).is_ok() {
            return;
        }
        let now = Instant::now();
        let mut silenced = self.silenced();
        if silenced.len() >= MOST_SILENCED {
            silenced.retain(|_, until| *until > now);
        }
        if silenced.len() >= MOST_SILENCED {
            silenced.clear();
        }
        silenced.insert(network(from), now + SILENCE);
    }

    /// Room for one more stream of this principal's; it is taken for as long as the guard lives.
    pub(super) fn stream(&self, who: &Arc<str>) -> Option<StreamGuard> {
        self.streams.take(who)
    }

    /// Forgets who has been quiet.
    pub(super) fn forget(&self) {
        for limiter in [&self.requests, &self.appends] {
            limiter.retain_recent();
            limiter.shrink_to_fit();
        }
        self.failures.retain_recent();
        self.failures.shrink_to_fit();
        let now = Instant::now();
        let mut silenced = self.silenced();
        silenced.retain(|_, until| *until > now);
        silenced.shrink_to_fit();
    }

    fn wait<P: Reference>(&self, until: &NotUntil<P>) -> RetryAfter
    where
        DefaultClock: Clock<Instant = P>,
    {
        RetryAfter(until.wait_time_from(self.clock.now()))
    }

    fn silenced(&self) -> MutexGuard<'_, HashMap<IpAddr, Instant>> {
        self.silenced.lock().unwrap_or_else(PoisonError::into_inner)
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
    open: Mutex<HashMap<Arc<str>, usize>>,
}

impl Streams {
    fn take(self: &Arc<Self>, who: &Arc<str>) -> Option<StreamGuard> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
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
        let mut open = self.streams.open.lock().unwrap_or_else(PoisonError::into_inner);
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
        Throttle::new(Limits { streams, requests, appends: requests })
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
        let most = NonZeroU32::new(10).unwrap();
        assert!(throttle.append(&who, NonZeroU32::new(1000).unwrap(), most).is_ok());
        assert!(throttle.append(&who, NonZeroU32::MIN, most).is_err());
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
    fn an_address_that_is_wrong_too_often_is_not_listened_to_for_a_while() {
        let throttle = limited(1, 1);
        let (bad, near, good) = ("2001:db8::1", "2001:db8::2", "2001:db8:0:1::1");
        let [bad, near, good] = [bad, near, good].map(|it| it.parse::<IpAddr>().unwrap());
        for _ in 0..FAILURES.get() {
            throttle.failed(bad);
            assert!(throttle.listen(bad).is_ok());
        }
        throttle.failed(bad);
        assert!(throttle.listen(bad).is_err() && throttle.listen(near).is_err());
        assert!(throttle.listen(good).is_ok());
        let mapped = "::ffff:10.0.0.1".parse().unwrap();
        (0..=FAILURES.get()).for_each(|_| throttle.failed(mapped));
        assert!(throttle.listen("10.0.0.1".parse().unwrap()).is_err());
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

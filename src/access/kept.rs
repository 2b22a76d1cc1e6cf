//! A cached value from another service. It survives outages, and only one caller fetches it at a time.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::{Mutex, watch},
    time::sleep,
};

use crate::backoff::Policy;

/// The cached value, and when it may be fetched again.
#[derive(Debug)]
pub(super) struct Cached<T> {
    value: watch::Sender<Option<Arc<T>>>,
    /// The fetches that callers caused. The holder of the lock is fetching.
    fetches: Mutex<Fetches>,
    min_interval: MinInterval,
}

/// The minimum interval between fetches that callers cause, and how long a caller waits for the next.
#[derive(Clone, Copy, Debug)]
pub(super) struct MinInterval {
    /// The initial delay is the interval after a fetch that changed the value. Each fetch that does not
    /// change the value doubles the interval.
    pub(super) intervals: Policy,
    /// A caller that would have to wait longer gets [`NotFetched::TooSoon`].
    pub(super) max_wait: Duration,
}

#[derive(Debug, Default)]
struct Fetches {
    /// When the last fetch began.
    began: Option<Instant>,
    /// The number of last fetches that failed or did not change the value.
    unchanged: u32,
}

/// Why a value was not fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotFetched<E> {
    /// The fetch failed.
    Failed(E),
    /// The last fetch was too recent. The next one may begin after this time.
    TooSoon(Duration),
}

impl<T: PartialEq> Cached<T> {
    /// An empty cache.
    pub(super) fn new(min_interval: MinInterval) -> Self {
        Self { value: watch::Sender::new(None), fetches: Mutex::default(), min_interval }
    }

    /// The cached value. `None` before the first successful fetch.
    pub(super) fn get(&self) -> Option<Arc<T>> {
        self.value.borrow().clone()
    }

    /// Waits until a cached value meets the condition.
    pub(super) fn until<F>(&self, condition: F) -> impl Future<Output = ()> + Send + use<T, F>
    where
        T: Send + Sync,
        F: Fn(&T) -> bool + Send + Sync,
    {
        let mut changes = self.value.subscribe();
        async move {
            if changes.wait_for(|value| value.as_deref().is_some_and(&condition)).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Fetches the value as part of the periodic refresh. A failure keeps the cached value.
    pub(super) async fn refresh<E>(
        &self,
        fetch: impl Future<Output = Result<T, E>>,
    ) -> Result<(), E> {
        let _fetching = self.fetches.lock().await;
        self.put(fetch.await?);
        Ok(())
    }

    /// Fetches the value again for a caller that did not find what it needs in `seen`.
    ///
    /// All callers that ask before a fetch begins share its result: what the result does not contain
    /// did not exist when they asked. If no fetch can begin within [`MinInterval::max_wait`], they get
    /// [`NotFetched::TooSoon`].
    ///
    /// # Cancel safety
    /// If a caller is dropped while it fetches, the next caller fetches.
    pub(super) async fn refetch_if_stale<E>(
        &self,
        seen: Option<&Arc<T>>,
        fetch: impl Future<Output = Result<T, E>>,
    ) -> Result<Option<Arc<T>>, NotFetched<E>> {
        let asked = Instant::now();
        let mut fetches = self.fetches.lock().await;
        let now = self.get();
        let changed = match (&now, seen) {
            (Some(now), Some(seen)) => !Arc::ptr_eq(now, seen),
            (now, seen) => now.is_some() != seen.is_some(),
        };
        if changed || fetches.began.is_some_and(|began| began >= asked) {
            return Ok(now);
        }
        let wait = self.min_interval.wait(&fetches);
        if wait > self.min_interval.max_wait {
            return Err(NotFetched::TooSoon(wait));
        }
        sleep(wait).await;
        // A failure counts too, so that not every request asks an issuer that is down.
        fetches.began = Some(Instant::now());
        fetches.unchanged = fetches.unchanged.saturating_add(1);
        if self.put(fetch.await.map_err(NotFetched::Failed)?) {
            fetches.unchanged = 0;
        }
        Ok(self.get())
    }

    /// Caches a value, and returns whether it is a new one.
    fn put(&self, fetched: T) -> bool {
        self.value.send_if_modified(|value| {
            let changed = value.as_deref() != Some(&fetched);
            if changed {
                *value = Some(Arc::new(fetched));
            }
            changed
        })
    }
}

impl MinInterval {
    /// A constant interval, for which every caller waits.
    pub(super) const fn fixed(interval: Duration) -> Self {
        Self { intervals: Policy::new(interval, interval), max_wait: Duration::MAX }
    }

    /// How long the next fetch has to wait.
    fn wait(&self, fetches: &Fetches) -> Duration {
        let Some(began) = fetches.began else { return Duration::ZERO };
        let interval = self.intervals.longest_after(fetches.unchanged.saturating_sub(1));
        interval.saturating_sub(began.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    async fn next(count: &AtomicU32) -> Result<u32, ()> {
        tokio::task::yield_now().await;
        Ok(count.fetch_add(1, Ordering::Relaxed) + 1)
    }

    const MINUTE: Duration = Duration::from_mins(1);
    const GROWING: MinInterval = MinInterval {
        intervals: Policy::new(Duration::from_secs(1), Duration::from_secs(10)),
        max_wait: MINUTE,
    };

    #[tokio::test]
    async fn callers_share_one_fetch_and_later_ones_are_refused() {
        let min_interval =
            MinInterval { max_wait: Duration::from_secs(1), ..MinInterval::fixed(MINUTE) };
        let (cached, count) = (Cached::new(min_interval), AtomicU32::new(0));
        let asking = (0..100).map(|_| cached.refetch_if_stale(None, next(&count)));
        let answers = futures::future::join_all(asking).await;
        assert!(answers.iter().all(|answer| **answer.as_ref().unwrap().as_ref().unwrap() == 1));
        let seen = cached.get();
        let again = cached.refetch_if_stale(seen.as_ref(), next(&count)).await;
        assert!(
            matches!(again, Err(NotFetched::TooSoon(_))),
            "an old result is no answer to a later call"
        );
        assert_eq!(count.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn a_failed_fetch_keeps_the_cached_value() {
        let (cached, count) =
            (Cached::new(MinInterval::fixed(Duration::from_nanos(1))), AtomicU32::new(0));
        cached.refresh(next(&count)).await.unwrap();
        let seen = cached.get();
        let failed = cached.refetch_if_stale(seen.as_ref(), async { Err(()) }).await;
        assert_eq!(failed, Err(NotFetched::Failed(())));
        assert_eq!(cached.get(), seen);
        let more = cached.refetch_if_stale(seen.as_ref(), next(&count)).await.unwrap();
        assert_eq!(more.as_deref(), Some(&2));
    }

    #[tokio::test]
    async fn callers_that_wait_for_the_interval_share_one_fetch() {
        let (cached, count) =
            (Cached::new(MinInterval::fixed(Duration::from_millis(20))), AtomicU32::new(0));
        let first = cached.refetch_if_stale(None, next(&count)).await.unwrap();
        let asking = (0..100).map(|_| cached.refetch_if_stale(first.as_ref(), next(&count)));
        let answers = futures::future::join_all(asking).await;
        assert!(answers.iter().all(|answer| **answer.as_ref().unwrap().as_ref().unwrap() == 2));
        assert_eq!(count.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn a_failed_fetch_counts_for_the_interval() {
        let min_interval = MinInterval { max_wait: Duration::ZERO, ..MinInterval::fixed(MINUTE) };
        let (cached, count) = (Cached::<u32>::new(min_interval), AtomicU32::new(0));
        assert_eq!(
            cached.refetch_if_stale(None, async { Err(()) }).await,
            Err(NotFetched::Failed(()))
        );
        assert!(matches!(
            cached.refetch_if_stale(None, next(&count)).await,
            Err(NotFetched::TooSoon(_))
        ));
        assert_eq!(count.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn the_interval_grows_while_nothing_changes() {
        let seconds = |unchanged| {
            let wait = GROWING.wait(&Fetches { began: Some(Instant::now() + MINUTE), unchanged });
            wait.as_secs()
        };
        assert_eq!([0, 1, 2, 3, 4, 5, 99].map(seconds), [1, 1, 2, 4, 8, 10, 10]);
        assert_eq!(GROWING.wait(&Fetches::default()), Duration::ZERO);
    }
}

//! A value from elsewhere, kept through outages, and fetched anew by one at a time.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::{Mutex, watch},
    time::sleep,
};

use crate::backoff::Policy;

/// See the module.
#[derive(Debug)]
pub(super) struct Kept<T> {
    value: watch::Sender<Option<Arc<T>>>,
    /// Fetches out of turn; the holder of the lock is fetching.
    turn: Mutex<Turn>,
    floor: Floor,
}

/// The minimum interval between fetches out of turn, and how long a caller waits for the next one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Floor {
    /// The first one is the interval after a fetch that brought something new; each fetch that brings
    /// nothing new doubles it.
    pub(super) intervals: Policy,
    /// A caller that would wait longer than this is refused with [`NotFetched::TooSoon`].
    pub(super) patience: Duration,
}

#[derive(Debug, Default)]
struct Turn {
    /// When the last fetch began.
    began: Option<Instant>,
    /// Fetches in a row that brought nothing new.
    in_vain: u32,
}

/// Why a value was not fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotFetched<E> {
    /// The fetch failed.
    Failed(E),
    /// The last fetch was a moment ago; the next one may begin after this time.
    TooSoon(Duration),
}

impl<T: PartialEq> Kept<T> {
    /// Nothing yet.
    pub(super) fn new(floor: Floor) -> Self {
        Self { value: watch::Sender::new(None), turn: Mutex::default(), floor }
    }

    /// What is known now; `None` before the first fetch.
    pub(super) fn get(&self) -> Option<Arc<T>> {
        self.value.borrow().clone()
    }

    /// Waits until it is known to be so.
    pub(super) fn until<F>(&self, so: F) -> impl Future<Output = ()> + Send + use<T, F>
    where
        T: Send + Sync,
        F: Fn(&T) -> bool + Send + Sync,
    {
        let mut changes = self.value.subscribe();
        async move {
            if changes.wait_for(|value| value.as_deref().is_some_and(&so)).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Fetches when it is time. What cannot be had leaves things as they are.
    pub(super) async fn renew<E>(
        &self,
        fetch: impl Future<Output = Result<T, E>>,
    ) -> Result<(), E> {
        let _turn = self.turn.lock().await;
        self.put(fetch.await?);
        Ok(())
    }

    /// What there is beyond `seen`, in which something was looked for in vain. Callers that ask
    /// before a fetch has begun share its answer: what it does not have was not there when they
    /// asked. Where there is no such fetch soon enough, they are told so.
    ///
    /// # Cancel safety
    /// A caller that leaves while it fetches leaves the fetch to the next one.
    pub(super) async fn beyond<E>(
        &self,
        seen: Option<&Arc<T>>,
        fetch: impl Future<Output = Result<T, E>>,
    ) -> Result<Option<Arc<T>>, NotFetched<E>> {
        let asked = Instant::now();
        let mut turn = self.turn.lock().await;
        let now = self.get();
        let changed = match (&now, seen) {
            (Some(now), Some(seen)) => !Arc::ptr_eq(now, seen),
            (now, seen) => now.is_some() != seen.is_some(),
        };
        if changed || turn.began.is_some_and(|began| began >= asked) {
            return Ok(now);
        }
        let wait = self.floor.wait(&turn);
        if wait > self.floor.patience {
            return Err(NotFetched::TooSoon(wait));
        }
        sleep(wait).await;
        // A failure counts too: an issuer that is down is not asked by every request.
        turn.began = Some(Instant::now());
        turn.in_vain = turn.in_vain.saturating_add(1);
        if self.put(fetch.await.map_err(NotFetched::Failed)?) {
            turn.in_vain = 0;
        }
        Ok(self.get())
    }

    /// Whether this is news.
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

impl Floor {
    /// Always this interval, however long a caller waits.
    pub(super) const fn fixed(interval: Duration) -> Self {
        Self { intervals: Policy::new(interval, interval), patience: Duration::MAX }
    }

    /// How long the next fetch has to wait.
    fn wait(&self, turn: &Turn) -> Duration {
        let Some(began) = turn.began else { return Duration::ZERO };
        let interval = self.intervals.longest_after(turn.in_vain.saturating_sub(1));
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
    const GROWING: Floor = Floor {
        intervals: Policy::new(Duration::from_secs(1), Duration::from_secs(10)),
        patience: MINUTE,
    };

    #[tokio::test]
    async fn many_who_look_in_vain_cause_one_fetch_and_those_who_come_later_are_told() {
        let floor = Floor { patience: Duration::from_secs(1), ..Floor::fixed(MINUTE) };
        let (kept, count) = (Kept::new(floor), AtomicU32::new(0));
        let asking = (0..100).map(|_| kept.beyond(None, next(&count)));
        let answers = futures::future::join_all(asking).await;
        assert!(answers.iter().all(|answer| **answer.as_ref().unwrap().as_ref().unwrap() == 1));
        let seen = kept.get();
        let again = kept.beyond(seen.as_ref(), next(&count)).await;
        assert!(matches!(again, Err(NotFetched::TooSoon(_))), "no old answer for a new question");
        assert_eq!(count.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn without_a_floor_each_may_fetch_and_a_failure_changes_nothing() {
        let (kept, count) = (Kept::new(Floor::fixed(Duration::from_nanos(1))), AtomicU32::new(0));
        kept.renew(next(&count)).await.unwrap();
        let seen = kept.get();
        let failed = kept.beyond(seen.as_ref(), async { Err(()) }).await;
        assert_eq!(failed, Err(NotFetched::Failed(())));
        assert_eq!(kept.get(), seen);
        let more = kept.beyond(seen.as_ref(), next(&count)).await.unwrap();
        assert_eq!(more.as_deref(), Some(&2));
    }

    #[tokio::test]
    async fn those_who_wait_for_the_floor_share_one_fetch() {
        let (kept, count) = (Kept::new(Floor::fixed(Duration::from_millis(20))), AtomicU32::new(0));
        let first = kept.beyond(None, next(&count)).await.unwrap();
        let asking = (0..100).map(|_| kept.beyond(first.as_ref(), next(&count)));
        let answers = futures::future::join_all(asking).await;
        assert!(answers.iter().all(|answer| **answer.as_ref().unwrap().as_ref().unwrap() == 2));
        assert_eq!(count.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn a_failure_keeps_to_the_floor_as_well() {
        let floor = Floor { patience: Duration::ZERO, ..Floor::fixed(MINUTE) };
        let (kept, count) = (Kept::<u32>::new(floor), AtomicU32::new(0));
        assert_eq!(kept.beyond(None, async { Err(()) }).await, Err(NotFetched::Failed(())));
        assert!(matches!(kept.beyond(None, next(&count)).await, Err(NotFetched::TooSoon(_))));
        assert_eq!(count.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn fetches_that_bring_nothing_new_lie_further_and_further_apart() {
        let seconds = |in_vain| {
            let wait = GROWING.wait(&Turn { began: Some(Instant::now() + MINUTE), in_vain });
            wait.as_secs()
        };
        assert_eq!([0, 1, 2, 3, 4, 5, 99].map(seconds), [1, 1, 2, 4, 8, 10, 10]);
        assert_eq!(GROWING.wait(&Turn::default()), Duration::ZERO);
    }
}

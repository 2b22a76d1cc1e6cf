//! A value from elsewhere, kept through outages, and fetched anew by one at a time.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::{Mutex, watch},
    time::sleep,
};

/// See the module.
#[derive(Debug)]
pub(super) struct Kept<T> {
    value: watch::Sender<Option<Arc<T>>>,
    /// When the last fetch out of turn began; whoever holds it is fetching.
    turn: Mutex<Option<Instant>>,
    floor: Floor,
}

/// How far fetches out of turn lie apart, and what becomes of those who ask too soon.
#[derive(Clone, Copy, Debug)]
pub(super) enum Floor {
    /// They wait for the next one.
    Wait(Duration),
    /// They get what there is.
    Refuse(Duration),
}

impl<T: PartialEq> Kept<T> {
    /// Nothing yet.
    pub(super) fn new(floor: Floor) -> Self {
        Self { value: watch::Sender::new(None), turn: Mutex::new(None), floor }
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

    /// What there is beyond `seen`, in which something was looked for in vain. Those who ask
    /// before a fetch has begun share its answer.
    pub(super) async fn beyond<E>(
        &self,
        seen: Option<&Arc<T>>,
        fetch: impl Future<Output = Result<T, E>>,
    ) -> Result<Option<Arc<T>>, E> {
        let asked = Instant::now();
        let mut last = self.turn.lock().await;
        let now = self.get();
        let changed = match (&now, seen) {
            (Some(now), Some(seen)) => !Arc::ptr_eq(now, seen),
            (now, seen) => now.is_some() != seen.is_some(),
        };
        if changed || last.is_some_and(|began| began >= asked) {
            return Ok(now);
        }
        let since = last.map_or(Duration::MAX, |began| began.elapsed());
        match self.floor {
            Floor::Wait(floor) => sleep(floor.saturating_sub(since)).await,
            Floor::Refuse(floor) if since < floor => return Ok(now),
            Floor::Refuse(_) => {}
        }
        // A failure counts too: an issuer that is down is not asked by every request.
        *last = Some(Instant::now());
        let fetched = fetch.await;
        self.put(fetched?);
        Ok(self.get())
    }

    fn put(&self, fetched: T) {
        self.value.send_if_modified(|value| {
            let changed = value.as_deref() != Some(&fetched);
            if changed {
                *value = Some(Arc::new(fetched));
            }
            changed
        });
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

    #[tokio::test]
    async fn many_who_look_in_vain_cause_one_fetch() {
        let (kept, count) = (Kept::new(Floor::Refuse(Duration::from_mins(1))), AtomicU32::new(0));
        let asking = (0..100).map(|_| kept.beyond(None, next(&count)));
        let answers = futures::future::join_all(asking).await;
        assert!(answers.iter().all(|answer| **answer.as_ref().unwrap().as_ref().unwrap() == 1));
        let seen = kept.get();
        let again = kept.beyond(seen.as_ref(), next(&count)).await.unwrap();
        assert_eq!((again.as_deref(), count.load(Ordering::Relaxed)), (Some(&1), 1));
    }

    #[tokio::test]
    async fn without_a_floor_each_may_fetch_and_a_failure_changes_nothing() {
        let (kept, count) = (Kept::new(Floor::Refuse(Duration::ZERO)), AtomicU32::new(0));
        kept.renew(next(&count)).await.unwrap();
        let seen = kept.get();
        assert_eq!(kept.beyond(seen.as_ref(), async { Err(()) }).await, Err(()));
        assert_eq!(kept.get(), seen);
        let more = kept.beyond(seen.as_ref(), next(&count)).await.unwrap();
        assert_eq!(more.as_deref(), Some(&2));
    }

    #[tokio::test]
    async fn those_who_wait_for_the_floor_share_one_fetch() {
        let (kept, count) = (Kept::new(Floor::Wait(Duration::from_millis(20))), AtomicU32::new(0));
        let first = kept.beyond(None, next(&count)).await.unwrap();
        let asking = (0..100).map(|_| kept.beyond(first.as_ref(), next(&count)));
        let answers = futures::future::join_all(asking).await;
        assert!(answers.iter().all(|answer| **answer.as_ref().unwrap().as_ref().unwrap() == 2));
        assert_eq!(count.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn a_failure_keeps_to_the_floor_as_well() {
        let (kept, count) =
            (Kept::<u32>::new(Floor::Refuse(Duration::from_mins(1))), AtomicU32::new(0));
        assert_eq!(kept.beyond(None, async { Err(()) }).await, Err(()));
        assert_eq!(kept.beyond(None, next(&count)).await, Ok(None));
        assert_eq!(count.load(Ordering::Relaxed), 0);
    }
}

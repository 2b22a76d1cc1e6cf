//! Somebody who waits to be told that there is something to look at.

use std::{
    future::poll_fn,
    sync::atomic::{AtomicBool, Ordering},
    task::Poll,
};

use futures::task::AtomicWaker;

/// One task waits for it, and any number tell it: a flag and a waker, and nothing of the task's own to
/// be found elsewhere.
#[derive(Debug, Default)]
pub struct Waiter {
    notified: AtomicBool,
    waker: AtomicWaker,
}

impl Waiter {
    /// Wakes who waits, or who will wait next.
    pub fn notify(&self) {
        self.notified.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Waits to be told; returns at once if that happened since the last wait, so that a look before
    /// waiting misses nothing.
    pub async fn notified(&self) {
        let notified = || self.notified.swap(false, Ordering::AcqRel);
        poll_fn(|context| {
            if notified() {
                return Poll::Ready(());
            }
            self.waker.register(context.waker());
            // It may have been told between the two.
            if notified() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn who_is_told_before_waiting_does_not_wait_and_waits_again_after() {
        let waiter = Arc::new(Waiter::default());
        waiter.notify();
        waiter.notify();
        assert!(waiter.notified().now_or_never().is_some());
        assert!(waiter.notified().now_or_never().is_none(), "told twice is told");
        let waits = tokio::spawn({
            let waiter = Arc::clone(&waiter);
            async move { waiter.notified().await }
        });
        tokio::task::yield_now().await;
        assert!(!waits.is_finished());
        waiter.notify();
        waits.await.unwrap();
    }
}

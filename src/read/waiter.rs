//! Notifies a task that there is something to look at.

use std::{
    future::poll_fn,
    sync::atomic::{AtomicBool, Ordering},
    task::Poll,
};

use futures::task::AtomicWaker;

/// One task waits, and any number of tasks notify it. It consists of a flag and a waker only: there is no
/// list of waiting tasks to maintain.
#[derive(Debug, Default)]
pub struct Waiter {
    notified: AtomicBool,
    waker: AtomicWaker,
}

impl Waiter {
    /// Wakes the waiting task. If no task waits, the next call of [`notified`](Self::notified) returns at
    /// once.
    pub fn notify(&self) {
        self.notified.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Waits for a notification. Returns at once if there was one since the last wait, so that a task which
    /// looks first and then waits misses nothing.
    ///
    /// # Cancel safety
    /// A notification that was not returned stays for the next call.
    pub async fn notified(&self) {
        let notified = || self.notified.swap(false, Ordering::AcqRel);
        poll_fn(|context| {
            if notified() {
                return Poll::Ready(());
            }
            self.waker.register(context.waker());
            // A notification may have arrived between the check and the registration.
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
    async fn a_notification_before_the_wait_is_not_lost() {
        let waiter = Arc::new(Waiter::default());
        waiter.notify();
        waiter.notify();
        assert!(waiter.notified().now_or_never().is_some());
        assert!(waiter.notified().now_or_never().is_none(), "two notifications are one");
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

//! Waits of less than a millisecond.
//!
//! Tokio's timers count whole milliseconds and round up, so that a reader that wants to look again
//! after one of them would look after nearly two. A thread that sleeps is as exact as this, but it
//! takes four changes of context to ask it, and with one writer at work on two processors these
//! cost that writer a fifth of its commits.

use std::time::Duration;

/// A timer of the system's, where it has one that can be waited for beside sockets; else tokio's.
#[derive(Debug)]
pub(super) struct PreciseTimer(Option<system::Timer>);

impl PreciseTimer {
    pub(super) fn new() -> Self {
        Self(system::Timer::new())
    }

    /// Waits so long.
    pub(super) async fn after(&self, wait: Duration) {
        let waited = match &self.0 {
            Some(timer) => timer.after(wait).await,
            None => None,
        };
        if waited.is_none() {
            tokio::time::sleep(wait).await;
        }
    }
}

#[cfg(target_os = "linux")]
mod system {
    use std::{io::ErrorKind, os::fd::AsFd, time::Duration};

    use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
    use tokio::net::unix::pipe::Receiver;

    /// A file that becomes readable when it is time: see `timerfd_create(2)`.
    #[derive(Debug)]
    pub(super) struct Timer {
        timer: TimerFd,
        /// The same file as tokio waits for it. It is read as a pipe is, and there is no other way
        /// to tell tokio of it that is safe.
        rings: Receiver,
    }

    impl Timer {
        /// None, where there are no files left.
        pub(super) fn new() -> Option<Self> {
            let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
            let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags).ok()?;
            let same = timer.as_fd().try_clone_to_owned().ok()?;
            let rings = Receiver::from_owned_fd_unchecked(same).ok()?;
            Some(Self { timer, rings })
        }

        /// Waits so long; nothing, when that could not be begun. Set anew, it forgets what it was
        /// to ring for before.
        pub(super) async fn after(&self, wait: Duration) -> Option<()> {
            // Zero would switch it off.
            let wait = wait.max(Duration::from_nanos(1));
            self.timer.set(Expiration::OneShot(wait.into()), TimerSetTimeFlags::empty()).ok()?;
            loop {
                self.rings.readable().await.ok()?;
                match self.rings.try_read(&mut [0; size_of::<u64>()]) {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    _ => return Some(()),
                }
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use std::{convert::Infallible, time::Duration};

    #[derive(Debug)]
    pub(super) struct Timer(Infallible);

    impl Timer {
        pub(super) fn new() -> Option<Self> {
            None
        }

        pub(super) async fn after(&self, _: Duration) -> Option<()> {
            match self.0 {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[tokio::test]
    async fn it_waits_as_long_as_it_is_told_however_it_was_left_before() {
        let timer = PreciseTimer::new();
        for wait in [0, 300, 2_000].map(Duration::from_micros) {
            let begun = Instant::now();
            timer.after(wait).await;
            assert!(begun.elapsed() >= wait);
            // Given up before it rings, and rung when nobody listens.
            let given_up =
                tokio::time::timeout(Duration::ZERO, timer.after(Duration::from_mins(1)));
            assert!(given_up.await.is_err());
            let given_up =
                tokio::time::timeout(Duration::ZERO, timer.after(Duration::from_micros(50)));
            let _ = given_up.await;
        }
    }
}

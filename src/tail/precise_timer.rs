//! A timer with a resolution below a millisecond.
//!
//! Tokio's timers count whole milliseconds and round up, so a reader that wants to poll again after one
//! millisecond would poll after nearly two. A sleeping thread would be as precise as this timer, but each
//! wait would take four context switches. On two processors, with one writer, these cost the writer a fifth
//! of its commits.

use std::time::Duration;

/// A timer of the operating system, if it has one that can be waited for together with sockets; otherwise
/// tokio's timer.
#[derive(Debug)]
pub(super) struct PreciseTimer(Option<system::Timer>);

impl PreciseTimer {
    pub(super) fn new() -> Self {
        Self(system::Timer::new())
    }

    /// Waits for this long.
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

    /// A file that becomes readable when the timer expires: see `timerfd_create(2)`.
    #[derive(Debug)]
    pub(super) struct Timer {
        timer: TimerFd,
        /// The same file, registered with tokio. It is read like a pipe, and wrapping it as one is the only
        /// way to register it without `unsafe`.
        expirations: Receiver,
    }

    impl Timer {
        /// `None` if the process cannot open more files.
        pub(super) fn new() -> Option<Self> {
            let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
            let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags).ok()?;
            let same = timer.as_fd().try_clone_to_owned().ok()?;
            let expirations = Receiver::from_owned_fd_unchecked(same).ok()?;
            Some(Self { timer, expirations })
        }

        /// Waits for this long. `None` if the timer could not be set. Setting it discards an earlier
        /// expiration.
        pub(super) async fn after(&self, wait: Duration) -> Option<()> {
            // Zero would disarm the timer.
            let wait = wait.max(Duration::from_nanos(1));
            self.timer.set(Expiration::OneShot(wait.into()), TimerSetTimeFlags::empty()).ok()?;
            loop {
                self.expirations.readable().await.ok()?;
                match self.expirations.try_read(&mut [0; size_of::<u64>()]) {
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
    async fn waits_in_full_after_an_abandoned_wait() {
        let timer = PreciseTimer::new();
        for wait in [0, 300, 2_000].map(Duration::from_micros) {
            let begun = Instant::now();
            timer.after(wait).await;
            assert!(begun.elapsed() >= wait);
            // One wait is abandoned before the timer expires, and one may be after it has.
            let abandoned =
                tokio::time::timeout(Duration::ZERO, timer.after(Duration::from_mins(1)));
            assert!(abandoned.await.is_err());
            let abandoned =
                tokio::time::timeout(Duration::ZERO, timer.after(Duration::from_micros(50)));
            let _ = abandoned.await;
        }
    }
}

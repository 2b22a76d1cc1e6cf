//! When to poll the log next.
//!
//! A reader is awake or asleep. Awake, it polls the log. Asleep, it holds the *bell*, an advisory lock, and
//! waits: a writer that finds the bell held *rings* it, that is, sends a notification. One reader of a log,
//! the *keeper*, is elected to hold the bell; the others wait for its notifications.

use std::time::{Duration, Instant};

/// Time within which a notification arrives after the row that it was sent with is visible.
pub(super) const BELL_ON_ITS_WAY: Duration = Duration::from_millis(50);

/// The pause before asking again about a transaction that has been waited for this long. Pauses grow, so a
/// long wait costs the database less and less, and its end is noticed at most a tenth later.
pub(super) fn growing_pause(waited: Duration) -> Duration {
    (waited / 10).clamp(Duration::from_millis(1), Duration::from_millis(100))
}

/// Decides when the reader polls and when it sleeps, from what it has seen.
#[derive(Debug)]
pub(super) struct PollPolicy {
    /// Whether this reader is the keeper of the bell. Only the keeper may sleep on it.
    pub(super) keeper: bool,
    /// Whether this reader holds the bell, so that writers ring.
    asleep: bool,
    /// Whether the log was polled since the reader fell asleep. Writers that came before that did not ring.
    polled_since_asleep: bool,
    last_news: Instant,
    last_bell: Option<Instant>,
    last_read: Instant,
    pace: Pace,
    /// The reader polls until then, keeper or not.
    awake_until: Instant,
}

/// How fast the log grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pace {
    /// Less than a row a millisecond.
    Calm,
    /// A poll finds one or two rows.
    Steady,
    /// A poll finds more rows.
    Brisk,
    /// Many writers are active.
    Busy,
}

/// What to do until the next poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// Poll after this time, or when the bell rings.
    PollAfter(Duration),
    /// Try to take the bell, poll once more, and then listen.
    FallAsleep,
    /// Wait for the bell.
    Listen,
}

impl PollPolicy {
    /// How often an awake reader polls. A poll takes the gateway 50 us and PostgreSQL 30 us, whatever it
    /// finds. A single writer on a fast disk loses more commits the more often the log is polled.
    const POLL_INTERVAL: Duration = Duration::from_millis(1);
    /// How often it polls where each poll finds several rows. Half of an event's latency is the wait for the
    /// next poll; and with several active writers most polls stop at a transaction that is about to commit,
    /// so that the events behind it wait for another poll.
    const BRISK_POLL_INTERVAL: Duration = Duration::from_micros(500);
    /// How often it polls where writers need the processors: half as many polls deliver as much.
    const BUSY_POLL_INTERVAL: Duration = Duration::from_millis(2);
    /// A keeper that has seen nothing new for this long tries to sleep. A ring costs the writer, so a steady
    /// stream should keep the reader awake. But a sleeping reader learns of an event sooner than one that is
    /// between two polls, and this many rings a second cost little. So the time is short: at 50 events a
    /// second the reader is asleep when they come (median latency 0.4 ms instead of 1.5 ms).
    const SLEEP_AFTER_QUIET: Duration = Duration::from_millis(8);
    /// How often a quiet keeper polls while it cannot sleep, because a writer is in flight that did not ring.
    const RETRY_SLEEP_AFTER: Duration = Duration::from_millis(2);
    /// A single ring is answered without waking up. Two within this time are the beginning of a stream, and
    /// then the reader wakes up, so that writers need not ring.
    const STREAM_BELL_GAP: Duration = Duration::from_millis(8);
    /// The keeper learns of a new reader at its next safety poll. Until then the new reader polls by itself.
    const NEW_READER_GRACE: Duration = Duration::from_secs(2);
    /// How long this reader polls by itself after it has found events that no ring announced. The keeper may
    /// be frozen, or a writer may have turned the bell off.
    const UNANNOUNCED_GRACE: Duration = Duration::from_secs(5);

    pub(super) fn new(keeper: bool, now: Instant) -> Self {
        let awake_until = if keeper { now } else { now + Self::NEW_READER_GRACE };
        Self {
            keeper,
            asleep: false,
            polled_since_asleep: false,
            last_news: now,
            last_bell: None,
            last_read: now,
            pace: Pace::Calm,
            awake_until,
        }
    }

    /// Records that something new was seen in the log.
    pub(super) fn record_news(&mut self, now: Instant) {
        self.last_news = now;
    }

    /// Whether this reader holds the bell.
    pub(super) fn is_asleep(&self) -> bool {
        self.asleep
    }

    /// Records that the bell was taken or given back. A reader that has just fallen asleep polls once more
    /// before it listens: writers that came before it held the bell did not ring.
    pub(super) fn set_asleep(&mut self, asleep: bool) {
        self.asleep = asleep;
        self.polled_since_asleep = false;
    }

    /// Records how many rows the poll has read that ends now.
    pub(super) fn record_rows(&mut self, count: usize, now: Instant) {
        self.polled_since_asleep = true;
        let since = now.saturating_duration_since(self.last_read).as_micros().max(1);
        self.last_read = now;
        self.pace = match count as u128 * 1000 / since {
            0 => Pace::Calm,
            1..3 => Pace::Steady,
            3..8 => Pace::Brisk,
            _ => Pace::Busy,
        };
    }

    /// Whether so many writers are active that most holes fill by themselves within a moment.
    pub(super) fn holes_fill_quickly(&self) -> bool {
        self.pace != Pace::Calm
    }

    /// Records a ring. Returns whether it is time to wake up.
    pub(super) fn bell_rang(&mut self, now: Instant) -> bool {
        let last = self.last_bell.replace(now);
        last.is_some_and(|last| now.saturating_duration_since(last) < Self::STREAM_BELL_GAP)
    }

    /// Records that something new was found that neither a ring nor a poll of this reader had announced, or
    /// that the bell cannot be rung.
    pub(super) fn record_unannounced(&mut self, now: Instant) {
        self.awake_until = now + Self::UNANNOUNCED_GRACE;
    }

    /// How to wait when all that is visible has been read and no hole is waited for.
    pub(super) fn wait(&self, now: Instant) -> Wait {
        let quiet = now.saturating_duration_since(self.last_news) >= Self::SLEEP_AFTER_QUIET;
        match (self.keeper, self.asleep) {
            (true, true) if self.polled_since_asleep => Wait::Listen,
            (true, true) => Wait::PollAfter(Duration::ZERO),
            _ if !quiet || now < self.awake_until => Wait::PollAfter(self.poll_interval(now)),
            (true, false) => Wait::FallAsleep,
            (false, _) => Wait::Listen,
        }
    }

    /// The time until the next poll, at a hole or when the reader could not fall asleep.
    pub(super) fn poll_interval(&self, now: Instant) -> Duration {
        let quiet = now.saturating_duration_since(self.last_news) >= Self::SLEEP_AFTER_QUIET;
        match self.pace {
            _ if quiet => Self::RETRY_SLEEP_AFTER,
            Pace::Calm | Pace::Steady => Self::POLL_INTERVAL,
            Pace::Brisk => Self::BRISK_POLL_INTERVAL,
            Pace::Busy => Self::BUSY_POLL_INTERVAL,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quiet_keeper_sleeps_and_other_readers_listen() {
        let start = Instant::now();
        let keeper = PollPolicy::new(true, start);
        assert_eq!(keeper.wait(start), Wait::PollAfter(PollPolicy::POLL_INTERVAL));
        assert_eq!(keeper.wait(start + PollPolicy::SLEEP_AFTER_QUIET), Wait::FallAsleep);

        let other = PollPolicy::new(false, start);
        assert_eq!(
            other.wait(start + PollPolicy::SLEEP_AFTER_QUIET),
            Wait::PollAfter(PollPolicy::RETRY_SLEEP_AFTER),
            "still new"
        );
        assert_eq!(other.wait(start + PollPolicy::NEW_READER_GRACE), Wait::Listen);
    }

    #[test]
    fn polls_once_more_after_it_fell_asleep() {
        let start = Instant::now();
        let mut keeper = PollPolicy::new(true, start);
        for night in 1..3 {
            let quiet = start + PollPolicy::SLEEP_AFTER_QUIET * night;
            keeper.record_rows(0, quiet);
            assert_eq!(keeper.wait(quiet), Wait::FallAsleep);
            keeper.set_asleep(true);
            assert_eq!(keeper.wait(quiet), Wait::PollAfter(Duration::ZERO), "night {night}");
            keeper.record_rows(0, quiet);
            assert_eq!(keeper.wait(quiet), Wait::Listen);
            keeper.set_asleep(false);
        }
    }

    #[test]
    fn a_hole_is_given_a_moment_while_many_write() {
        let start = Instant::now();
        let mut policy = PollPolicy::new(true, start);
        assert!(!policy.holes_fill_quickly());
        policy.record_rows(10, start + Duration::from_millis(1));
        assert!(policy.holes_fill_quickly(), "ten rows a millisecond");
        policy.record_rows(1, start + Duration::from_millis(3));
        assert!(!policy.holes_fill_quickly());
    }

    #[test]
    fn wakes_at_a_stream_of_rings_and_not_at_one() {
        let start = Instant::now();
        let mut keeper = PollPolicy::new(true, start);
        assert!(!keeper.bell_rang(start));
        assert!(!keeper.bell_rang(start + PollPolicy::STREAM_BELL_GAP));
        assert!(keeper.bell_rang(start + PollPolicy::STREAM_BELL_GAP + PollPolicy::POLL_INTERVAL));
    }

    #[test]
    fn polls_for_a_while_after_unannounced_events() {
        let start = Instant::now();
        let mut other = PollPolicy::new(false, start);
        let later = start + Duration::from_mins(1);
        other.record_unannounced(later);
        assert_eq!(other.wait(later), Wait::PollAfter(PollPolicy::RETRY_SLEEP_AFTER));
        assert_eq!(other.wait(later + PollPolicy::UNANNOUNCED_GRACE), Wait::Listen);
    }
}

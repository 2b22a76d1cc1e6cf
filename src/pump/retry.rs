//! How long to wait before the next attempt.

use std::time::Duration;

/// Pauses between attempts: they double, up to a longest, and each is drawn anew between
/// nothing and that (full jitter), so that pumps which failed together do not come together.
#[derive(Clone, Debug)]
pub struct Backoff {
    longest: Duration,
    failures: u32,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(200);
    /// Even a lucky draw leaves an aggregator a moment.
    const LEAST: Duration = Duration::from_millis(20);

    /// No failure yet.
    #[must_use]
    pub fn new(longest: Duration) -> Self {
        Self { longest, failures: 0 }
    }

    /// Something went well.
    pub fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// How often it has failed since.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// The pause after one more failure; not shorter than the other side has asked for.
    pub fn pause(&mut self, asked: Option<Duration>) -> Duration {
        let doubled = Self::FIRST.saturating_mul(1 << self.failures.min(20));
        self.failures = self.failures.saturating_add(1);
        let drawn = doubled.min(self.longest).mul_f32(fastrand::f32()).max(Self::LEAST);
        asked.map_or(drawn, |asked| asked.max(drawn))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_longest_and_no_further() {
        let mut backoff = Backoff::new(Duration::from_secs(3));
        for failures in 0..40 {
            let most = Backoff::FIRST.saturating_mul(1 << failures.min(20));
            let pause = backoff.pause(None);
            assert!(pause <= most.min(Duration::from_secs(3)), "{pause:?} after {failures}");
        }
        backoff.succeeded();
        assert!(backoff.pause(None) <= Backoff::FIRST);
    }

    #[test]
    fn there_is_always_a_moment_between_two_attempts() {
        assert_eq!(Backoff::new(Duration::ZERO).pause(None), Backoff::LEAST);
    }

    #[test]
    fn what_was_asked_for_is_honoured() {
        let mut backoff = Backoff::new(Duration::from_secs(1));
        assert_eq!(backoff.pause(Some(Duration::from_secs(7))), Duration::from_secs(7));
    }
}

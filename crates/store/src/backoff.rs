//! The pauses between attempts. Each failure doubles the pause, up to a maximum, and each pause is a random
//! part of that, at least half. So clients that failed together, as when PostgreSQL stops, do not come back
//! together.

use std::time::Duration;

use tokio::time::sleep;

/// The first and the longest pause, before they are shortened at random.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    first: Duration,
    longest: Duration,
}

impl Policy {
    /// The least value of a longest pause that comes from a setting, so that no policy makes a busy loop.
    const SHORTEST: Duration = Duration::from_millis(1);

    /// Creates a policy. In a constant, invalid bounds do not compile.
    ///
    /// # Panics
    /// If the first pause is zero, or longer than the longest.
    #[must_use]
    pub const fn new(first: Duration, longest: Duration) -> Self {
        assert!(!first.is_zero(), "without a pause, attempts follow each other in a busy loop");
        assert!(
            first.as_nanos() <= longest.as_nanos(),
            "the first pause is longer than the longest"
        );
        Self { first, longest }
    }

    /// Returns the policy with another longest pause, such as one from a setting. The first pause is
    /// shortened if it is longer.
    #[must_use]
    pub fn up_to(self, longest: Duration) -> Self {
        let longest = longest.max(Self::SHORTEST);
        Self { first: self.first.min(longest), longest }
    }

    /// Returns the policy with a first pause of at least this, such as the peer asks for. The longest pause
    /// is raised if it is shorter.
    #[must_use]
    pub fn at_least(self, first: Duration) -> Self {
        let first = self.first.max(first);
        Self { first, longest: self.longest.max(first) }
    }

    /// The longest possible pause after this number of failures and one more.
    #[must_use]
    pub fn longest_after(self, failures: u32) -> Duration {
        self.first.saturating_mul(2_u32.saturating_pow(failures)).min(self.longest)
    }

    /// A random pause after this number of failures and one more.
    #[must_use]
    pub fn after(self, failures: u32) -> Duration {
        drawn(self.longest_after(failures))
    }

    /// Starts counting failures.
    #[must_use]
    pub fn start(self) -> Backoff {
        Backoff { policy: self, failures: 0 }
    }
}

/// The failures of an operation that is tried until it succeeds.
#[derive(Clone, Debug)]
pub struct Backoff {
    policy: Policy,
    failures: u32,
}

impl Backoff {
    /// The number of failures since the last success.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Records a success: the next pause is the first one again.
    pub fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// Records a failure. Returns how long to wait.
    pub fn pause(&mut self) -> Duration {
        let pause = self.policy.after(self.failures);
        self.failures = self.failures.saturating_add(1);
        pause
    }

    /// Records a failure, and waits.
    pub async fn wait(&mut self) {
        sleep(self.pause()).await;
    }
}

/// A random time between half of this one and this one.
#[must_use]
pub fn drawn(whole: Duration) -> Duration {
    whole.mul_f64(0.5 + fastrand::f64() / 2.0)
}

#[cfg(test)]
mod tests {
    use std::panic::catch_unwind;

    use super::*;

    const fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    const POLICY: Policy = Policy::new(millis(200), millis(3000));

    #[test]
    fn pauses_double_up_to_the_longest() {
        let longest = [0, 1, 2, 3, 4, 5, 99, u32::MAX].map(|it| POLICY.longest_after(it));
        assert_eq!(longest, [200, 400, 800, 1600, 3000, 3000, 3000, 3000].map(millis));
    }

    #[test]
    fn pauses_are_random_between_half_and_the_whole() {
        let mut backoff = POLICY.start();
        for failures in 0..1000 {
            assert_eq!(backoff.failures(), failures);
            let (pause, longest) = (backoff.pause(), POLICY.longest_after(failures));
            assert!((longest / 2..=longest).contains(&pause), "{pause:?} after {failures}");
        }
        let pauses: Vec<_> = (0..100).map(|_| backoff.pause()).collect();
        assert!(pauses.iter().any(|pause| *pause != pauses[0]), "all of them are {:?}", pauses[0]);
    }

    #[test]
    fn success_starts_again_with_the_first_pause() {
        let mut backoff = POLICY.start();
        assert!((0..10).all(|_| !backoff.pause().is_zero()));
        backoff.succeeded();
        assert_eq!(backoff.failures(), 0);
        assert!(backoff.pause() <= millis(200));
    }

    #[test]
    fn rejects_bounds_that_make_no_sense() {
        for (first, longest) in [(0, 0), (0, 1), (2, 1)] {
            let made = catch_unwind(|| Policy::new(millis(first), millis(longest)));
            assert!(made.is_err(), "{made:?}");
        }
        assert_eq!(Policy::new(millis(1), millis(1)).longest_after(7), millis(1));
    }

    #[test]
    fn up_to_bounds_the_first_pause_and_is_never_zero() {
        assert_eq!(POLICY.up_to(millis(50)), Policy::new(millis(50), millis(50)));
        assert_eq!(POLICY.up_to(millis(9000)), Policy::new(millis(200), millis(9000)));
        assert!(!POLICY.up_to(Duration::ZERO).after(0).is_zero());
    }

    #[test]
    fn at_least_only_lengthens_pauses() {
        assert_eq!(POLICY.at_least(Duration::ZERO), POLICY);
        assert_eq!(POLICY.at_least(millis(500)), Policy::new(millis(500), millis(3000)));
        assert_eq!(POLICY.at_least(millis(9000)), Policy::new(millis(9000), millis(9000)));
    }
}

//! The pauses between attempts at the same thing: each failure doubles them, up to the longest, and
//! each is drawn at random between half of that and that. So those who failed together, as when
//! PostgreSQL stops, do not come back together.

use std::time::Duration;

use tokio::time::sleep;

/// The first and the longest pause, before chance shortens them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    first: Duration,
    longest: Duration,
}

impl Policy {
    /// A longest pause that somebody chose is raised to this: no policy makes a busy loop.
    const SHORTEST: Duration = Duration::from_millis(1);

    /// Checks these bounds: in a constant, wrong ones do not compile.
    ///
    /// # Panics
    /// When the first pause is zero, or longer than the longest.
    #[must_use]
    pub const fn new(first: Duration, longest: Duration) -> Self {
        assert!(!first.is_zero(), "without a pause, attempts follow each other in a busy loop");
        assert!(
            first.as_nanos() <= longest.as_nanos(),
            "the first pause is longer than the longest"
        );
        Self { first, longest }
    }

    /// The same with another longest pause, such as a setting says; the first one is no longer.
    #[must_use]
    pub fn up_to(self, longest: Duration) -> Self {
        let longest = longest.max(Self::SHORTEST);
        Self { first: self.first.min(longest), longest }
    }

    /// The same with a first pause that is at least this, such as the other side asks for; the longest
    /// one is no shorter.
    #[must_use]
    pub fn at_least(self, first: Duration) -> Self {
        let first = self.first.max(first);
        Self { first, longest: self.longest.max(first) }
    }

    /// How long to wait at most after one more failure than these.
    #[must_use]
    pub fn longest_after(self, failures: u32) -> Duration {
        self.first.saturating_mul(2_u32.saturating_pow(failures)).min(self.longest)
    }

    /// How long to wait after one more failure than these.
    #[must_use]
    pub fn after(self, failures: u32) -> Duration {
        drawn(self.longest_after(failures))
    }

    /// No failure yet.
    #[must_use]
    pub fn start(self) -> Backoff {
        Backoff { policy: self, failures: 0 }
    }
}

/// The failures of something that is tried until it succeeds.
#[derive(Clone, Debug)]
pub struct Backoff {
    policy: Policy,
    failures: u32,
}

impl Backoff {
    /// How often it has failed since it succeeded.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// It succeeded: the next pause is the first one again.
    pub fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// It failed once more: how long to wait.
    pub fn pause(&mut self) -> Duration {
        let pause = self.policy.after(self.failures);
        self.failures = self.failures.saturating_add(1);
        pause
    }

    /// It failed once more: waits.
    pub async fn wait(&mut self) {
        sleep(self.pause()).await;
    }
}

/// A time between half of this one and this one.
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
    fn pauses_double_up_to_the_longest_and_no_further() {
        let longest = [0, 1, 2, 3, 4, 5, 99, u32::MAX].map(|it| POLICY.longest_after(it));
        assert_eq!(longest, [200, 400, 800, 1600, 3000, 3000, 3000, 3000].map(millis));
    }

    #[test]
    fn each_pause_is_drawn_between_half_of_it_and_the_whole() {
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
    fn success_begins_again_with_the_first_pause() {
        let mut backoff = POLICY.start();
        assert!((0..10).all(|_| !backoff.pause().is_zero()));
        backoff.succeeded();
        assert_eq!(backoff.failures(), 0);
        assert!(backoff.pause() <= millis(200));
    }

    #[test]
    fn bounds_that_make_no_sense_are_refused() {
        for (first, longest) in [(0, 0), (0, 1), (2, 1)] {
            let made = catch_unwind(|| Policy::new(millis(first), millis(longest)));
            assert!(made.is_err(), "{made:?}");
        }
        assert_eq!(Policy::new(millis(1), millis(1)).longest_after(7), millis(1));
    }

    #[test]
    fn a_chosen_longest_pause_also_bounds_the_first_and_is_never_zero() {
        assert_eq!(POLICY.up_to(millis(50)), Policy::new(millis(50), millis(50)));
        assert_eq!(POLICY.up_to(millis(9000)), Policy::new(millis(200), millis(9000)));
        assert!(!POLICY.up_to(Duration::ZERO).after(0).is_zero());
    }

    #[test]
    fn whoever_is_asked_to_wait_waits_longer_and_never_shorter() {
        assert_eq!(POLICY.at_least(Duration::ZERO), POLICY);
        assert_eq!(POLICY.at_least(millis(500)), Policy::new(millis(500), millis(3000)));
        assert_eq!(POLICY.at_least(millis(9000)), Policy::new(millis(9000), millis(9000)));
    }
}

//! Which kinds of reads keep failing, for `/readyz` and the log.

use std::{
    collections::HashMap,
    sync::MutexGuard,
    time::{Duration, Instant},
};

use crate::crash::Lock;

use tracing::warn;

/// The reads that fail, by their kind. A kind is removed when it succeeds.
#[derive(Debug, Default)]
pub(super) struct Failures(Lock<HashMap<&'static str, Failing>>);

#[derive(Debug)]
struct Failing {
    since: Instant,
    last: Instant,
    warned: Option<Instant>,
    error: String,
}

impl Failures {
    /// How long a kind may fail before it is reported. A restart of PostgreSQL takes less.
    const REPORT_AFTER: Duration = Duration::from_secs(5);
    /// After this long without an attempt, the failure says nothing about the present.
    const OUTDATED: Duration = Duration::from_secs(30);
    const WARN_INTERVAL: Duration = Duration::from_mins(1);

    pub(super) fn succeeded(&self, what: &'static str) {
        let mut failing = self.failing();
        if !failing.is_empty() {
            failing.remove(what);
        }
    }

    pub(super) fn failed(&self, what: &'static str, error: String, now: Instant) {
        let mut failing = self.failing();
        let its = failing.entry(what).or_insert_with(|| Failing {
            since: now,
            last: now,
            warned: None,
            error: String::new(),
        });
        if now - its.last > Self::OUTDATED {
            its.since = now;
        }
        (its.last, its.error) = (now, error);
        let due = its.warned.is_none_or(|warned| now - warned > Self::WARN_INTERVAL);
        if now - its.since > Self::REPORT_AFTER && due {
            its.warned = Some(now);
            let (error, seconds) = (&its.error, (now - its.since).as_secs());
            warn!(error, "{what} could not be read for {seconds} s");
        }
    }

    /// Returns an error if some kind of read has been failing for long: which, for how long, and why.
    pub(super) fn check(&self, now: Instant) -> Result<(), String> {
        let failing = self.failing();
        let long = failing.iter().find(|(_, its)| {
            its.last - its.since > Self::REPORT_AFTER
                && now.duration_since(its.last) < Self::OUTDATED
        });
        let Some((what, its)) = long else { return Ok(()) };
        let seconds = now.duration_since(its.since).as_secs();
        Err(format!("{what} could not be read for {seconds} s: {}", its.error))
    }

    fn failing(&self) -> MutexGuard<'_, HashMap<&'static str, Failing>> {
        self.0.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_long_failures_until_success_or_no_attempt() {
        let (failures, start) = (Failures::default(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        failures.failed("history", "away".into(), start);
        assert_eq!(failures.check(after(4)), Ok(()), "too short to report");
        failures.failed("history", "still away".into(), after(6));
        failures.succeeded("one event");
        let reported = failures.check(after(7)).unwrap_err();
        assert_eq!(reported, "history could not be read for 7 s: still away");
        assert_eq!(failures.check(after(40)), Ok(()), "no recent attempt");
        failures.failed("history", "again".into(), after(100));
        assert_eq!(failures.check(after(101)), Ok(()), "a new failure");
        failures.failed("history", "again".into(), after(110));
        assert!(failures.check(after(111)).is_err());
        failures.succeeded("history");
        assert_eq!(failures.check(after(112)), Ok(()));
    }
}

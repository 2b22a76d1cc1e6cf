//! Runs the work of `prune` and `erase` in small steps: with pauses, with progress, and until a signal.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::{output, signals::Signals};
use crate::{event::EventId, progress::Progress, store::maintenance::Step};

/// The minimum pause between two steps. The pause is as long as the step, so that others can use the disk.
const MIN_PAUSE: Duration = Duration::from_millis(5);

/// The interval of progress lines if there is no progress bar.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(30);

/// Work in progress, and how it is shown.
pub(super) struct Work {
    verb: &'static str,
    end: Option<EventId>,
    upto: EventId,
    looked_at: u64,
    changed: u64,
    begun: Instant,
    shown: Progress,
    signals: Signals,
}

/// Runs all steps. Returns `false` if a signal came before the last one.
pub(super) async fn work(
    work: &mut Work,
    mut step: impl AsyncFnMut() -> anyhow::Result<Step>,
) -> anyhow::Result<bool> {
    let ended = work.through(&mut step).await;
    work.shown.bar().finish_and_clear();
    ended
}

impl Work {
    /// Starts with nothing done. `end` is the last id of the work, if it is known.
    pub(super) fn new(verb: &'static str, end: Option<EventId>) -> anyhow::Result<Self> {
        let template = if end.is_some() { "[{bar:30}] {wide_msg}" } else { "{wide_msg}" };
        let length = end.map(|end| end.get().unsigned_abs());
        Ok(Self {
            verb,
            end,
            upto: EventId::ZERO,
            looked_at: 0,
            changed: 0,
            begun: Instant::now(),
            shown: Progress::new(length, template, PROGRESS_INTERVAL),
            signals: Signals::new()?,
        })
    }

    /// The id up to which events were examined.
    pub(super) fn upto(&self) -> EventId {
        self.upto
    }

    /// The number of changed events.
    pub(super) fn changed(&self) -> u64 {
        self.changed
    }

    /// A line about the work that was done.
    pub(super) fn summary(&self) -> String {
        let (changed, looked_at) = (counted(self.changed), grouped(self.looked_at));
        format!("{changed} {}, {looked_at} examined", self.verb)
    }

    async fn through(
        &mut self,
        step: &mut impl AsyncFnMut() -> anyhow::Result<Step>,
    ) -> anyhow::Result<bool> {
        loop {
            let begun = Instant::now();
            let done = step().await?;
            self.took(done);
            if done.last {
                return Ok(true);
            }
            tokio::select! {
                () = sleep(begun.elapsed().max(MIN_PAUSE)) => {}
                _ = self.signals.next() => return Ok(false),
            }
        }
    }

    fn took(&mut self, step: Step) {
        self.looked_at += step.looked_at;
        self.changed += step.changed;
        self.upto = step.upto;
        self.shown.bar().set_position(self.upto.get().unsigned_abs());
        self.shown.bar().set_message(self.line());
        if !step.last && self.shown.wants_line() {
            output::note(self.line());
        }
    }

    fn line(&self) -> String {
        let seconds = self.begun.elapsed().as_secs().max(1);
        let rate = grouped(self.looked_at / seconds);
        let end = self.end.map(|end| format!(", at event {} of {end}", self.upto));
        format!("{}{}, {rate} a second", self.summary(), end.unwrap_or_default())
    }
}

/// A number of events, in words.
pub(super) fn counted(events: u64) -> String {
    format!("{} event{}", grouped(events), if events == 1 { "" } else { "s" })
}

/// A number with separators between groups of three digits.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy).collect();
    groups.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_grouped() {
        assert_eq!(counted(1), "1 event");
        assert_eq!(counted(0), "0 events");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1000), "1,000");
        assert_eq!(grouped(12_345_678), "12,345,678");
    }
}

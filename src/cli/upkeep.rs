//! What `prune` and `erase` have in common: one small step after the other, with a pause after
//! each, a line that tells how far it is, and an end when it is asked to end.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::{output, signals::Signals};
use crate::{event::EventId, progress::Progress, store::upkeep::Step};

/// At least so long others have the disk to themselves between two steps; else as long as the
/// step took.
const PAUSE: Duration = Duration::from_millis(5);

/// Where there is no bar, a line tells this often how far it is.
const SAID_EVERY: Duration = Duration::from_secs(30);

/// Work under way, as somebody sees it who waits for it.
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

/// Steps until the last one; `false` when a signal came before that.
pub(super) async fn work(
    work: &mut Work,
    mut step: impl AsyncFnMut() -> anyhow::Result<Step>,
) -> anyhow::Result<bool> {
    let ended = work.through(&mut step).await;
    work.shown.bar().finish_and_clear();
    ended
}

impl Work {
    /// Nothing done yet; `end` is the id that it ends with, where that is known.
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
            shown: Progress::new(length, template, SAID_EVERY),
            signals: Signals::new()?,
        })
    }

    /// How far it has got.
    pub(super) fn upto(&self) -> EventId {
        self.upto
    }

    /// How many events were changed.
    pub(super) fn changed(&self) -> u64 {
        self.changed
    }

    /// What was done, in one line.
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
                () = sleep(begun.elapsed().max(PAUSE)) => {}
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

/// So many events.
pub(super) fn counted(events: u64) -> String {
    format!("{} event{}", grouped(events), if events == 1 { "" } else { "s" })
}

/// A number that can be read at a glance.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy).collect();
    groups.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_at_a_glance() {
        assert_eq!(counted(1), "1 event");
        assert_eq!(counted(0), "0 events");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1000), "1,000");
        assert_eq!(grouped(12_345_678), "12,345,678");
    }
}

//! The progress of a bootstrap: a bar on a terminal, or a line in the log at intervals.

use std::time::{Duration, Instant};

use indicatif::MultiProgress;
use tracing::info;

use crate::{event::EventId, progress};

/// The interval between lines in the log.
const LOG_INTERVAL: Duration = Duration::from_secs(5);

const BAR: &str = "{prefix} [{bar:30}] {human_pos}/{human_len} {rate}, {eta} left";

/// The progress of one bootstrap, up to the event that was the newest when it began.
#[derive(Debug)]
pub(super) struct Progress {
    name: String,
    from: EventId,
    to: EventId,
    begun: Instant,
    events: u64,
    shown: progress::Progress,
}

impl Progress {
    /// Starts to show the progress, with a bar among `bars`.
    pub(super) fn new(bars: &MultiProgress, name: &str, from: EventId, to: EventId) -> Self {
        info!(aggregator = name, %from, %to, "bootstrapping");
        let shown =
            progress::Progress::new(Some(distance(from, to)), BAR, LOG_INTERVAL).among(bars);
        shown.bar().set_prefix(name.to_owned());
        Self { name: name.to_owned(), from, to, begun: Instant::now(), events: 0, shown }
    }

    /// Adds events that were confirmed, up to this id.
    pub(super) fn confirmed(&mut self, events: usize, upto: EventId) {
        self.events += events as u64;
        self.shown.bar().set_position(distance(self.from, upto));
        if self.shown.wants_line() {
            self.log(upto);
        }
    }

    /// Logs that the bootstrap is complete.
    pub(super) fn done(self) {
        self.shown.bar().finish_and_clear();
        let (events, seconds) = (self.events, self.begun.elapsed().as_secs_f64());
        info!(
            aggregator = %self.name, events, seconds = %format!("{seconds:.1}"),
            per_second = self.rate(), "bootstrapped"
        );
    }

    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rate for people"
    )]
    fn rate(&self) -> u64 {
        (self.events as f64 / self.begun.elapsed().as_secs_f64().max(0.001)) as u64
    }

    fn log(&self, upto: EventId) {
        let (done, all) = (distance(self.from, upto), distance(self.from, self.to).max(1));
        let left = self.begun.elapsed().as_secs() * all.saturating_sub(done) / done.max(1);
        info!(
            aggregator = %self.name, %upto, to = %self.to, percent = (done * 100 / all).min(100),
            per_second = self.rate(), seconds_left = left, "bootstrapping"
        );
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.shown.bar().abandon();
    }
}

fn distance(from: EventId, to: EventId) -> u64 {
    to.get().saturating_sub(from.get()).max(0).unsigned_abs()
}

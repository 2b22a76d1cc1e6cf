//! How a bootstrap gets on: a bar on a terminal, a line now and then in a log.

use std::time::{Duration, Instant};

use indicatif::MultiProgress;
use tracing::info;

use crate::{event::EventId, progress};

/// Lines in a log are this far apart.
const LINES: Duration = Duration::from_secs(5);

const BAR: &str = "{prefix} [{bar:30}] {human_pos}/{human_len} {rate}, {eta} left";

/// One bootstrap, from its beginning to the newest event of that time.
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
    /// Its bar is one of `bars`, each of which has a line of its own.
    pub(super) fn new(bars: &MultiProgress, name: &str, from: EventId, to: EventId) -> Self {
        info!(aggregator = name, %from, %to, "bootstrapping");
        let shown = progress::Progress::new(Some(distance(from, to)), BAR, LINES).among(bars);
        shown.bar().set_prefix(name.to_owned());
        Self { name: name.to_owned(), from, to, begun: Instant::now(), events: 0, shown }
    }

    /// So many more events were confirmed, up to this id.
    pub(super) fn confirmed(&mut self, events: usize, upto: EventId) {
        self.events += events as u64;
        self.shown.bar().set_position(distance(self.from, upto));
        if self.shown.wants_line() {
            self.say(upto);
        }
    }

    /// The aggregator has it all.
    pub(super) fn done(self) {
        self.shown.bar().finish_and_clear();
        let (events, seconds) = (self.events, self.begun.elapsed().as_secs_f64());
        info!(
            aggregator = %self.name, events, seconds = %format!("{seconds:.1}"),
            per_second = self.rate(), "booted"
        );
    }

    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rate and a guess"
    )]
    fn rate(&self) -> u64 {
        (self.events as f64 / self.begun.elapsed().as_secs_f64().max(0.001)) as u64
    }

    fn say(&self, upto: EventId) {
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

//! Progress of long work: a progress bar on a terminal, a line from time to time elsewhere.

use std::{
    fmt::Write,
    io::{IsTerminal, stderr},
    time::{Duration, Instant},
};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use crate::telemetry;

/// The progress of one piece of work.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    line_every: Duration,
    said: Instant,
}

/// Returns a group of bars, each of which is drawn on its own line.
#[must_use]
pub fn bars() -> MultiProgress {
    MultiProgress::with_draw_target(target())
}

/// Draws bars only if standard error is a terminal and logs are not JSON.
fn target() -> ProgressDrawTarget {
    if stderr().is_terminal() && !telemetry::is_json() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    }
}

impl Progress {
    /// Starts the progress of work with this length; `None` if the length is unknown. `template` is a template of
    /// `indicatif`, which may also use `{rate}`. Without a bar, a line is due after each `line_every`.
    ///
    /// # Panics
    /// If the template is invalid.
    #[must_use]
    pub fn new(length: Option<u64>, template: &str, line_every: Duration) -> Self {
        let bar = ProgressBar::with_draw_target(length, target());
        let style = ProgressStyle::with_template(template).expect("the template is valid");
        bar.set_style(style.with_key("rate", rate).progress_chars("=> "));
        Self { bar, line_every, said: Instant::now() }
    }

    /// Adds the bar to a group.
    #[must_use]
    pub fn among(mut self, bars: &MultiProgress) -> Self {
        self.bar = bars.add(self.bar);
        self
    }

    /// The bar. It is hidden if standard error is not a terminal or logs are JSON.
    #[must_use]
    pub fn bar(&self) -> &ProgressBar {
        &self.bar
    }

    /// Returns whether a line is due: the bar is hidden, and the last line is older than the interval. Counts as a
    /// written line if so.
    pub fn wants_line(&mut self) -> bool {
        let due = self.bar.is_hidden() && self.said.elapsed() >= self.line_every;
        if due {
            self.said();
        }
        due
    }

    /// Notes that a line was written now.
    pub fn said(&mut self) {
        self.said = Instant::now();
    }
}

fn rate(state: &ProgressState, out: &mut dyn Write) {
    // Ignore errors: work must continue even if the bar cannot be drawn.
    let _ = write!(out, "{:.0}/s", state.per_sec());
}

//! How far work has got: a bar where a person looks at it, a line now and then anywhere else.

use std::{
    fmt::Write,
    io::{IsTerminal, stderr},
    time::{Duration, Instant},
};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use crate::telemetry;

/// Work under way.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    line_every: Duration,
    said: Instant,
}

/// Several bars, each of which has a line of its own.
#[must_use]
pub fn bars() -> MultiProgress {
    MultiProgress::with_draw_target(target())
}

/// Nobody looks at what is no terminal, and a bar has no place among lines of JSON.
fn target() -> ProgressDrawTarget {
    if stderr().is_terminal() && !telemetry::is_json() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    }
}

impl Progress {
    /// Work of this length, where that is known, shown as the template of `indicatif` says, which may
    /// use `{rate}`.
    ///
    /// # Panics
    /// When the template is wrong.
    #[must_use]
    pub fn new(length: Option<u64>, template: &str, line_every: Duration) -> Self {
        let bar = ProgressBar::with_draw_target(length, target());
        let style = ProgressStyle::with_template(template).expect("the template is right");
        bar.set_style(style.with_key("rate", rate).progress_chars("=> "));
        Self { bar, line_every, said: Instant::now() }
    }

    /// As one of several.
    #[must_use]
    pub fn among(mut self, bars: &MultiProgress) -> Self {
        self.bar = bars.add(self.bar);
        self
    }

    /// Its bar, which is not drawn where nobody would see it.
    #[must_use]
    pub fn bar(&self) -> &ProgressBar {
        &self.bar
    }

    /// Whether it is time for a line: there is no bar, and the last line was long enough ago.
    pub fn wants_line(&mut self) -> bool {
        let due = self.bar.is_hidden() && self.said.elapsed() >= self.line_every;
        if due {
            self.said();
        }
        due
    }

    /// A line was written just now.
    pub fn said(&mut self) {
        self.said = Instant::now();
    }
}

fn rate(state: &ProgressState, out: &mut dyn Write) {
    // A bar that cannot be drawn is no reason to stop.
    let _ = write!(out, "{:.0}/s", state.per_sec());
}

//! Reports the progress of an append: the number of events, their lines and their ids.

use std::time::Duration;

use super::lines::Lines;
use crate::{cli::output, progress::Progress};

/// The interval of progress lines if there is no progress bar.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(30);

/// The events that were written so far.
pub(super) struct Report {
    shown: Progress,
    events: u64,
    /// The first and the last line. `None` for arguments.
    lines: Option<(u64, u64)>,
    /// The smallest and the greatest id in the responses of the gateway.
    ids: Option<(i64, i64)>,
}

impl Report {
    pub(super) fn new(lines: &Lines) -> Self {
        Self { shown: shown(lines), events: 0, lines: None, ids: None }
    }

    /// Adds events that were written, with their lines and their ids.
    pub(super) fn written(&mut self, of: (u64, u64), events: usize, ids: &[i64], lines: &Lines) {
        self.events += events as u64;
        if lines.are_input() {
            self.lines = Some((self.lines.map_or(of.0, |known| known.0), of.1));
        }
        for id in ids {
            let (least, most) = self.ids.unwrap_or((*id, *id));
            self.ids = Some((least.min(*id), most.max(*id)));
        }
        self.shown.bar().set_position(lines.read());
        self.shown.bar().set_message(self.events.to_string());
        if self.shown.wants_line() {
            self.say(self.summary());
        }
    }

    /// Prints a message on standard error, above the progress bar if there is one.
    pub(super) fn say(&mut self, text: impl std::fmt::Display) {
        self.shown.said();
        self.shown.bar().suspend(|| output::note(text));
    }

    /// `2 events were written: lines 1 to 2, ids 7 to 8`.
    pub(super) fn summary(&self) -> String {
        let range = |word: &str, (first, last): (String, String)| {
            if first == last {
                format!("{word} {first}")
            } else {
                format!("{word}s {first} to {last}")
            }
        };
        let lines = self.lines.map(|(a, b)| range("line", (a.to_string(), b.to_string())));
        let ids = self.ids.map(|(a, b)| range("id", (a.to_string(), b.to_string())));
        let which: Vec<_> = lines.into_iter().chain(ids).collect();
        let events = match self.events {
            1 => "1 event was written".to_owned(),
            events => format!("{events} events were written"),
        };
        if which.is_empty() { events } else { format!("{events}: {}", which.join(", ")) }
    }

    /// Removes the progress bar.
    pub(super) fn end(&self) {
        self.shown.bar().finish_and_clear();
    }
}

/// A progress bar if the length is known, and a counter otherwise.
fn shown(lines: &Lines) -> Progress {
    let template = match lines.length() {
        Some(_) => "{bar:40} {percent}% {msg} events {eta}",
        None => "{spinner} {msg} events {elapsed}",
    };
    let shown = Progress::new(lines.length(), template, PROGRESS_INTERVAL);
    shown.bar().set_message("0");
    shown
}

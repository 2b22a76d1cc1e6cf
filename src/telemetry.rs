//! Logs: one line a fact, on standard error; text for people, JSON for machines.

use std::io::{IsTerminal, stderr};

use tracing_subscriber::{EnvFilter, fmt, util::SubscriberInitExt};

/// What an operator can turn on the logs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What is logged: `info`, or `warn,event_piper=debug`.
    pub filter: Filter,
    /// How it is written.
    pub format: Format,
}

/// What is logged, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter(String);

impl Filter {
    /// Reads directives as of `RUST_LOG`.
    pub fn parse(directives: &str) -> Result<Self, tracing_subscriber::filter::ParseError> {
        EnvFilter::builder().parse(directives)?;
        Ok(Self(directives.to_owned()))
    }
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people; in colour on a terminal.
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts logging. Only the first call in a process counts.
pub fn init(settings: &Settings) {
    // A log on a full disk loses lines. To complain of that, where the lines could not go either,
    // would panic.
    let lines = fmt().log_internal_errors(false);
    let lines = lines.with_env_filter(EnvFilter::new(&settings.filter.0)).with_writer(stderr);
    let _ = match settings.format {
        Format::Text => {
            lines.with_ansi(stderr().is_terminal()).with_target(false).finish().try_init()
        }
        Format::Json => lines.json().flatten_event(true).finish().try_init(),
    };
}

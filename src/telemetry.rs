//! Logs: one line a fact, on standard error; text for people, JSON for machines.

use std::{
    io::{IsTerminal, stderr},
    panic::{self, PanicHookInfo},
    sync::atomic::{AtomicBool, Ordering},
};

use tracing::error;
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For people; in colour on a terminal.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Whether this process logs JSON: like the subscriber itself, one for the whole process.
static JSON: AtomicBool = AtomicBool::new(false);

/// Starts logging. Only the first call in a process counts.
pub fn init(settings: &Settings) {
    // A log on a full disk loses lines. To complain of that, where the lines could not go either,
    // would panic.
    let lines = fmt().log_internal_errors(false);
    let lines = lines.with_env_filter(EnvFilter::new(&settings.filter.0)).with_writer(stderr);
    match settings.format {
        Format::Text => {
            let _ = lines.with_ansi(stderr().is_terminal()).with_target(false).finish().try_init();
        }
        Format::Json => {
            if lines.json().flatten_event(true).finish().try_init().is_ok() {
                JSON.store(true, Ordering::Relaxed);
                panic::set_hook(Box::new(log_panic));
            }
        }
    }
}

/// Starts logging of nothing but errors, in this format: for settings that are wrong.
pub fn init_for_errors(format: Format) {
    init(&Settings { filter: Filter("error".to_owned()), format });
}

/// Whether everything on standard error is to be JSON.
#[must_use]
pub fn is_json() -> bool {
    JSON.load(Ordering::Relaxed)
}

fn log_panic(panic: &PanicHookInfo<'_>) {
    let location = panic.location().map(ToString::to_string).unwrap_or_default();
    let message = panic.payload_as_str().unwrap_or("no message");
    error!(location, "this is a bug of EventPiper (panic): {message}");
}

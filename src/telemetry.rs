//! Logging to standard error, as text or as JSON.

use std::{
    io::{IsTerminal, stderr},
    panic::{self, PanicHookInfo},
    sync::atomic::{AtomicBool, Ordering},
};

use tracing::error;
use tracing_subscriber::{EnvFilter, fmt, util::SubscriberInitExt};

/// The settings of the log.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The filter, such as `info` or `warn,event_piper=debug`.
    pub filter: Filter,
    /// The format of log lines.
    pub format: Format,
}

/// A valid log filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter(String);

impl Filter {
    /// Parses directives in the format of `RUST_LOG`.
    pub fn parse(directives: &str) -> Result<Self, tracing_subscriber::filter::ParseError> {
        EnvFilter::builder().parse(directives)?;
        Ok(Self(directives.to_owned()))
    }
}

/// The format of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Text, in colour on a terminal.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// Whether this process logs JSON. Like the subscriber, it is global to the process.
static JSON: AtomicBool = AtomicBool::new(false);

/// Starts logging. Only the first call in a process has an effect.
pub fn init(settings: &Settings) {
    // If the disk of the log is full, lines are lost. Reporting that would fail in the same way, and panic.
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

/// Starts logging errors only, in this format, to report invalid settings.
pub fn init_for_errors(format: Format) {
    init(&Settings { filter: Filter("error".to_owned()), format });
}

/// Returns whether everything on standard error must be JSON.
#[must_use]
pub fn is_json() -> bool {
    JSON.load(Ordering::Relaxed)
}

fn log_panic(panic: &PanicHookInfo<'_>) {
    let location = panic.location().map(ToString::to_string).unwrap_or_default();
    let message = panic.payload_as_str().unwrap_or("no message");
    error!(location, "panic, which is a bug in EventPiper: {message}");
}

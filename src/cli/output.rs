//! What commands print. A reader that has gone away (`event-piper doctor | head -1`) is no error: the
//! command ends with the exit code of what it did. So nothing is printed by macros that panic.

use std::{
    fmt::Display,
    io::{self, ErrorKind, Write, stderr, stdout},
};

use anyhow::Context;
use tracing::{error, info};

use crate::telemetry;

/// Prints a line on standard output.
///
/// # Errors
/// When it cannot be written although somebody may read it, as on a full disk.
pub(super) fn line(text: impl Display) -> anyhow::Result<()> {
    // At once and as a whole: it is read by a program, or it is the last word.
    let mut text = text.to_string();
    text.push('\n');
    let mut out = stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if !is_closed(&error) => Err(error).context("writing to standard output"),
        _ => Ok(()),
    }
}

/// Whether nobody reads any more.
pub(super) fn is_closed(error: &io::Error) -> bool {
    error.kind() == ErrorKind::BrokenPipe
}

/// Says something about the work on standard error, as a log line where logs are JSON. That it
/// cannot be said stops nothing.
pub(super) fn note(text: impl Display) {
    if telemetry::is_json() {
        info!("{text}");
    } else {
        raw(format_args!("event-piper: {text}\n"));
    }
}

/// Says why a command failed, in the same way.
pub(super) fn failure(text: impl Display) {
    if telemetry::is_json() {
        error!("{text}");
    } else {
        raw(format_args!("event-piper: {text}\n"));
    }
}

fn raw(text: impl Display) {
    let mut err = stderr().lock();
    let _ = write!(err, "{text}");
    let _ = err.flush();
}

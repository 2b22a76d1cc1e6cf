//! The output of commands. A closed standard output (`event-piper doctor | head -1`) is not an error: the
//! command ends with its usual exit code. So the macros that panic are not used.

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
/// If writing fails for another reason than a closed output, such as a full disk.
pub(super) fn line(text: impl Display) -> anyhow::Result<()> {
    // The line is written at once, because a program may read it while the command runs.
    let mut text = text.to_string();
    text.push('\n');
    let mut out = stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if !is_closed(&error) => Err(error).context("writing to standard output"),
        _ => Ok(()),
    }
}

/// Whether an error means that the reader has closed the output.
pub(super) fn is_closed(error: &io::Error) -> bool {
    error.kind() == ErrorKind::BrokenPipe
}

/// Prints a note on standard error, or as a log line if logs are JSON. Errors are ignored.
pub(super) fn note(text: impl Display) {
    if telemetry::is_json() {
        info!("{text}");
    } else {
        raw(format_args!("event-piper: {text}\n"));
    }
}

/// Prints why a command failed, in the same way.
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

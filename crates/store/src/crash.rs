//! Ends the process after a panic that left shared state half changed.
//!
//! A request that panics is answered with 500, and nothing else suffers. But the state behind a lock that was
//! held, or in a task that everything depends on, may be wrong after a panic, and events could be lost
//! silently. After a restart everything is read from PostgreSQL again, and clients resume with their cursors.

use std::{
    panic::{AssertUnwindSafe, resume_unwind},
    process,
    sync::{Mutex, MutexGuard},
};

use futures::FutureExt;
use tracing::error;

/// The exit status of the process: `EX_SOFTWARE` of `sysexits.h`.
pub const STATUS: i32 = 70;

/// A lock that is held for moments, never across an await. If its holder panics, the process ends.
#[derive(Debug, Default)]
pub struct Lock<T>(Mutex<T>);

impl<T> Lock<T> {
    /// Creates a lock around this value.
    pub const fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }

    /// Waits for the lock.
    ///
    /// Ends the process if a holder of the lock has panicked.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(|_| end("shared state is half changed"))
    }
}

/// Runs a task that everything depends on. If it panics, the process ends. `what` names it in the log.
pub async fn vital<F: Future>(what: &'static str, work: F) -> F::Output {
    // The future is not used again after a panic.
    match AssertUnwindSafe(work).catch_unwind().await {
        Ok(output) => output,
        // While the process is ending already, the runtime drops its tasks.
        Err(panic) if std::thread::panicking() => resume_unwind(panic),
        Err(_) => end(what),
    }
}

/// Ends the process after a panic.
pub fn end(what: &str) -> ! {
    error!("after the panic above, the process ends: {what}");
    process::exit(STATUS)
}

//! Ends the process where a panic of its own left something half changed that everybody shares.
//!
//! A request that panics is answered with 500, and nothing else suffers. But behind a lock that was
//! held, or in a task that everything rests on, nobody knows what is true any more: events could be
//! lost in silence. After a restart everything is read from PostgreSQL again, and clients come back
//! with their cursors.

use std::{
    panic::{AssertUnwindSafe, resume_unwind},
    process,
    sync::{Mutex, MutexGuard},
};

use futures::FutureExt;
use tracing::error;

/// The status that the process ends with, `EX_SOFTWARE` of `sysexits.h`.
pub const STATUS: i32 = 70;

/// A lock that is held for moments, never across an await. If a holder panicked, the process ends.
#[derive(Debug, Default)]
pub struct Lock<T>(Mutex<T>);

impl<T> Lock<T> {
    /// Protects this value.
    pub const fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }

    /// Waits for the lock.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(|_| end("a value that is shared is half changed"))
    }
}

/// Does what everything rests on: if it panics, the process ends.
pub async fn vital<F: Future>(what: &'static str, work: F) -> F::Output {
    // It is not looked at any more after a panic.
    match AssertUnwindSafe(work).catch_unwind().await {
        Ok(output) => output,
        // While the process ends already, the runtime lets go of its tasks.
        Err(panic) if std::thread::panicking() => resume_unwind(panic),
        Err(_) => end(what),
    }
}

/// Ends the process after a panic.
pub fn end(what: &str) -> ! {
    error!("after the panic above, the process ends: {what}");
    process::exit(STATUS)
}

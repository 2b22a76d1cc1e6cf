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

#[cfg(test)]
pub(crate) mod tests {
    use std::{env, panic::catch_unwind, process::Command};

    use super::*;
    use crate::telemetry;

    const CHILD: &str = "EVENT_PIPER_TEST_CRASHES";

    /// Runs this test once more in a process of its own, which does `crash`, and must end by it.
    pub(crate) fn ends_the_process(test: &str, crash: impl FnOnce()) {
        if env::var_os(CHILD).is_some() {
            telemetry::init_for_errors(telemetry::Format::Text);
            crash();
            return;
        }
        let mut child = Command::new(env::current_exe().unwrap());
        child.args(["--exact", test, "--nocapture", "--test-threads=1"]).env(CHILD, "1");
        let output = child.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(STATUS), "{said}");
        assert!(said.contains("the process ends"), "{said}");
    }

    #[test]
    fn a_lock_whose_holder_panicked_ends_the_process() {
        ends_the_process("crash::tests::a_lock_whose_holder_panicked_ends_the_process", || {
            let lock = Lock::new((1, 1));
            let changed = catch_unwind(AssertUnwindSafe(|| {
                let mut pair = lock.lock();
                pair.0 = 2;
                panic!("between two changes that belong together");
            }));
            assert!(changed.is_err());
            let (one, two) = *lock.lock();
            assert_eq!(one, two, "nobody gets to see this");
        });
    }

    #[test]
    fn what_everything_rests_on_ends_the_process_when_it_panics() {
        let name = "crash::tests::what_everything_rests_on_ends_the_process_when_it_panics";
        ends_the_process(name, || {
            let runtime = tokio::runtime::Builder::new_multi_thread().build().unwrap();
            runtime.block_on(async {
                let reader = tokio::spawn(vital("nothing is read any more", async {
                    panic!("in the reader");
                }));
                let () = reader.await.unwrap();
            });
        });
    }
}

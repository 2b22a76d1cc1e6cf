//! Ends the process after a panic: see [`event_piper_store::crash`]. Its tests are here, because they
//! need the log of a process.

pub use event_piper_store::crash::*;

#[cfg(test)]
pub(crate) mod tests {
    use std::{
        env,
        panic::{AssertUnwindSafe, catch_unwind},
        process::Command,
    };

    use super::*;
    use crate::telemetry;

    const CHILD: &str = "EVENT_PIPER_TEST_CRASHES";

    /// Runs the test `test` again in a child process, which calls `crash`, and checks that this ends the process.
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
            assert_eq!(one, two, "no one sees an inconsistent value");
        });
    }

    #[test]
    fn a_panic_in_a_vital_task_ends_the_process() {
        let name = "crash::tests::a_panic_in_a_vital_task_ends_the_process";
        ends_the_process(name, || {
            let runtime = tokio::runtime::Builder::new_multi_thread().build().unwrap();
            runtime.block_on(async {
                let reader = tokio::spawn(vital("the reader has ended", async {
                    panic!("in the reader");
                }));
                let () = reader.await.unwrap();
            });
        });
    }
}

//! Support for all tests.

pub(crate) mod app;
pub(crate) mod browser;
pub(crate) mod chaos_proxy;
pub(crate) mod disk;
pub(crate) mod killable;
pub(crate) mod life;
pub(crate) mod ports;
pub(crate) mod postgres;
pub(crate) mod process;
pub(crate) mod program;
pub(crate) mod scratch;
pub(crate) mod sse_client;

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// Longer than any test waits for a condition, also on a busy machine.
const DEADLINE: Duration = Duration::from_mins(2);
/// The pause between two probes.
const PROBE_INTERVAL: Duration = Duration::from_millis(5);

/// Calls `probe` until it returns a value, and returns that. Panics with `what` if none arrives in time.
pub(crate) async fn eventually<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(value) = probe().await {
            return value;
        }
        assert!(Instant::now() < deadline, "not within {DEADLINE:?}: {what}");
        sleep(PROBE_INTERVAL).await;
    }
}

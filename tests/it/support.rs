//! What every test stands on.

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

/// Longer than anything a healthy test waits for, on a busy machine too.
const DEADLINE: Duration = Duration::from_mins(2);
/// Often enough that a test does not notice it.
const PAUSE: Duration = Duration::from_millis(5);

/// Probes until there is an answer, and gives it; panics with `what` when none comes in time.
pub(crate) async fn eventually<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(answer) = probe().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "not within {DEADLINE:?}: {what}");
        sleep(PAUSE).await;
    }
}

//! What reading a page takes: memory for it, and patience while PostgreSQL is away.

use std::time::Duration;

use tracing::debug;

use crate::{
    access::budget::{Account, Share},
    backoff::Policy,
    store::{error::Chain, event_log::PageSize, history::HistoryError},
};

/// Between attempts while PostgreSQL is away.
const RETRY_BACKOFF: Policy = Policy::new(Duration::from_millis(50), Duration::from_secs(2));

/// A page's last event is read whatever is before it. One that was written by other means than ours may
/// be larger than this: it is counted once it was read.
const LAST_EVENT_BYTES: usize = 1 << 20;

/// Waits for memory for a page and for its last event. `None`: pages are not counted.
pub(crate) async fn memory_for_page(account: Option<&Account>, page: PageSize) -> Option<Share> {
    let page = usize::try_from(page.bytes).unwrap_or(usize::MAX);
    Some(account?.room(page + LAST_EVENT_BYTES).await)
}

/// Asks until there is an answer.
pub(crate) async fn with_retries<T, F: Future<Output = Result<T, HistoryError>>>(
    mut ask: impl FnMut() -> F,
) -> T {
    let mut backoff = RETRY_BACKOFF.start();
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(error) => debug!(error = %Chain(&error), "a reader waits for PostgreSQL"),
        }
        backoff.wait().await;
    }
}

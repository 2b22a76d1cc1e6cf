//! What each read of a page needs: memory for the page, and retries while PostgreSQL is not available.

use std::time::Duration;

use tracing::debug;

use crate::{
    access::budget::{Account, Share},
    backoff::Policy,
    store::{error::ErrorChain, event_log::PageSize, history::HistoryError},
};

/// The pauses between attempts while PostgreSQL is not available.
const RETRY_BACKOFF: Policy = Policy::new(Duration::from_millis(50), Duration::from_secs(2));

/// The bytes reserved for a page's last event, which is read regardless of the size of those before it. An
/// event that was written with plain SQL may be larger; the excess is counted after it was read.
const LAST_EVENT_BYTES: usize = 1 << 20;

/// Waits for memory for a page, its last event included. `None` if there is no account to count pages in.
pub(crate) async fn memory_for_page(account: Option<&Account>, page: PageSize) -> Option<Share> {
    let page = usize::try_from(page.bytes).unwrap_or(usize::MAX);
    Some(account?.room(page + LAST_EVENT_BYTES).await)
}

/// Calls `ask` until it succeeds, with a backoff.
pub(crate) async fn with_retries<T, F: Future<Output = Result<T, HistoryError>>>(
    mut ask: impl FnMut() -> F,
) -> T {
    let mut backoff = RETRY_BACKOFF.start();
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(error) => {
                debug!(error = %ErrorChain(&error), "a read of the table failed; trying again");
            }
        }
        backoff.wait().await;
    }
}

//! One stream's events in the order of their versions: history first, then live.
//!
//! A version that follows the previous one is returned as soon as it is visible, because nothing can appear
//! between them. If versions are missing, the next one is returned only when nothing before it can appear any
//! more, and after an item that says which versions are missing.

use std::sync::Arc;

use tokio::{select, sync::watch};

use super::{
    horizon::Horizon,
    page::{memory_for_page, with_retries},
    streams::StreamRegistration,
};
use crate::{
    access::budget::{Account, Share},
    event::name::StreamName,
    store::{
        event_log::PageSize,
        history::{History, StoredEvent},
    },
};

/// A reader of one stream. It reads only on demand, so a slow caller costs nothing.
#[derive(Debug)]
pub struct Versions {
    history: Arc<History>,
    horizon: watch::Receiver<Horizon>,
    registration: StreamRegistration,
    stream: StreamName,
    /// The last version that was returned or reported as missing.
    after: i64,
    /// It was checked whether the stream reaches as far as `after`.
    end_checked: bool,
    caught_up: bool,
    /// The account that pages are counted in, if they are counted.
    account: Option<Account>,
    /// The memory share of the page that the caller is handling.
    page: Option<Share>,
}

/// What comes next in a stream.
#[derive(Debug)]
pub enum StreamItem {
    /// At least one event, in the order of versions.
    Events(Vec<StoredEvent>),
    /// The versions after the first number, up to and including the second, do not exist.
    Missing(i64, i64),
    /// The stream ends before the version that the reader has, the first number, so it is another stream.
    /// The reader continues after its end, the second number.
    Reset(i64, i64),
    /// Everything that exists by now has been returned. It is returned once.
    CaughtUp,
}

/// The size of a page, which is in memory while the caller handles it.
const STREAM_PAGE: PageSize = PageSize { rows: 1000, bytes: 256 << 10 };

impl Versions {
    pub(super) fn new(
        history: Arc<History>,
        horizon: watch::Receiver<Horizon>,
        registration: StreamRegistration,
        stream: StreamName,
        after: i64,
    ) -> Self {
        let (end_checked, caught_up, account, page) = (false, false, None, None);
        Self {
            history,
            horizon,
            registration,
            stream,
            after,
            end_checked,
            caught_up,
            account,
            page,
        }
    }

    /// Sets the caller in whose name the table is read.
    #[must_use]
    pub fn on_behalf_of(mut self, caller: &Arc<str>) -> Self {
        self.history = Arc::new(self.history.of(caller));
        self
    }

    /// Counts each page in this account, from before it is read until the next item is requested.
    #[must_use]
    pub fn counted_in(mut self, account: Account) -> Self {
        self.account = Some(account);
        self
    }

    /// The last version that was returned or reported as missing.
    #[must_use]
    pub fn after(&self) -> i64 {
        self.after
    }

    /// Waits for the next item. `None` if the process shuts down.
    ///
    /// # Cancel safety
    /// Cancel safe: if the future is dropped before it is ready, no event is lost.
    pub async fn next(&mut self) -> Option<StreamItem> {
        loop {
            self.page = None;
            let horizon = self.horizon.borrow_and_update().clone();
            if horizon.closing {
                return None;
            }
            let (item, held) = self.read_next(horizon).await;
            if item.is_some() {
                return item;
            }
            if !held && !std::mem::replace(&mut self.caught_up, true) {
                return Some(StreamItem::CaughtUp);
            }
            select! {
                () = self.registration.woken() => {}
                moved = self.horizon.changed(), if held => moved.ok()?,
            }
        }
    }

    /// Reads the next page. The flag says that there are events that are held back, because versions before
    /// them are missing and may still appear.
    async fn read_next(&mut self, horizon: Horizon) -> (Option<StreamItem>, bool) {
        if !std::mem::replace(&mut self.end_checked, true)
            && let Some(reset) = self.reset_beyond_end().await
        {
            return (Some(reset), false);
        }
        // There is no version after the greatest number.
        let Some(next) = self.after.checked_add(1) else { return (None, false) };
        let mut share = memory_for_page(self.account.as_ref(), STREAM_PAGE).await;
        let (history, stream) = (&self.history, &self.stream);
        let page = with_retries(|| history.stream(stream, next, STREAM_PAGE)).await;
        if let Some(share) = &mut share {
            share.settle(page.bytes());
        }
        let version = |event: &StoredEvent| event.version.unwrap_or_default();
        let Some(first) = page.events.first() else { return (None, false) };
        if version(first) > next {
            if first.id > horizon.settled {
                return (None, true);
            }
            let missing = (self.after, version(first) - 1);
            self.after = missing.1;
            return (Some(StreamItem::Missing(missing.0, missing.1)), false);
        }
        let follows = |(event, due): &(StoredEvent, i64)| version(event) == *due;
        let events = page.events.into_iter().zip(next..=i64::MAX).take_while(follows);
        let events: Vec<StoredEvent> = events.map(|(event, _)| event).collect();
        self.after = events.last().map_or(self.after, version);
        self.page = share;
        (Some(StreamItem::Events(events)), false)
    }

    /// Resets a reader that has a version after the end of the stream: it read another stream before.
    async fn reset_beyond_end(&mut self) -> Option<StreamItem> {
        if self.after < 1 {
            return None;
        }
        let (history, stream) = (&self.history, &self.stream);
        let last = with_retries(|| history.last_version(stream)).await;
        let from = self.after;
        if from <= last {
            return None;
        }
        self.after = last;
        Some(StreamItem::Reset(from, last))
    }
}

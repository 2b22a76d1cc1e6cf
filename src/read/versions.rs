//! One stream's events in the order of their versions: history first, then live.
//!
//! A version that follows the one before it can go as soon as it is visible: nothing can come
//! between. Where versions are missing, the next one goes only when nothing before it can
//! appear any more, and the reader is told what is missing.

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
        history::{History, WholeEvent},
    },
};

/// See the module. It reads on only when it is asked, so a slow caller costs nothing.
#[derive(Debug)]
pub struct Versions {
    history: Arc<History>,
    horizon: watch::Receiver<Horizon>,
    registration: StreamRegistration,
    stream: StreamName,
    /// The last version that was handed over, or is not there.
    after: i64,
    /// Whether the stream is known to reach as far as `after`.
    known: bool,
    caught_up: bool,
    /// Where pages are counted, if they are.
    account: Option<Account>,
    /// Room for the page that is being dealt with.
    page: Option<Share>,
}

/// What comes next in a stream.
#[derive(Debug)]
pub enum StreamItem {
    /// At least one event, in the order of versions.
    Events(Vec<WholeEvent>),
    /// Versions behind the first of these numbers, up to the second, are not there.
    Missing(i64, i64),
    /// The stream ends before what the reader has: it is another one. It goes on behind its
    /// end, the second number.
    Reset(i64, i64),
    /// Everything there was by now has been handed over. It comes once.
    CaughtUp,
}

/// A page: what a slow reader costs while it deals with it.
const STREAM_PAGE: PageSize = PageSize { rows: 1000, bytes: 256 << 10 };

impl Versions {
    pub(super) fn new(
        history: Arc<History>,
        horizon: watch::Receiver<Horizon>,
        registration: StreamRegistration,
        stream: StreamName,
        after: i64,
    ) -> Self {
        let (known, caught_up, account, page) = (false, false, None, None);
        Self { history, horizon, registration, stream, after, known, caught_up, account, page }
    }

    /// Reads in the name of this caller.
    #[must_use]
    pub fn on_behalf_of(mut self, caller: &Arc<str>) -> Self {
        self.history = Arc::new(self.history.of(caller));
        self
    }

    /// Counts each page here, from before it is read until the next step is asked for.
    #[must_use]
    pub fn counted_in(mut self, account: Account) -> Self {
        self.account = Some(account);
        self
    }

    /// The last version that was handed over, or is not there.
    #[must_use]
    pub fn after(&self) -> i64 {
        self.after
    }

    /// What comes next, however long that takes; `None` when the gateway ends.
    ///
    /// Nothing is lost when the future is dropped before it is ready.
    pub async fn next(&mut self) -> Option<StreamItem> {
        loop {
            self.page = None;
            let horizon = self.horizon.borrow_and_update().clone();
            if horizon.closing {
                return None;
            }
            let (item, held) = self.look(horizon).await;
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

    /// Reads on. What is there may be held by what is missing before it.
    async fn look(&mut self, horizon: Horizon) -> (Option<StreamItem>, bool) {
        if !std::mem::replace(&mut self.known, true)
            && let Some(reset) = self.reach().await
        {
            return (Some(reset), false);
        }
        // Behind the greatest version there is none.
        let Some(next) = self.after.checked_add(1) else { return (None, false) };
        let mut share = memory_for_page(self.account.as_ref(), STREAM_PAGE).await;
        let (history, stream) = (&self.history, &self.stream);
        let page = with_retries(|| history.stream(stream, next, STREAM_PAGE)).await;
        if let Some(share) = &mut share {
            share.settle(page.bytes());
        }
        let version = |event: &WholeEvent| event.version.unwrap_or_default();
        let Some(first) = page.events.first() else { return (None, false) };
        if version(first) > next {
            if first.id > horizon.settled {
                return (None, true);
            }
            let missing = (self.after, version(first) - 1);
            self.after = missing.1;
            return (Some(StreamItem::Missing(missing.0, missing.1)), false);
        }
        let follows = |(event, due): &(WholeEvent, i64)| version(event) == *due;
        let events = page.events.into_iter().zip(next..=i64::MAX).take_while(follows);
        let events: Vec<WholeEvent> = events.map(|(event, _)| event).collect();
        self.after = events.last().map_or(self.after, version);
        self.page = share;
        (Some(StreamItem::Events(events)), false)
    }

    /// A reader that has more than there is has read another stream.
    async fn reach(&mut self) -> Option<StreamItem> {
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

//! What a subscription reads from the table, with retries: while PostgreSQL is away it tries
//! again, and the client hears heartbeats meanwhile.

use std::{sync::Arc, time::Duration};

use futures::{FutureExt, future::BoxFuture};
use tokio::{spawn, sync::oneshot, time::timeout};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    access::budget::{Account, Share},
    consumer::ConsumerId,
    event::{EventId, Logged},
    live::follower::Scan,
    read::{
        amended::{Corrected, Corrections, Patcher},
        page::with_retries,
    },
    store::{
        event_log::{Page, PageSize, Paging},
        history::{History, HistoryError},
    },
};

/// What was read for a subscription.
pub(super) enum Read {
    /// The next page of its replay.
    Page(ReadPage),
    /// The last id that was drawn.
    Drawn(Option<EventId>),
}

/// A page of a replay, and what belongs to it.
pub(super) struct ReadPage {
    /// The rows.
    pub(super) page: Page,
    /// The greatest id of these consumers that had been pruned when they were read.
    pub(super) pruned: EventId,
    /// What corrects them, for those who want to see that.
    pub(super) corrections: Corrections,
    /// Room for its bytes, where they are counted.
    pub(super) share: Option<Share>,
}

/// A read under way.
pub(super) type Reading = BoxFuture<'static, Read>;

/// A page of a replay. It is what a slow client costs, so it is small; a large payload is
/// read alone.
pub(super) const REPLAY_PAGE: PageSize = PageSize { rows: 1000, bytes: 128 << 10 };

/// So long is kept what was read ahead.
const READ_AHEAD_KEPT: Duration = Duration::from_secs(1);

/// What is to be read.
pub(super) enum Wanted {
    /// The next page of a replay.
    Page {
        /// Which rows.
        scan: Scan,
        /// Whose.
        consumers: Box<[ConsumerId]>,
        /// How much of it.
        paging: Paging,
        /// What looks up what corrects its rows, where that is wanted, too.
        patcher: Option<Arc<Patcher>>,
        /// Where its bytes are counted, if they are.
        account: Option<Account>,
    },
    /// The last id that was drawn.
    Drawn,
}

/// Room for a page's last event, which is read whatever is before it. One that is written by other means
/// than ours may be larger: it is counted once it was read.
const LAST_BYTES: usize = 1 << 20;

/// The same where the rows are small, as far as is known.
const SMALL_LAST_BYTES: usize = 8 << 10;

/// Reads what is wanted, however long that takes.
pub(super) fn read(history: Arc<History>, wanted: Wanted) -> Reading {
    async move { wanted.with_retries(&history).await }.boxed()
}

/// Begins to read what will be wanted soon. Where it is fetched too late it is let go of, and read
/// again: a client that does not read costs no more memory for it, and gets nothing that was
/// erased long ago. One that takes longer than that for a page has each read twice, which it seldom
/// asks for.
pub(super) fn read_ahead(history: Arc<History>, wanted: Wanted) -> Reading {
    let wanted = Arc::new(wanted);
    let (fetch, fetched) = oneshot::channel();
    let ahead = {
        let (history, wanted) = (Arc::clone(&history), Arc::clone(&wanted));
        async move {
            let read = wanted.with_retries(&history).await;
            timeout(READ_AHEAD_KEPT, fetched).await.is_ok().then_some(read)
        }
    };
    let ahead = AbortOnDropHandle::new(spawn(ahead));
    async move {
        // Whether it still waits for that shows in what it answers.
        let _ = fetch.send(());
        match ahead.await {
            Ok(Some(read)) => read,
            _ => wanted.with_retries(&history).await,
        }
    }
    .boxed()
}

impl Wanted {
    /// First waits for room for a page.
    async fn with_retries(&self, history: &History) -> Read {
        let share = self.memory().await;
        let mut read = with_retries(|| self.read(history)).await;
        if let (Read::Page(page), Some(share)) = (&mut read, share) {
            page.hold(share);
        }
        read
    }

    async fn memory(&self) -> Option<Share> {
        let Self::Page { paging, account: Some(account), .. } = self else { return None };
        let last = if paging.are_small() { SMALL_LAST_BYTES } else { LAST_BYTES };
        let page = usize::try_from(REPLAY_PAGE.bytes).unwrap_or(usize::MAX);
        Some(account.room(page + last).await)
    }

    async fn read(&self, history: &History) -> Result<Read, HistoryError> {
        let Self::Page { scan, consumers, paging, patcher, account: _ } = self else {
            return Ok(Read::Drawn(history.drawn().await?));
        };
        // What was pruned is asked for with every page: what is missing among its rows, because
        // somebody prunes just now, is known here.
        let (mut page, pruned) = match scan {
            scan if scan.is_empty() => (Page::empty(), history.pruned(consumers).await?),
            &Scan::Rows { after, upto } => history.rows(consumers, (after, upto), *paging).await?,
            Scan::Marked { marks, after, upto } => {
                history.marked(consumers, marks, (*after, *upto), *paging).await?
            }
        };
        let corrections = match patcher {
            Some(patcher) => correct(&mut page, patcher, history).await?,
            None => Corrections::new(),
        };
        Ok(Read::Page(ReadPage { page, pruned, corrections, share: None }))
    }
}

impl ReadPage {
    /// Counts what it has from now on, and no longer what it might have had.
    fn hold(&mut self, mut share: Share) {
        share.settle(self.page.bytes());
        self.share = Some(share);
    }
}

/// What corrects the rows of a page. Where the payloads become too many, the page ends there.
async fn correct(
    page: &mut Page,
    patcher: &Patcher,
    history: &History,
) -> Result<Corrections, HistoryError> {
    let events = page.rows.iter().filter(|row| row.amends().is_none());
    let events = events.map(|row| (row.id(), row.payload()));
    let Corrected { corrections, upto } = patcher.corrections(history, events).await?;
    if let Some(upto) = upto {
        let rows = page.rows.partition_point(|row| row.id() <= upto);
        page.last &= rows == page.rows.len();
        page.rows.truncate(rows);
    }
    Ok(corrections)
}

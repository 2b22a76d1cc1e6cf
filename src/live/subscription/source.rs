//! What a subscription reads from the table. While PostgreSQL is not available a read is retried, and the
//! client gets heartbeats in the meantime.

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
    snapshot::Snapshot,
    store::{
        event_log::{Page, PageSize, Paging},
        history::{History, HistoryError, SnapshotReach},
    },
};

/// The result of a read for a subscription.
pub(super) enum Read {
    /// The next page of its replay.
    Page(ReadPage),
    /// The last id that was drawn from the sequence, if it can be known.
    Drawn(Option<EventId>),
    /// How far the cursor's snapshot reaches.
    Reach(SnapshotReach),
}

/// A page of a replay.
pub(super) struct ReadPage {
    /// The rows.
    pub(super) page: Page,
    /// The greatest id of these consumers that had been pruned when the rows were read.
    pub(super) pruned: EventId,
    /// The corrections of the rows; empty if the client wants events as they were written.
    pub(super) corrections: Corrections,
    /// The memory share of the page, if pages are counted.
    pub(super) share: Option<Share>,
}

/// A read in progress.
pub(super) type Reading = BoxFuture<'static, Read>;

/// The size of a page of a replay. A slow client holds one page, so it is small. A large payload is read
/// alone.
pub(super) const REPLAY_PAGE: PageSize = PageSize { rows: 1000, bytes: 128 << 10 };

/// How long a page that was read ahead is kept.
const READ_AHEAD_KEPT: Duration = Duration::from_secs(1);

/// What to read.
pub(super) enum Wanted {
    /// The next page of a replay.
    Page {
        /// The rows.
        scan: Scan,
        /// The consumers whose rows are read.
        consumers: Box<[ConsumerId]>,
        /// The size of the page.
        paging: Paging,
        /// Looks up the corrections of the rows, if the client wants them.
        patcher: Option<Arc<Patcher>>,
        /// The account that the page's bytes are counted in, if they are counted.
        account: Option<Account>,
    },
    /// The last id that was drawn from the sequence.
    Drawn,
    /// How far a snapshot reaches.
    Reach {
        /// The snapshot.
        snapshot: Arc<Snapshot>,
        /// The consumers of which it is asked whether events were pruned since.
        consumers: Box<[ConsumerId]>,
    },
}

/// The bytes reserved for a page's last event, which is read regardless of the size of those before it. An
/// event that was written with plain SQL may be larger; the excess is counted after it was read.
const LAST_EVENT_BYTES: usize = 1 << 20;

/// The bytes reserved for a page's last event where the rows read so far are small.
const SMALL_LAST_EVENT_BYTES: usize = 8 << 10;

/// Reads what is wanted, and retries until that succeeds.
pub(super) fn read(history: Arc<History>, wanted: Wanted) -> Reading {
    async move { wanted.with_retries(&history).await }.boxed()
}

/// Starts to read what will be wanted soon. If the returned future is not polled within
/// [`READ_AHEAD_KEPT`] after the read, the page is dropped and read again on demand. So a client that does
/// not read costs no memory for the page, and gets nothing that was erased in the meantime. For a client
/// that takes longer than that for each page, every page is read twice; such a client asks for pages rarely.
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
        // If the task has given up waiting, its result says so.
        let _ = fetch.send(());
        match ahead.await {
            Ok(Some(read)) => read,
            _ => wanted.with_retries(&history).await,
        }
    }
    .boxed()
}

impl Wanted {
    /// Waits for memory for a page, then reads until that succeeds.
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
        let last = if paging.are_small() { SMALL_LAST_EVENT_BYTES } else { LAST_EVENT_BYTES };
        let page = usize::try_from(REPLAY_PAGE.bytes).unwrap_or(usize::MAX);
        Some(account.room(page + last).await)
    }

    async fn read(&self, history: &History) -> Result<Read, HistoryError> {
        let (scan, consumers, paging, patcher) = match self {
            Self::Drawn => return Ok(Read::Drawn(history.drawn().await?)),
            Self::Reach { snapshot, consumers } => {
                return Ok(Read::Reach(history.reach(snapshot, consumers).await?));
            }
            Self::Page { scan, consumers, paging, patcher, account: _ } => {
                (scan, consumers, paging, patcher)
            }
        };
        // The greatest pruned id is read with every page, so that rows which are missing because of a
        // concurrent prune are accounted for.
        let (mut page, pruned) = match scan {
            scan if scan.is_empty() => (Page::empty(), history.pruned(consumers).await?),
            &Scan::Rows { after, upto } => history.rows(consumers, (after, upto), *paging).await?,
            Scan::Reach(_) => unreachable!("it is no page"),
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
    /// Reduces the share from the reserved size to the page's actual size, and keeps it.
    fn hold(&mut self, mut share: Share) {
        share.settle(self.page.bytes());
        self.share = Some(share);
    }
}

/// Looks up the corrections of a page's rows. If the corrected payloads become too large, the page is cut
/// after the last event whose corrections are known.
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

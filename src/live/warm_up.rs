//! Fills the recent events after a start, so that clients which reconnect to a restarted gateway need no
//! query of their own.

use std::sync::Arc;

use tracing::debug;

use super::{
    hub::Hub,
    recent::{HistoryPage, Reach},
};
use crate::{
    consumer::ConsumerId,
    event::{EventId, Logged},
    item::frame::{self, Encoder, Frame},
    store::{
        error::ErrorChain,
        event_log::{EventRow, PageSize, Paging},
        history::{History, HistoryError},
    },
};

/// A page of the history that is loaded.
const WARM_UP_PAGE: PageSize = PageSize { rows: 2000, bytes: 1 << 20 };

/// Reads backwards from `start`, where the reader began, until the recent events are full. This is an
/// optimization: if it fails, clients read from the table.
pub(super) async fn warm_up(history: Arc<History>, hub: Arc<Hub>, start: EventId, epoch: u64) {
    if let Err(error) = read_back(&history, &hub, start, epoch).await {
        debug!(error = %ErrorChain(&error), "cannot load recent events into memory");
    }
}

async fn read_back(
    history: &History,
    hub: &Hub,
    start: EventId,
    epoch: u64,
) -> Result<(), HistoryError> {
    let (mut upto, mut paging) = (start, Paging::new(WARM_UP_PAGE));
    while upto > EventId::ZERO {
        let page = history.newest(upto, paging.size()).await?;
        paging.learn(&page);
        // Must be queried after the rows were read: see `Reach::of`.
        let pruned = history.ever_pruned().await?;
        let Reach { after, next } = Reach::of(&page.rows, page.last, upto, pruned);
        let past = HistoryPage { upto, after, rows: encoded(&page.rows, after) };
        let wants_more = hub.state().warm_up(epoch, past);
        let Some(next) = next.filter(|_| wants_more) else { break };
        upto = next;
    }
    Ok(())
}

/// The rows above `after` that are for a consumer.
fn encoded(rows: &[EventRow], after: EventId) -> Vec<(ConsumerId, Frame)> {
    let mut encoder = Encoder::default();
    let rows = rows.iter().filter(|row| row.id() > after);
    let frame = |row: &EventRow| {
        let data = frame::data(row.amends(), row.payload());
        Some((row.subscriber()?, encoder.encode(row, row.kind(), &data)))
    };
    rows.filter_map(frame).collect()
}

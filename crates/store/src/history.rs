//! Reads history through the pool, a page at a time. No connection is held between pages.

mod busy;
mod columns;
mod failures;
mod queries;
mod reach;
mod sql;
mod whole;

use tokio::time::timeout;
use tokio_postgres::types::{ToSql, Type};
use uuid::Uuid;

use self::{
    queries::READ_DEADLINE,
    sql::{
        AMENDMENTS, EVENT, EVER_PRUNED, HAS_UID, MARKED, MARKED_FAR, NEWEST, PRUNED, ROWS,
        SMALL_ROWS, SMALL_ROWS_OF_ONE,
    },
};
pub use self::{
    queries::{History, HistoryError},
    reach::SnapshotReach,
    whole::{Amendment, EventPage, StoredEvent},
};
use crate::{
    consumer::ConsumerId,
    cursor::Mark,
    doctor::{self, Finding},
    event::{EventId, Xid},
    event_log::{self, FEW_LATE, Page, PageSize, Paging, Span},
};

/// The names of the reads, in `/readyz` and in the log.
const PRUNED_READ: &str = "what was pruned";
const ONE_EVENT: &str = "one event";

impl History {
    /// Those findings of [`doctor`] that put delivery at risk.
    pub async fn unsafe_findings(&self) -> Result<Vec<Finding>, HistoryError> {
        let query = self.connection().await?;
        let found = timeout(READ_DEADLINE, doctor::unsafe_findings(query.client())).await;
        if !matches!(found, Ok(Ok(_))) {
            query.close();
            return Ok(found.map_err(|_| HistoryError::Silent)??);
        }
        query.give_back();
        Ok(found.map_err(|_| HistoryError::Silent)??)
    }

    /// A page of these consumers' rows above `after` and up to `upto`, and the greatest id of theirs that had
    /// been pruned when the page was read.
    pub async fn rows(
        &self,
        consumers: &[ConsumerId],
        (after, upto): (EventId, EventId),
        paging: Paging,
    ) -> Result<(Page, EventId), HistoryError> {
        let (names, size, stored) = (names(consumers), paging.size(), paging.stored_bytes());
        let types = [Type::TEXT_ARRAY, Type::INT8, Type::INT8, Type::INT8, Type::INT8];
        let values: [&(dyn ToSql + Sync); 5] = [&names, &after, &upto, &size.rows, &stored];
        if paging.are_small() {
            let (rows, pruned) = if let [name] = names[..] {
                let types = [Type::TEXT, Type::INT8, Type::INT8, Type::INT8];
                let values: [&(dyn ToSql + Sync); 4] = [&name, &after, &upto, &size.rows];
                self.page((SMALL_ROWS_OF_ONE, &types, &values), size, &names).await?
            } else {
                self.page((SMALL_ROWS, &types[..4], &values[..4]), size, &names).await?
            };
            let page = Page::of_small(rows, size);
            if page.last || !page.rows.is_empty() {
                return Ok((page, pruned));
            }
        }
        let (rows, pruned) = self.page((ROWS, &types, &values), size, &names).await?;
        Ok((Page::of(rows, size), pruned))
    }

    /// The same for the rows of marked transactions only, each above its mark.
    pub async fn marked(
        &self,
        consumers: &[ConsumerId],
        marks: &[Mark],
        range: (EventId, EventId),
        paging: Paging,
    ) -> Result<(Page, EventId), HistoryError> {
        let (names, size, (mut after, upto)) = (names(consumers), paging.size(), range);
        let xids: Vec<Xid> = marks.iter().map(|mark| mark.xid).collect();
        let uptos: Vec<EventId> = marks.iter().map(|mark| mark.upto).collect();
        let (numbers, stored) = (event_log::numbers(&xids), paging.stored_bytes());
        if Span::of(range) == Span::Long {
            let values: [&(dyn ToSql + Sync); 8] =
                [&names, &after, &upto, &size.rows, &stored, &xids, &uptos, &numbers];
            let (rows, pruned) = self.page((MARKED_FAR, &[], &values), size, &names).await?;
            if !rows.is_empty() || self.wrote_few(&numbers, range).await? {
                return Ok((Page::of(rows, size), pruned));
            }
        }
        loop {
            let end = Span::short_end(after).min(upto);
            let values: [&(dyn ToSql + Sync); 7] =
                [&names, &after, &end, &size.rows, &stored, &xids, &uptos];
            let (rows, pruned) = self.page((MARKED, &[], &values), size, &names).await?;
            let mut page = Page::of(rows, size);
            page.last &= end == upto;
            if end == upto || !page.rows.is_empty() {
                return Ok((page, pruned));
            }
            after = end;
        }
    }

    /// Whether these transactions wrote so few rows in a range that all of them can be sorted for each page.
    /// Where they wrote more, a query reads a short part of the range only, so that the time for a page is
    /// bounded.
    async fn wrote_few(
        &self,
        numbers: &[i64],
        (after, upto): (EventId, EventId),
    ) -> Result<bool, HistoryError> {
        let rows = self.one("what was late", FEW_LATE, &[&numbers, &after, &upto]).await?;
        Ok(rows.first().is_some_and(|row| row.get(0)))
    }

    /// A page of all consumers' rows up to an id, newest first.
    pub async fn newest(&self, upto: EventId, size: PageSize) -> Result<Page, HistoryError> {
        let values: [&(dyn ToSql + Sync); 3] = [&upto, &size.rows, &size.bytes];
        let rows = self.query("recent events", NEWEST, &[], &values, size.bytes).await?;
        Ok(Page::of(rows, size))
    }

    /// The greatest pruned id of these consumers; 0 if none was pruned.
    pub async fn pruned(&self, consumers: &[ConsumerId]) -> Result<EventId, HistoryError> {
        let rows = self.one(PRUNED_READ, &PRUNED, &[&names(consumers)]).await?;
        Ok(rows.first().map_or(EventId::ZERO, |row| row.get(0)))
    }

    /// The greatest pruned id of all consumers; 0 if none was pruned.
    pub async fn ever_pruned(&self) -> Result<EventId, HistoryError> {
        let rows = self.one(PRUNED_READ, &EVER_PRUNED, &[]).await?;
        Ok(rows.first().map_or(EventId::ZERO, |row| row.get(0)))
    }

    /// The last id that was drawn. `None` where the role may not see the sequence.
    pub async fn drawn(&self) -> Result<Option<EventId>, HistoryError> {
        let rows = self.one("the sequence of ids", event_log::DRAWN, &[]).await?;
        Ok(rows.first().and_then(|row| row.get(0)))
    }

    /// One event with all its columns.
    pub async fn event(&self, id: EventId) -> Result<Option<StoredEvent>, HistoryError> {
        let rows = self.one(ONE_EVENT, EVENT, &[&id]).await?;
        Ok(rows.first().map(StoredEvent::from))
    }

    /// Whether an event was written under this `uid`.
    pub async fn has_uid(&self, uid: Uuid) -> Result<bool, HistoryError> {
        Ok(!self.one(ONE_EVENT, HAS_UID, &[&uid]).await?.is_empty())
    }

    /// A page of the amendments of these events, in the order of the amended events and then of the
    /// amendments' ids. `after` is the last amendment (target and id) of the preceding page. The page after
    /// the last one is empty.
    pub async fn amendments(
        &self,
        events: &[EventId],
        after: (EventId, EventId),
        size: PageSize,
    ) -> Result<Vec<Amendment>, HistoryError> {
        let values: [&(dyn ToSql + Sync); 4] = [&events, &after.0, &after.1, &size.rows];
        let rows = self.query("amendments", AMENDMENTS, &[], &values, size.bytes).await?;
        Ok(rows.iter().map(Amendment::from).collect())
    }
}

fn names(consumers: &[ConsumerId]) -> Vec<&str> {
    consumers.iter().map(ConsumerId::as_str).collect()
}

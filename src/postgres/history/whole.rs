//! Pages of whole events, with all that was noted of them.

use tokio_postgres::{
    Row,
    types::{ToSql, Type},
};

use super::{History, HistoryError, WholeEvent};
use crate::{
    event::{EventId, name::StreamName},
    postgres::event_log::PageSize,
};

/// A page of whole events.
#[derive(Debug)]
pub struct WholePage {
    /// The events.
    pub events: Vec<WholeEvent>,
    /// No event stood behind these when they were read.
    pub last: bool,
}

/// A page of whole events; FROM is what it reads, ORDER how these are ordered.
macro_rules! whole_page {
    ($order:literal, $from:literal) => {
        concat!(
            "select page.id, page.type, page.subscriber, page.payload, page.stream, page.version,
                    page.uid, page.metadata, page.\"timestamp\", page.amends, page.found
            from (select item.id, item.type, item.subscriber, item.payload, item.stream,
                         item.version, item.uid, item.metadata, item.\"timestamp\", item.amends,
                         count(*) over () as found,
                         sum(item.size) over (order by item.",
            $order,
            ") - item.size as before
                  from (select ",
            whole!(),
            ", pg_column_size(log.payload) + coalesce(pg_column_size(log.metadata), 0) as size
                        from events log ",
            $from,
            ") item
            ) page where page.before <= $4 order by page.",
            $order
        )
    };
}

/// Everybody's events in id order.
const EVERYBODYS: &str =
    whole_page!("id", "where log.id > $1 and log.id <= $2 order by log.id limit $3");

/// A stream's events from a version on.
const STREAM: &str = whole_page!(
    "version",
    "where log.stream = $1 and log.version >= $2 order by log.version limit $3"
);

/// The same, down from a version.
const STREAM_BACKWARD: &str = whole_page!(
    "version desc",
    "where log.stream = $1 and log.version <= $2 order by log.version desc limit $3"
);

/// What is read, in words.
const A_STREAM: &str = "a stream";

const LAST_VERSION: &str = "
select coalesce((select log.version::int8 from events log
                 where log.stream = $1 order by log.version desc limit 1), 0)";

impl History {
    /// A page of everybody's events above `after` and up to `upto`, in id order.
    pub async fn everybodys(
        &self,
        (after, upto): (EventId, EventId),
        size: PageSize,
    ) -> Result<WholePage, HistoryError> {
        let types = [Type::INT8, Type::INT8, Type::INT8, Type::INT8];
        let values: [&(dyn ToSql + Sync); 4] = [&after, &upto, &size.rows, &size.bytes];
        let rows = self.query("the whole log", EVERYBODYS, &types, &values, size.bytes).await?;
        Ok(WholePage::of(&rows, size))
    }

    /// A page of a stream's events from version `first` on.
    pub async fn stream(
        &self,
        stream: &StreamName,
        first: i64,
        size: PageSize,
    ) -> Result<WholePage, HistoryError> {
        self.page_of_stream(STREAM, stream, first, size).await
    }

    /// A page of a stream's events down from version `first`.
    pub async fn stream_backward(
        &self,
        stream: &StreamName,
        first: i64,
        size: PageSize,
    ) -> Result<WholePage, HistoryError> {
        self.page_of_stream(STREAM_BACKWARD, stream, first, size).await
    }

    /// A stream's last version; 0 while it has none.
    pub async fn last_version(&self, stream: &StreamName) -> Result<i64, HistoryError> {
        let rows = self.one(A_STREAM, LAST_VERSION, &[&stream.as_str()]).await?;
        Ok(rows.first().map_or(0, |row| row.get(0)))
    }

    async fn page_of_stream(
        &self,
        query: &'static str,
        stream: &StreamName,
        first: i64,
        size: PageSize,
    ) -> Result<WholePage, HistoryError> {
        let types = [Type::TEXT, Type::INT8, Type::INT8, Type::INT8];
        let name = stream.as_str();
        let values: [&(dyn ToSql + Sync); 4] = [&name, &first, &size.rows, &size.bytes];
        let rows = self.query(A_STREAM, query, &types, &values, size.bytes).await?;
        Ok(WholePage::of(&rows, size))
    }
}

impl WholePage {
    /// A page behind which there is nothing.
    #[must_use]
    pub fn empty() -> Self {
        Self { events: Vec::new(), last: true }
    }

    fn of(rows: &[Row], size: PageSize) -> Self {
        let found = rows.first().map_or(0, |row| row.get::<_, i64>(10));
        let whole = i64::try_from(rows.len()) == Ok(found);
        let events = rows.iter().map(WholeEvent::from).collect();
        Self { last: whole && found < size.rows, events }
    }
}

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

/// Everybody's events in id order.
const EVERYBODYS: &str = concat!(
    "select ",
    whole!(),
    ", found, amends from (
    select *, count(*) over () as found, sum(size) over (order by id) - size as before
    from (select *, pg_column_size(payload) + coalesce(pg_column_size(metadata), 0) as size
          from events where id > $1 and id <= $2 order by id limit $3) page
) page where before <= $4 order by id"
);

/// A stream's events from a version on.
const STREAM: &str = concat!(
    "select ",
    whole!(),
    ", found, amends from (
    select *, count(*) over () as found, sum(size) over (order by version) - size as before
    from (select *, pg_column_size(payload) + coalesce(pg_column_size(metadata), 0) as size
          from events where stream = $1 and version >= $2 order by version limit $3) page
) page where before <= $4 order by version"
);

/// The same, down from a version.
const STREAM_BACKWARD: &str = concat!(
    "select ",
    whole!(),
    ", found, amends from (
    select *, count(*) over () as found, sum(size) over (order by version desc) - size as before
    from (select *, pg_column_size(payload) + coalesce(pg_column_size(metadata), 0) as size
          from events where stream = $1 and version <= $2 order by version desc limit $3) page
) page where before <= $4 order by version desc"
);

const LAST_VERSION: &str = "
select coalesce((select version from events where stream = $1 order by version desc limit 1), 0)";

impl History {
    /// A page of everybody's events above `after` and up to `upto`, in id order.
    pub async fn everybodys(
        &self,
        (after, upto): (EventId, EventId),
        size: PageSize,
    ) -> Result<WholePage, HistoryError> {
        let types = [Type::INT8, Type::INT8, Type::INT8, Type::INT8];
        let values: [&(dyn ToSql + Sync); 4] = [&after, &upto, &size.rows, &size.bytes];
        let rows = self.query(EVERYBODYS, &types, &values, size.bytes).await?;
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
        let rows = self.query(LAST_VERSION, &[], &[&stream.as_str()], i64::MAX).await?;
        Ok(rows.first().map_or(0, |row| row.get(0)))
    }

    async fn page_of_stream(
        &self,
        query: &str,
        stream: &StreamName,
        first: i64,
        size: PageSize,
    ) -> Result<WholePage, HistoryError> {
        let types = [Type::TEXT, Type::INT8, Type::INT8, Type::INT8];
        let name = stream.as_str();
        let values: [&(dyn ToSql + Sync); 4] = [&name, &first, &size.rows, &size.bytes];
        let rows = self.query(query, &types, &values, size.bytes).await?;
        Ok(WholePage::of(&rows, size))
    }
}

impl WholePage {
    fn of(rows: &[Row], size: PageSize) -> Self {
        let found = rows.first().map_or(0, |row| row.get::<_, i64>(9));
        let whole = i64::try_from(rows.len()) == Ok(found);
        let events = rows.iter().map(WholeEvent::from).collect();
        Self { last: whole && found < size.rows, events }
    }
}

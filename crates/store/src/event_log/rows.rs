//! Rows of the log for delivery, in pages.

use std::time::Duration;

use futures::TryStreamExt;
use tokio_postgres::{Client, Row, Statement, types::ToSql};

use super::values::Json;
use crate::{
    consumer::ConsumerId,
    event::{EventId, Logged, Xid},
};

/// A row of the log for delivery.
#[derive(Debug)]
pub struct EventRow(pub(super) Row);

impl EventRow {
    /// The consumer that the event is for. `None` if it belongs to a stream only. Only for rows of queries
    /// that do not name consumers.
    #[must_use]
    pub fn subscriber(&self) -> Option<ConsumerId> {
        self.0.get::<_, Option<&str>>(5).map(ConsumerId::logged)
    }

    /// The event's type.
    #[must_use]
    pub fn kind(&self) -> &str {
        self.0.get(2)
    }

    /// The payload, as PostgreSQL prints it.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        self.0.get::<_, Json<'_>>(3).0
    }

    /// The stream that the event belongs to, if the query asks for it.
    #[must_use]
    pub fn stream(&self) -> Option<&str> {
        self.0.try_get(6).ok().flatten()
    }

    /// The event that this one amends, if any.
    #[must_use]
    pub fn amends(&self) -> Option<EventId> {
        self.0.get(4)
    }

    /// How long ago the transaction committed, by PostgreSQL's clock. `None` if the server has
    /// `track_commit_timestamp` off.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        let seconds: Option<f64> = self.0.try_get(7).ok()?;
        Duration::try_from_secs_f64(seconds?).ok()
    }
}

impl Logged for EventRow {
    fn id(&self) -> EventId {
        self.0.get(0)
    }

    fn xid(&self) -> Xid {
        self.0.get(1)
    }
}

/// A page of rows in id order.
#[derive(Debug)]
pub struct Page {
    /// The rows.
    pub rows: Vec<EventRow>,
    /// Whether there was no row behind these when they were read.
    pub last: bool,
}

/// The limits of a page. The first row is always taken, however large it is.
#[derive(Clone, Copy, Debug)]
pub struct PageSize {
    /// The most rows.
    pub rows: i64,
    /// The most bytes behind the first row.
    pub bytes: i64,
}

impl Page {
    /// A last page without rows.
    #[must_use]
    pub fn empty() -> Self {
        Self { rows: Vec::new(), last: true }
    }

    /// The number of bytes in the page.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.rows.iter().map(|row| row.0.raw_size_bytes()).sum()
    }

    /// Creates a page of small rows. It ends before the first payload that was withheld.
    pub(crate) fn of_small(rows: Vec<Row>, size: PageSize) -> Self {
        let came = rows.len();
        let shown = |row: &Row| row.get::<_, Option<Json<'_>>>(3).is_some();
        let mut rows: Vec<Row> = rows;
        rows.truncate(rows.iter().take_while(|row| shown(row)).count());
        let whole = rows.len() == came && i64::try_from(came).is_ok_and(|came| came < size.rows);
        let mut page = Self { last: false, rows: rows.into_iter().map(EventRow).collect() };
        // If the page was cut at its size, there may be rows behind it.
        page.last = whole && i64::try_from(page.bytes()).is_ok_and(|bytes| bytes < size.bytes);
        page
    }

    /// Creates a page of rows without contents.
    pub(crate) fn of_places(rows: Vec<Row>, size: PageSize) -> Self {
        let last = i64::try_from(rows.len()).is_ok_and(|came| came < size.rows);
        Self { last, rows: rows.into_iter().map(EventRow).collect() }
    }

    pub(crate) fn of(rows: Vec<Row>, size: PageSize) -> Self {
        let found = rows.first().map_or(0, |row| row.get::<_, i64>("found"));
        let whole = i64::try_from(rows.len()) == Ok(found);
        Self { last: whole && found < size.rows, rows: rows.into_iter().map(EventRow).collect() }
    }
}

/// The rows of a query, as far as they fit into this many bytes; the first row always does. The connection
/// discards the others.
pub(crate) async fn rows(
    client: &Client,
    statement: &Statement,
    values: &[&(dyn ToSql + Sync)],
    bytes: i64,
) -> Result<Vec<Row>, tokio_postgres::Error> {
    let arriving = client.query_raw(statement, values.iter().copied()).await?;
    let mut arriving = std::pin::pin!(arriving);
    let (mut rows, mut room) = (Vec::new(), usize::try_from(bytes).unwrap_or(usize::MAX));
    while let Some(row) = arriving.try_next().await? {
        room = room.saturating_sub(row.raw_size_bytes());
        rows.push(row);
        if room == 0 {
            break;
        }
    }
    Ok(rows)
}

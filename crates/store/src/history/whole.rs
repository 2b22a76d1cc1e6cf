//! Pages of full events, with all their columns.

use tokio_postgres::{
    Row,
    types::{ToSql, Type},
};

use super::{
    columns::whole,
    queries::{History, HistoryError},
};
use crate::{
    cursor::Mark,
    event::{EventId, Logged, Xid, name::StreamName},
    event_log::{self, PageSize, Paging, Span},
};

/// One event with all its columns.
#[derive(Debug)]
pub struct StoredEvent {
    /// The event's id.
    pub id: EventId,
    /// The event's type.
    pub kind: String,
    /// The consumer that the event is for. `None` if it belongs to a stream only.
    pub subscriber: Option<String>,
    /// The payload, as JSON.
    pub payload: String,
    /// The stream that the event belongs to, if any.
    pub stream: Option<String>,
    /// The version in the stream.
    pub version: Option<i64>,
    /// The writer's own id of the event.
    pub uid: Option<String>,
    /// The writer's notes, as JSON.
    pub metadata: Option<String>,
    /// The time in RFC 3339, in UTC. A time that RFC 3339 cannot express is as PostgreSQL prints it.
    pub timestamp: String,
    /// The event that this one amends, if any.
    pub amends: Option<EventId>,
    /// The transaction that wrote it.
    pub xid: Xid,
}

impl Logged for StoredEvent {
    fn id(&self) -> EventId {
        self.id
    }

    fn xid(&self) -> Xid {
        self.xid
    }
}

/// An amendment of an event.
#[derive(Debug)]
pub struct Amendment {
    /// The amended event.
    pub target: EventId,
    /// The amendment's id.
    pub id: EventId,
    /// The patch, as JSON.
    pub patch: String,
}

impl From<&Row> for Amendment {
    fn from(row: &Row) -> Self {
        Self { target: row.get(0), id: row.get(1), patch: row.get(2) }
    }
}

impl From<&Row> for StoredEvent {
    fn from(row: &Row) -> Self {
        Self {
            id: row.get(0),
            kind: row.get(1),
            subscriber: row.get(2),
            payload: row.get(3),
            stream: row.get(4),
            version: row.get(5),
            uid: row.get(6),
            metadata: row.get(7),
            timestamp: row.get(8),
            amends: row.get(9),
            xid: row.get(10),
        }
    }
}

/// A page of full events.
#[derive(Debug)]
pub struct EventPage {
    /// The events.
    pub events: Vec<StoredEvent>,
    /// Whether there was no event behind these when they were read.
    pub last: bool,
}

/// The columns of an event, of a relation in which they are text already.
macro_rules! printed {
    ($of:literal) => {
        concat!(
            $of,
            ".id, ",
            $of,
            ".type, ",
            $of,
            ".subscriber, ",
            $of,
            ".payload, ",
            $of,
            ".stream, ",
            $of,
            ".version, ",
            $of,
            ".uid, ",
            $of,
            ".metadata, ",
            $of,
            ".\"timestamp\", ",
            $of,
            ".amends, ",
            $of,
            ".xid"
        )
    };
}

/// All consumers' events in id order. The columns are converted to text last, so that nothing is converted
/// for which the page has no room.
macro_rules! all_events {
    ($from:literal) => {
        concat!(
            "select ",
            whole!(),
            ", log.found
            from (select item.id, item.type, item.subscriber, item.payload, item.stream,
                         item.version, item.uid, item.metadata, item.\"timestamp\", item.amends,
                         item.xid, count(*) over () as found,
                         sum(item.size) over (order by item.id) - item.size as before
                  from (select log.id, log.type, log.subscriber, log.payload, log.stream, log.version,
                               log.uid, log.metadata, log.\"timestamp\", log.amends, log.xid,
                               pg_column_size(log.payload)
                                   + coalesce(pg_column_size(log.metadata), 0) as size
                        from ",
            $from,
            " limit $3) item
            ) log where log.before <= $4 order by log.id"
        )
    };
}

const ALL_EVENTS: &str =
    all_events!("events log where log.id > $1 and log.id <= $2 order by log.id");

/// The same for certain transactions, each above an id of its own.
const ALL_EVENTS_OF: &str = all_events!(
    "events log where log.id > $1 and log.id <= $2 and log.xid::text::int8 = any($5)
       and log.id > ($6::int8[])[array_position($5, log.xid::text::int8)] order by log.id"
);

/// The same over a long [`Span`]: by the index on `xid` alone, and only if that finds few rows. See
/// `History::wrote_few`.
const ALL_EVENTS_OF_FAR: &str = all_events!(
    r#"(select few.id, few.type, few.subscriber, few.payload, few.stream, few.version, few.uid,
               few.metadata, few."timestamp", few.amends, few.xid, count(*) over () as late
        from (select found.id, found.type, found.subscriber, found.payload, found.stream,
                     found.version, found.uid, found.metadata, found."timestamp", found.amends,
                     found.xid
              from events found
              where found.xid::text::int8 = any($5) and found.id + 0 > $1 and found.id + 0 <= $2
              limit 2001) few) log
       where log.late <= 2000
         and log.id > ($6::int8[])[array_position($5, log.xid::text::int8)] order by log.id"#
);

/// A page of a stream. Events are added one by one until the page has as many as it may, or as many bytes.
/// Stored events may be compressed a hundredfold, or have numbers with exponents. So they are measured as
/// text, and nothing is converted to text for which the page has no room.
macro_rules! stream_page {
    ($first:literal, $next:literal, $order:literal) => {
        concat!(
            "with recursive page(id, type, subscriber, payload, stream, version, uid, metadata,
                                 \"timestamp\", amends, xid, bytes, number) as (
                (select ",
            printed!("item"),
            ", octet_length(item.payload)::int8 + coalesce(octet_length(item.metadata), 0), 1::int8
                 from (select ",
            whole!(),
            " from events log where log.stream = $1 and log.version ",
            $first,
            " $2 order by log.version ",
            $order,
            " limit 1) item)
                union all
                select ",
            printed!("item"),
            ", page.bytes + octet_length(item.payload) + coalesce(octet_length(item.metadata), 0),
                       page.number + 1
                from page, lateral (select ",
            whole!(),
            " from events log where log.stream = $1 and log.version ",
            $next,
            " page.version order by log.version ",
            $order,
            " limit 1) item
                where page.bytes < $4 and page.number < $3
            )
            select ",
            printed!("page"),
            ", page.bytes, page.number from page order by page.number"
        )
    };
}

/// A stream's events from a version upwards.
const STREAM: &str = stream_page!(">=", ">", "");

/// A stream's events from a version downwards.
const STREAM_BACKWARD: &str = stream_page!("<=", "<", "desc");

/// The name of the read, in `/readyz` and in the log.
const A_STREAM: &str = "a stream";

const LAST_VERSION: &str = "
select coalesce((select log.version::int8 from events log
                 where log.stream = $1 order by log.version desc limit 1), 0)";

impl History {
    /// A page of all consumers' events above `after` and up to `upto`, in id order.
    pub async fn all_events(
        &self,
        (after, upto): (EventId, EventId),
        paging: Paging,
    ) -> Result<EventPage, HistoryError> {
        let (size, stored) = (paging.size(), paging.stored_bytes());
        let types = [Type::INT8, Type::INT8, Type::INT8, Type::INT8];
        let values: [&(dyn ToSql + Sync); 4] = [&after, &upto, &size.rows, &stored];
        let rows = self.query("the whole log", ALL_EVENTS, &types, &values, size.bytes).await?;
        Ok(EventPage::of(&rows, size))
    }

    /// The same for the events that marked transactions wrote above their marks. Also returns the id up to
    /// which the page is complete, which may be below `upto`, even if the page is empty.
    pub async fn all_events_of(
        &self,
        marks: &[Mark],
        range: (EventId, EventId),
        paging: Paging,
    ) -> Result<(EventPage, EventId), HistoryError> {
        let (xids, behind): (Vec<Xid>, Vec<EventId>) =
            marks.iter().map(|mark| (mark.xid, mark.upto)).unzip();
        let xids = event_log::numbers(&xids);
        if Span::of(range) == Span::Long {
            let page = self.late_page(ALL_EVENTS_OF_FAR, (&xids, &behind), range, paging).await?;
            if !page.events.is_empty() || self.wrote_few(&xids, range).await? {
                return Ok((page, range.1));
            }
        }
        let end = Span::short_end(range.0).min(range.1);
        let page = self.late_page(ALL_EVENTS_OF, (&xids, &behind), (range.0, end), paging).await?;
        Ok((page, end))
    }

    async fn late_page(
        &self,
        sql: &'static str,
        (xids, behind): (&Vec<i64>, &Vec<EventId>),
        (after, upto): (EventId, EventId),
        paging: Paging,
    ) -> Result<EventPage, HistoryError> {
        let (size, stored) = (paging.size(), paging.stored_bytes());
        let (int8, numbers) = (Type::INT8, Type::INT8_ARRAY);
        let types = [int8.clone(), int8.clone(), int8.clone(), int8, numbers.clone(), numbers];
        let values: [&(dyn ToSql + Sync); 6] = [&after, &upto, &size.rows, &stored, xids, behind];
        let rows = self.query("what was late", sql, &types, &values, size.bytes).await?;
        Ok(EventPage::of(&rows, size))
    }

    /// A page of a stream's events from version `first` upwards.
    pub async fn stream(
        &self,
        stream: &StreamName,
        first: i64,
        size: PageSize,
    ) -> Result<EventPage, HistoryError> {
        self.page_of_stream(STREAM, stream, first, size).await
    }

    /// A page of a stream's events from version `first` downwards.
    pub async fn stream_backward(
        &self,
        stream: &StreamName,
        first: i64,
        size: PageSize,
    ) -> Result<EventPage, HistoryError> {
        self.page_of_stream(STREAM_BACKWARD, stream, first, size).await
    }

    /// A stream's last version; 0 if it has no event.
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
    ) -> Result<EventPage, HistoryError> {
        let types = [Type::TEXT, Type::INT8, Type::INT8, Type::INT8];
        let name = stream.as_str();
        let values: [&(dyn ToSql + Sync); 4] = [&name, &first, &size.rows, &size.bytes];
        // The query itself limits the page in bytes.
        let rows = self.query(A_STREAM, query, &types, &values, i64::MAX).await?;
        Ok(EventPage::of_stream(&rows, size))
    }
}

impl StoredEvent {
    /// The approximate size, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.payload.len() + self.metadata.as_ref().map_or(0, String::len)
    }
}

impl EventPage {
    /// A last page without events.
    #[must_use]
    pub fn empty() -> Self {
        Self { events: Vec::new(), last: true }
    }

    /// The approximate size of the events, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.events.iter().map(StoredEvent::bytes).sum()
    }

    fn of_stream(rows: &[Row], size: PageSize) -> Self {
        let (bytes, number) = rows.last().map_or((0, 0), |row| (row.get(11), row.get(12)));
        let events = rows.iter().map(StoredEvent::from).collect();
        Self { last: size.bytes > bytes && size.rows > number, events }
    }

    fn of(rows: &[Row], size: PageSize) -> Self {
        let found = rows.first().map_or(0, |row| row.get::<_, i64>(11));
        let whole = i64::try_from(rows.len()) == Ok(found);
        let events = rows.iter().map(StoredEvent::from).collect();
        Self { last: whole && found < size.rows, events }
    }
}

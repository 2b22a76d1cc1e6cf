//! History, read through the pool a page at a time: no connection is held between pages.

/// All that is noted of an event, of the table `events` under the name `log`. RFC 3339 has years of four
/// digits and no infinity, PostgreSQL has others: such a time is shown as PostgreSQL prints it.
macro_rules! whole {
    () => {
        r#"log.id::int8 as id, log.type::text as type, log.subscriber::text as subscriber,
        log.payload::text as payload, log.stream::text as stream, log.version::int8 as version,
        log.uid::text as uid, log.metadata::text as metadata,
        case when extract(year from log."timestamp" at time zone 'UTC') between 1 and 9999
             then to_char(log."timestamp" at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
             else log."timestamp"::text end as "timestamp",
        log.amends::int8 as amends"#
    };
}

mod busy;
mod failures;
mod sql;
mod whole;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use deadpool_postgres::{Object, Pool, PoolError};
use futures::try_join;
use prometheus_client::metrics::gauge::Gauge;
use tokio::time::timeout;
use tokio_postgres::{
    Row,
    types::{ToSql, Type},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

pub use self::whole::{Amendment, WholeEvent, WholePage};
use self::{
    busy::{Busy, Canceller},
    failures::Failures,
    sql::{
        AMENDMENTS, EVENT, EVER_PRUNED, HAS_UID, MARKED, MARKED_FAR, NEWEST, PRUNED, ROWS,
        SMALL_ROWS, SMALL_ROWS_OF_ONE,
    },
};
use super::{
    doctor::{self, Finding},
    error::{Chain, is_of_connection},
    event_log::{self, FEW_LATE, Page, PageSize, Paging, Span},
    server::Server,
    turns::Turns,
};
use crate::{
    consumer::ConsumerId,
    cursor::Mark,
    event::{EventId, Xid},
};

/// Reads history for any number of callers, so many pages at once as the pool has connections.
/// Callers wait for their turns in rotation, page by page, so that a long replay holds up nobody,
/// and one caller's hundred replays do not hold up another's.
#[derive(Clone, Debug)]
pub struct History {
    pool: Pool,
    turns: Arc<Turns>,
    failures: Arc<Failures>,
    /// In whose name it reads.
    caller: Arc<str>,
    canceller: Option<Canceller>,
}

/// What is read, and how.
struct Query<'a> {
    /// What it is called in `/readyz` and in the log.
    what: &'static str,
    sql: &'static str,
    types: &'a [Type],
    values: &'a [&'a (dyn ToSql + Sync)],
    /// No more than this is taken of what comes.
    bytes: i64,
    /// Also asks, behind it, what these consumers had been pruned of.
    pruned_of: Option<&'a [&'a str]>,
}

/// Why a page could not be read.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// No connection could be had.
    #[error("connecting to PostgreSQL")]
    Connect(#[from] PoolError),
    /// The query failed.
    #[error("reading history")]
    Read(#[from] tokio_postgres::Error),
    /// PostgreSQL did not answer; the connection was given up.
    #[error("PostgreSQL did not answer within {} s", DEADLINE.as_secs())]
    Silent,
}

/// No page takes this long on a connection that lives.
const DEADLINE: Duration = Duration::from_secs(15);

/// What is read, in words.
const PRUNED_READ: &str = "what was pruned";
const ONE_EVENT: &str = "one event";

impl History {
    /// Reads through this pool.
    #[must_use]
    pub fn new(pool: Pool) -> Self {
        let size = pool.status().max_size;
        Self::limited(pool, size.div_ceil(2), Gauge::default())
    }

    /// The same with so many queries of one caller's at once; this gauge shows how many wait.
    #[must_use]
    pub fn limited(pool: Pool, most_each: usize, waiting: Gauge) -> Self {
        let turns = Turns::new(pool.status().max_size, most_each, waiting);
        Self { pool, turns, failures: Arc::default(), caller: "".into(), canceller: None }
    }

    /// The same, which cancels queries that nobody waits for any more: a server notices by itself only
    /// from PostgreSQL 14 on, on Linux, and within a second.
    #[must_use]
    pub fn cancelling(
        self,
        server: &Server,
        tasks: &TaskTracker,
        shutdown: &CancellationToken,
    ) -> Self {
        Self { canceller: Some(Canceller::new(server, tasks, shutdown)), ..self }
    }

    /// In whose name it reads.
    #[must_use]
    pub fn caller(&self) -> &Arc<str> {
        &self.caller
    }

    /// The same in the name of this caller.
    #[must_use]
    pub fn of(&self, caller: &Arc<str>) -> Self {
        Self { caller: Arc::clone(caller), ..self.clone() }
    }

    /// Nothing, or what could not be read for long, and why.
    pub fn check(&self, now: Instant) -> Result<(), String> {
        self.failures.check(now)
    }

    /// What the database lacks of what delivery rests on.
    pub async fn unsafe_findings(&self) -> Result<Vec<Finding>, HistoryError> {
        let busy = self.connection().await?;
        let found = timeout(DEADLINE, doctor::unsafe_findings(busy.client())).await;
        if !matches!(found, Ok(Ok(_))) {
            busy.close();
            return Ok(found.map_err(|_| HistoryError::Silent)??);
        }
        busy.give_back();
        Ok(found.map_err(|_| HistoryError::Silent)??)
    }

    /// Connections that are open, and those of them that are idle.
    #[must_use]
    pub fn connections(&self) -> (usize, usize) {
        let status = self.pool.status();
        (status.size, status.available)
    }

    /// A page of these consumers' rows above `after` and up to `upto`; and the greatest id of theirs
    /// that had been pruned when it was read.
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

    /// The same of these consumers' rows that the marked transactions wrote, each above its mark.
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

    /// Whether transactions wrote so little in a range that all of it is sorted for each page. Where they
    /// wrote more, a query looks at a short part of the range: no page takes the longer, the more it is.
    async fn wrote_few(
        &self,
        numbers: &[i64],
        (after, upto): (EventId, EventId),
    ) -> Result<bool, HistoryError> {
        let rows = self.one("what was late", FEW_LATE, &[&numbers, &after, &upto]).await?;
        Ok(rows.first().is_some_and(|row| row.get(0)))
    }

    /// A page of everybody's rows up to an id, newest first.
    pub async fn newest(&self, upto: EventId, size: PageSize) -> Result<Page, HistoryError> {
        let values: [&(dyn ToSql + Sync); 3] = [&upto, &size.rows, &size.bytes];
        let rows = self.query("recent events", NEWEST, &[], &values, size.bytes).await?;
        Ok(Page::of(rows, size))
    }

    /// The greatest id of these consumers that was pruned; 0 when none was.
    pub async fn pruned(&self, consumers: &[ConsumerId]) -> Result<EventId, HistoryError> {
        let rows = self.one(PRUNED_READ, &PRUNED, &[&names(consumers)]).await?;
        Ok(rows.first().map_or(EventId::ZERO, |row| row.get(0)))
    }

    /// The greatest id of anybody that was pruned; 0 when none was.
    pub async fn ever_pruned(&self) -> Result<EventId, HistoryError> {
        let rows = self.one(PRUNED_READ, &EVER_PRUNED, &[]).await?;
        Ok(rows.first().map_or(EventId::ZERO, |row| row.get(0)))
    }

    /// The last id that was drawn; `None` where the role may not see the sequence.
    pub async fn drawn(&self) -> Result<Option<EventId>, HistoryError> {
        let rows = self.one("the sequence of ids", event_log::DRAWN, &[]).await?;
        Ok(rows.first().and_then(|row| row.get(0)))
    }

    /// One event, whole.
    pub async fn event(&self, id: EventId) -> Result<Option<WholeEvent>, HistoryError> {
        let rows = self.one(ONE_EVENT, EVENT, &[&id]).await?;
        Ok(rows.first().map(WholeEvent::from))
    }

    /// Whether an event was written under this `uid`.
    pub async fn has_uid(&self, uid: Uuid) -> Result<bool, HistoryError> {
        Ok(!self.one(ONE_EVENT, HAS_UID, &[&uid]).await?.is_empty())
    }

    /// A page of what amends these events, in the order of what is amended, and then of the ids;
    /// `after` is the last amendment of the page before. The page behind the last is empty.
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

    /// Rows, and what these consumers had been pruned of, in one round trip. The second question
    /// is answered behind the first, so it knows of everything that is missing among the rows.
    async fn page(
        &self,
        (sql, types, values): (&'static str, &[Type], &[&(dyn ToSql + Sync)]),
        size: PageSize,
        names: &[&str],
    ) -> Result<(Vec<Row>, EventId), HistoryError> {
        let (what, bytes, pruned_of) = ("history", size.bytes, Some(names));
        self.read(&Query { what, sql, types, values, bytes, pruned_of }).await
    }

    /// A few short rows.
    async fn one(
        &self,
        what: &'static str,
        sql: &'static str,
        values: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, HistoryError> {
        self.query(what, sql, &[], values, i64::MAX).await
    }

    async fn query(
        &self,
        what: &'static str,
        sql: &'static str,
        types: &[Type],
        values: &[&(dyn ToSql + Sync)],
        bytes: i64,
    ) -> Result<Vec<Row>, HistoryError> {
        let query = Query { what, sql, types, values, bytes, pruned_of: None };
        self.read(&query).await.map(|(rows, _)| rows)
    }

    /// Reads, and reads again on a fresh connection where the first one was the trouble.
    async fn read(&self, query: &Query<'_>) -> Result<(Vec<Row>, EventId), HistoryError> {
        let mut read = self.attempt(query).await;
        if let Err(HistoryError::Read(error)) = &read
            && is_of_connection(error)
        {
            // What was prepared on the others was prepared for the same table.
            self.pool.retain(|_, _| false);
            read = self.attempt(query).await;
        }
        match &read {
            Ok(_) => self.failures.succeeded(query.what),
            Err(error) => {
                self.failures.failed(query.what, Chain(error).to_string(), Instant::now());
            }
        }
        read
    }

    async fn attempt(&self, query: &Query<'_>) -> Result<(Vec<Row>, EventId), HistoryError> {
        let busy = self.connection().await?;
        let read = timeout(DEADLINE, ask(busy.client(), query)).await;
        let read = read.map_err(|_| HistoryError::Silent);
        match &read {
            Err(_) => drop(busy),
            Ok(Err(error)) if is_of_connection(error) => busy.close(),
            Ok(_) => busy.give_back(),
        }
        Ok(read??)
    }

    async fn connection(&self) -> Result<Busy, HistoryError> {
        let turn = self.turns.turn(&self.caller).await;
        let client =
            timeout(DEADLINE, self.pool.get()).await.map_err(|_| HistoryError::Silent)??;
        Ok(Busy::new(client, turn, self.canceller.clone()))
    }
}

async fn ask(
    client: &Object,
    query: &Query<'_>,
) -> Result<(Vec<Row>, EventId), tokio_postgres::Error> {
    let statement = client.prepare_typed_cached(query.sql, query.types).await?;
    let rows = event_log::rows(client, &statement, query.values, query.bytes);
    let Some(names) = query.pruned_of else { return Ok((rows.await?, EventId::ZERO)) };
    let pruned = client.prepare_cached(&PRUNED).await?;
    let whose: [&(dyn ToSql + Sync); 1] = [&names];
    // They are sent in this order.
    let (rows, pruned) = try_join!(rows, client.query_one(&pruned, &whose))?;
    Ok((rows, pruned.get(0)))
}

fn names(consumers: &[ConsumerId]) -> Vec<&str> {
    consumers.iter().map(ConsumerId::as_str).collect()
}

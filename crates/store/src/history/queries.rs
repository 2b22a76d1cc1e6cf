//! Runs the queries on history, on connections of the pool, in turns.

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

use super::{
    busy::{ActiveQuery, Canceller},
    failures::Failures,
    sql::PRUNED,
};
use crate::{
    error::{ErrorChain, is_of_connection},
    event::EventId,
    event_log::{self, PageSize},
    server::Server,
    turns::Turns,
};

/// Reads history for any number of callers, as many pages at once as the pool has connections. Callers take
/// turns, page by page, so that a long replay does not hold up others, and one caller's hundred replays do
/// not hold up another caller's.
#[derive(Clone, Debug)]
pub struct History {
    pool: Pool,
    turns: Arc<Turns>,
    failures: Arc<Failures>,
    /// The caller whose turns the reads take.
    caller: Arc<str>,
    canceller: Option<Canceller>,
}

/// A query and its parameters.
struct Query<'a> {
    /// The name of the read in `/readyz` and in the log.
    what: &'static str,
    sql: &'static str,
    types: &'a [Type],
    values: &'a [&'a (dyn ToSql + Sync)],
    /// The most bytes that are taken of the answer.
    bytes: i64,
    /// Also asks, behind the query, for what these consumers had been pruned of.
    pruned_of: Option<&'a [&'a str]>,
}

/// A page could not be read.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// No connection was available.
    #[error("connecting to PostgreSQL")]
    Connect(#[from] PoolError),
    /// The query failed.
    #[error("reading history")]
    Read(#[from] tokio_postgres::Error),
    /// PostgreSQL did not answer, and the connection was closed.
    #[error("PostgreSQL did not answer within {} s", READ_DEADLINE.as_secs())]
    Silent,
}

/// The time for one page, including the wait for a connection's answer.
pub(super) const READ_DEADLINE: Duration = Duration::from_secs(15);

impl History {
    /// Reads through this pool.
    #[must_use]
    pub fn new(pool: Pool) -> Self {
        let size = pool.status().max_size;
        Self::limited(pool, size.div_ceil(2), Gauge::default())
    }

    /// The same with a limit of concurrent queries of one caller. The gauge shows how many are waiting.
    #[must_use]
    pub fn limited(pool: Pool, max_each: usize, waiting: Gauge) -> Self {
        let turns = Turns::new(pool.status().max_size, max_each, waiting);
        Self { pool, turns, failures: Arc::default(), caller: "".into(), canceller: None }
    }

    /// Also cancels queries whose callers have gone. By itself, a server notices that only from PostgreSQL 14
    /// on, on Linux, and within a second.
    #[must_use]
    pub fn cancelling(
        self,
        server: &Server,
        tasks: &TaskTracker,
        shutdown: &CancellationToken,
    ) -> Self {
        Self { canceller: Some(Canceller::new(server, tasks, shutdown)), ..self }
    }

    /// The caller whose turns the reads take.
    #[must_use]
    pub fn caller(&self) -> &Arc<str> {
        &self.caller
    }

    /// Returns the same reader for another caller.
    #[must_use]
    pub fn of(&self, caller: &Arc<str>) -> Self {
        Self { caller: Arc::clone(caller), ..self.clone() }
    }

    /// Checks whether reads have been failing for long.
    ///
    /// # Errors
    /// What could not be read, for how long, and why.
    pub fn check(&self, now: Instant) -> Result<(), String> {
        self.failures.check(now)
    }

    /// The number of open connections, and of idle ones among them.
    #[must_use]
    pub fn connections(&self) -> (usize, usize) {
        let status = self.pool.status();
        (status.size, status.available)
    }

    /// Rows, and what these consumers had been pruned of, in one round trip. The second query is answered
    /// after the first, so it knows of all rows that are missing there.
    pub(super) async fn page(
        &self,
        (sql, types, values): (&'static str, &[Type], &[&(dyn ToSql + Sync)]),
        size: PageSize,
        names: &[&str],
    ) -> Result<(Vec<Row>, EventId), HistoryError> {
        let (what, bytes, pruned_of) = ("history", size.bytes, Some(names));
        self.read(&Query { what, sql, types, values, bytes, pruned_of }).await
    }

    /// A few short rows.
    pub(super) async fn one(
        &self,
        what: &'static str,
        sql: &'static str,
        values: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, HistoryError> {
        self.query(what, sql, &[], values, i64::MAX).await
    }

    pub(super) async fn query(
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

    /// Reads, and reads again on a fresh connection if the connection was to blame.
    async fn read(&self, query: &Query<'_>) -> Result<(Vec<Row>, EventId), HistoryError> {
        let mut read = self.attempt(query).await;
        if let Err(HistoryError::Read(error)) = &read
            && is_of_connection(error)
        {
            // The statements on the other connections were prepared for the same table.
            self.pool.retain(|_, _| false);
            read = self.attempt(query).await;
        }
        match &read {
            Ok(_) => self.failures.succeeded(query.what),
            Err(error) => {
                self.failures.failed(query.what, ErrorChain(error).to_string(), Instant::now());
            }
        }
        read
    }

    async fn attempt(&self, query: &Query<'_>) -> Result<(Vec<Row>, EventId), HistoryError> {
        let active = self.connection().await?;
        let read = timeout(READ_DEADLINE, ask(active.client(), query)).await;
        let read = read.map_err(|_| HistoryError::Silent);
        match &read {
            Err(_) => drop(active),
            Ok(Err(error)) if is_of_connection(error) => active.close(),
            Ok(_) => active.give_back(),
        }
        Ok(read??)
    }

    pub(super) async fn connection(&self) -> Result<ActiveQuery, HistoryError> {
        let turn = self.turns.turn(&self.caller).await;
        let client =
            timeout(READ_DEADLINE, self.pool.get()).await.map_err(|_| HistoryError::Silent)??;
        Ok(ActiveQuery::new(client, turn, self.canceller.clone()))
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
    // The queries are sent in this order.
    let (rows, pruned) = try_join!(rows, client.query_one(&pruned, &whose))?;
    Ok((rows, pruned.get(0)))
}

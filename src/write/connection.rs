//! A connection that writes: takes a batch, writes it, and answers each request in it.

use std::{collections::HashSet, sync::Arc, time::Instant};

use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::{
    batch::Batch,
    refusal::Refusal,
    request::{PendingWrite, Verdict},
};
use crate::{
    crash::vital,
    event::draft::Draft,
    metrics::Metrics,
    store::{
        append::{AppendError, Appended, Appender, Found, How, Row},
        server::Server,
    },
};

/// The connections that write.
pub(super) struct ConnectionPool {
    work: Vec<mpsc::Sender<Batch>>,
    /// The idle connections. The last one to become idle is used first, because it is most likely open.
    idle: Vec<usize>,
    done: mpsc::Receiver<Done>,
}

/// A batch that is complete.
pub(super) struct Done {
    pub(super) connection: usize,
    /// The batch, for its claims. Its requests were answered, except those in `again`.
    pub(super) batch: Batch,
    /// The requests to try again.
    pub(super) again: Vec<PendingWrite>,
}

/// Starts this many connections. Each is opened when it is first needed.
pub(super) fn start(
    server: &Server,
    connections: usize,
    metrics: &Arc<Metrics>,
    tasks: &TaskTracker,
) -> ConnectionPool {
    let (done, all_done) = mpsc::channel(connections);
    let work = (0..connections).map(|number| {
        let (give, batches) = mpsc::channel(1);
        let (server, metrics) = (server.clone(), Arc::clone(metrics));
        let connection = Connection { number, server, metrics, appender: None };
        let writing = connection.run(batches, done.clone());
        tasks.spawn(vital("it is not known what was written", writing));
        give
    });
    ConnectionPool { work: work.collect(), idle: (0..connections).rev().collect(), done: all_done }
}

impl ConnectionPool {
    pub(super) fn has_idle(&self) -> bool {
        !self.idle.is_empty()
    }

    pub(super) fn are_idle(&self) -> bool {
        self.idle.len() == self.work.len()
    }

    /// Assigns a batch to an idle connection.
    ///
    /// # Panics
    /// Panics if no connection is idle.
    pub(super) fn assign(&mut self, batch: Batch) {
        let connection = self.idle.pop().expect("a connection must be idle");
        self.work[connection].try_send(batch).expect("an idle connection waits for a batch");
    }

    pub(super) async fn done(&mut self) -> Done {
        match self.done.recv().await {
            Some(done) => done,
            // All connections have ended, so no more batches will complete.
            None => std::future::pending().await,
        }
    }

    pub(super) fn release(&mut self, connection: usize) {
        self.idle.push(connection);
    }
}

struct Connection {
    number: usize,
    server: Server,
    metrics: Arc<Metrics>,
    appender: Option<Appender>,
}

/// A request that fails is taken out of its transaction, and the others are written again. Requests that are
/// not written after this many rounds are isolated.
const MAX_ROUNDS: usize = 4;

impl Connection {
    async fn run(mut self, mut batches: mpsc::Receiver<Batch>, done: mpsc::Sender<Done>) {
        while let Some(mut batch) = batches.recv().await {
            let writes = std::mem::take(&mut batch.writes);
            let contenders = std::mem::take(&mut batch.contenders);
            let mut again = Vec::new();
            self.write(writes, &mut again).await;
            again.extend(self.judge(contenders).await);
            for write in again.extract_if(.., |write| write.is_overdue()) {
                write.refuse(Refusal::Contended);
            }
            // The dispatcher ends only after the last batch was returned.
            let _ = done.send(Done { connection: self.number, batch, again }).await;
        }
    }

    /// Writes these requests, in one transaction if possible. Adds those that must be tried later to `again`.
    async fn write(&mut self, writes: Vec<PendingWrite>, again: &mut Vec<PendingWrite>) {
        let (mut work, mut rounds, mut renewed) = (vec![writes], 0, false);
        while let Some(writes) = work.pop() {
            if writes.is_empty() {
                continue;
            }
            if rounds == MAX_ROUNDS {
                again.extend(writes.into_iter().map(PendingWrite::backed_off));
                continue;
            }
            let how = self.how(&writes);
            match self.attempt(&writes, how).await {
                Ok(appended) => {
                    let Sorted { kept, unwritten } = sort(writes, &appended);
                    rounds += usize::from(!kept.is_empty());
                    work.push(kept);
                    let (certain, raced) = self.explain(unwritten, how).await;
                    work.extend(certain.into_iter().map(|write| vec![write]));
                    again.extend(raced);
                }
                Err(failure) if failure.may_be_of_session() && !renewed => {
                    debug!(%failure, "a write failed; trying again on a new connection");
                    (self.appender, renewed) = (None, true);
                    work.push(writes);
                }
                Err(failure) if failure.is_of_a_request() && writes.len() > 1 => {
                    work.extend(halves(writes));
                }
                Err(failure @ AppendError::Conflict { .. }) => {
                    again.extend(self.conflicted(writes, &failure).await);
                }
                Err(failure) => again.extend(failed(writes, &failure)),
            }
        }
    }

    /// The way in which these requests are written together.
    fn how(&self, writes: &[PendingWrite]) -> How {
        let neighbours = self.appender.as_ref().is_some_and(Appender::has_foreign_triggers);
        match writes {
            [one] if one.wants_certainty(neighbours) => How::Certain,
            writes if must_be_whole(writes) => How::Whole,
            _ => How::Each,
        }
    }

    /// Writes these requests in one transaction.
    async fn attempt(
        &mut self,
        writes: &[PendingWrite],
        how: How,
    ) -> Result<Appended, AppendError> {
        let drafts: Vec<&Draft> = writes.iter().flat_map(PendingWrite::missing).collect();
        let metrics = Arc::clone(&self.metrics);
        let appender = self.appender().await?;
        let begun = Instant::now();
        let appended = appender.append(&drafts, how).await;
        metrics.writing.seconds.observe(begun.elapsed().as_secs_f64());
        metrics.writing.batch.observe(u32::try_from(drafts.len()).map_or(0.0, f64::from));
        if appended.as_ref().is_err_and(AppendError::is_lost) {
            self.appender = None;
        }
        appended
    }

    /// Finds out why these requests were not written, and answers those for which the log or this attempt
    /// gives the reason. Returns the others: first those whose next attempt has to find the reason, then
    /// those that may have lost a race and are retried.
    async fn explain(
        &mut self,
        writes: Vec<PendingWrite>,
        how: How,
    ) -> (Vec<PendingWrite>, Vec<PendingWrite>) {
        let (mut certain, mut raced) = (Vec::new(), Vec::new());
        let neighbours = self.appender.as_ref().is_some_and(Appender::has_foreign_triggers);
        for mut write in self.judge(writes).await {
            if how == How::Certain {
                write.refuse(Refusal::DroppedByTrigger);
                continue;
            }
            write.count_unexplained();
            if write.wants_certainty(neighbours) {
                certain.push(write);
            } else {
                raced.push(write.backed_off());
            }
        }
        (certain, raced)
    }

    /// Handles a conflict with an existing row. Answers requests whose conflict the log explains. If the
    /// violated constraint is one of ours, the others are retried; otherwise they are refused, because the
    /// constraint is one that users added to the table.
    async fn conflicted(
        &mut self,
        writes: Vec<PendingWrite>,
        failure: &AppendError,
    ) -> Vec<PendingWrite> {
        let mut again = Vec::new();
        for mut write in self.judge(writes).await {
            write.count_unexplained();
            let ours = match self.appender().await {
                Ok(appender) => appender.is_of_ours(failure).await.unwrap_or(false),
                Err(_) => false,
            };
            if ours && !write.is_inexplicable() {
                again.push(write.backed_off());
            } else {
                again.extend(failed(vec![write], failure));
            }
        }
        again
    }

    async fn appender(&mut self) -> Result<&mut Appender, AppendError> {
        if self.appender.as_ref().is_none_or(Appender::is_closed) {
            self.appender = None;
            let connected = Appender::connect(&self.server).await?;
            return Ok(self.appender.insert(connected));
        }
        Ok(self.appender.as_mut().expect("the appender was checked above"))
    }

    /// Looks up in the log why these requests were not written. Answers those that can never be written, or
    /// were written before, and returns the others.
    async fn judge(&mut self, writes: Vec<PendingWrite>) -> Vec<PendingWrite> {
        if writes.is_empty() {
            return writes;
        }
        let drafts: Vec<&Draft> = writes.iter().flat_map(PendingWrite::missing).collect();
        let found = match self.appender().await {
            Ok(appender) => find(appender, &drafts).await,
            Err(failure) => Err(failure),
        };
        let found = match found {
            Ok(found) => found,
            Err(failure) => {
                if failure.is_lost() {
                    self.appender = None;
                }
                return failed(writes, &failure);
            }
        };
        let (mut again, mut rest) = (Vec::new(), found.as_slice());
        for write in writes {
            let (its, others) = rest.split_at(write.missing().count());
            rest = others;
            if let Verdict::Again(write) = write.judge(its) {
                again.push(write);
            }
        }
        again
    }
}

/// Looks up what the log has where these events were to be written. If the table has triggers of others, an
/// event that a trigger changed counts as the same if the trigger would change the draft in the same way.
async fn find(appender: &Appender, drafts: &[&Draft]) -> Result<Vec<Found>, AppendError> {
    let mut found = appender.find(drafts).await?;
    if appender.has_foreign_triggers() {
        for (draft, found) in drafts.iter().zip(&mut found) {
            if let Some(written) = found.written.filter(|_| found.in_place && !found.same) {
                match appender.would_be_same(draft, written.id).await {
                    Ok(same) => found.same = same,
                    Err(failure) if failure.is_lost() => return Err(failure),
                    Err(failure) => {
                        debug!(%failure, "cannot try how triggers would change an event");
                    }
                }
            }
        }
    }
    Ok(found)
}

/// Handles requests of which nothing was written, or of which that is not known. Answers them with the
/// reason, and returns those to try again.
fn failed(writes: Vec<PendingWrite>, failure: &AppendError) -> Vec<PendingWrite> {
    debug!(%failure, requests = writes.len(), "a write failed");
    let refusal = match failure {
        AppendError::Contended(_) => {
            return writes.into_iter().map(PendingWrite::backed_off).collect();
        }
        AppendError::Unknown(_) => {
            let (again, lost): (Vec<_>, Vec<_>) =
                writes.into_iter().partition(|write| write.is_idempotent() && !write.isolated);
            warn!(
                %failure,
                requests = lost.len(),
                "the connection was lost during a write; it is not known whether the events were written"
            );
            refuse(lost, &Refusal::Unknown);
            return again.into_iter().map(retry_maybe_committed).collect();
        }
        AppendError::Refused { message, .. } => Refusal::Refused(message.clone()),
        AppendError::Conflict { message, .. } => Refusal::Conflict(message.clone()),
        AppendError::Misfit(why) => Refusal::Misfit(why.clone()),
        AppendError::Forbidden(why) => Refusal::Forbidden(why.clone()),
        AppendError::Hindered { reason, .. } => {
            warn!(%failure, requests = writes.len(), "PostgreSQL could not write events");
            Refusal::Failed(reason.clone())
        }
        AppendError::Unusable { message, passing } => {
            warn!(%failure, requests = writes.len(), "events cannot be written");
            Refusal::Unusable { message: message.clone(), passing: *passing }
        }
        AppendError::Away(_) => {
            warn!(%failure, requests = writes.len(), "events cannot be written");
            Refusal::Unavailable
        }
    };
    refuse(writes, &refusal);
    Vec::new()
}

fn refuse(writes: Vec<PendingWrite>, refusal: &Refusal) {
    for write in writes {
        write.refuse(refusal.clone());
    }
}

/// Schedules another attempt of a request that may have been committed. It can be repeated without
/// duplicates, and the attempt shows whether it was committed.
fn retry_maybe_committed(mut write: PendingWrite) -> PendingWrite {
    write.maybe_committed = true;
    write.backed_off()
}

fn halves(mut writes: Vec<PendingWrite>) -> [Vec<PendingWrite>; 2] {
    let half = writes.split_off(writes.len() / 2);
    [half, writes]
}

/// Whether the requests must be written all or none, because writing a part of them would leave a request
/// of several events incomplete, or a version of a stream missing.
fn must_be_whole(writes: &[PendingWrite]) -> bool {
    writes.iter().any(|write| write.missing().nth(1).is_some()) || have_a_stream_in_common(writes)
}

fn have_a_stream_in_common(writes: &[PendingWrite]) -> bool {
    let mut seen = HashSet::new();
    !writes.iter().flat_map(PendingWrite::streams).all(|stream| seen.insert(stream))
}

/// The requests of a transaction that are not answered yet.
struct Sorted {
    /// Requests that were rolled back only because of others in the same transaction.
    kept: Vec<PendingWrite>,
    /// Requests with a row that was not written.
    unwritten: Vec<PendingWrite>,
}

/// Answers the requests that were written, or can never be, and returns the others.
fn sort(writes: Vec<PendingWrite>, appended: &Appended) -> Sorted {
    let mut sorted = Sorted { kept: Vec::new(), unwritten: Vec::new() };
    let mut rest = appended.rows.as_slice();
    for write in writes {
        let (its, others) = rest.split_at(write.missing().count());
        rest = others;
        let changed = its.iter().find_map(|row| match row {
            Row::Changed { column, .. } => Some(*column),
            _ => None,
        });
        if its.contains(&Row::Missing) {
            sorted.unwritten.push(write);
        } else if appended.committed {
            changed
                .inspect(|column| warn!(column, "a trigger of the table changed a written event"));
            write.written(its.iter().filter_map(Row::written));
        } else if let Some(column) = changed {
            write.refuse(Refusal::ChangedByTrigger { column });
        } else {
            sorted.kept.push(write);
        }
    }
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{event::draft::Expected, write::request::tests::pending_write};

    #[test]
    fn requests_that_must_not_be_split_are_written_whole() {
        let to = |streams: &[&str]| pending_write(streams, Expected::Any).0;
        assert!(!must_be_whole(&[to(&["a"]), to(&["b"])]));
        assert!(must_be_whole(&[to(&["a"]), to(&["b", "c"])]), "one request of two events");
        assert!(
            must_be_whole(&[to(&["a"]), to(&["b"]), to(&["a"])]),
            "stream a could miss a version"
        );
    }
}

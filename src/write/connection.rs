//! A connection at work: writes a batch, and answers each request in it.

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
        append::{Appended, Appender, Failure, Found, How, Row},
        server::Server,
    },
};

/// The connections that write, those that are idle, and what they have to tell.
pub(super) struct ConnectionPool {
    work: Vec<mpsc::Sender<Batch>>,
    /// The one that rested last is the first to work again: its connection is open.
    idle: Vec<usize>,
    done: mpsc::Receiver<Done>,
}

/// A batch that is over.
pub(super) struct Done {
    pub(super) connection: usize,
    /// Its claims; its requests have been answered,
    pub(super) batch: Batch,
    /// save for these, which go again.
    pub(super) again: Vec<PendingWrite>,
}

/// Starts so many connections; each is opened when it is first needed.
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

    /// Gives a batch to an idle connection.
    pub(super) fn assign(&mut self, batch: Batch) {
        let connection = self.idle.pop().expect("the caller has looked");
        self.work[connection].try_send(batch).expect("an idle connection waits for a batch");
    }

    pub(super) async fn done(&mut self) -> Done {
        match self.done.recv().await {
            Some(done) => done,
            // All connections have ended: there is nothing more to come.
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

/// Requests are written again without those that had to be taken out of their transaction. Who
/// is still not through after so many times goes alone.
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
            // The dispatcher leaves after the last batch has come back.
            let _ = done.send(Done { connection: self.number, batch, again }).await;
        }
    }

    /// Writes these requests, in one transaction as long as that goes well.
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
                    debug!(%failure, "a write is tried again on another connection");
                    (self.appender, renewed) = (None, true);
                    work.push(writes);
                }
                Err(failure) if failure.is_of_a_request() && writes.len() > 1 => {
                    work.extend(halves(writes));
                }
                Err(failure @ Failure::Conflict { .. }) => {
                    again.extend(self.conflicted(writes, &failure).await);
                }
                Err(failure) => again.extend(failed(writes, &failure)),
            }
        }
    }

    /// How these are written together.
    fn how(&self, writes: &[PendingWrite]) -> How {
        let neighbours = self.appender.as_ref().is_some_and(Appender::has_neighbours);
        match writes {
            [one] if one.wants_certainty(neighbours) => How::Certain,
            writes if must_be_whole(writes) => How::Whole,
            _ => How::Each,
        }
    }

    /// One transaction.
    async fn attempt(&mut self, writes: &[PendingWrite], how: How) -> Result<Appended, Failure> {
        let drafts: Vec<&Draft> = writes.iter().flat_map(PendingWrite::missing).collect();
        let metrics = Arc::clone(&self.metrics);
        let appender = self.appender().await?;
        let begun = Instant::now();
        let appended = appender.append(&drafts, how).await;
        metrics.writing.seconds.observe(begun.elapsed().as_secs_f64());
        metrics.writing.batch.observe(u32::try_from(drafts.len()).map_or(0.0, f64::from));
        if appended.as_ref().is_err_and(Failure::is_lost) {
            self.appender = None;
        }
        appended
    }

    /// Finds out why these were not written: answers those for which the log or this attempt says why.
    /// Of the others, the next attempt has to be certain of some, and some lost a race, and go again.
    async fn explain(
        &mut self,
        writes: Vec<PendingWrite>,
        how: How,
    ) -> (Vec<PendingWrite>, Vec<PendingWrite>) {
        let (mut certain, mut raced) = (Vec::new(), Vec::new());
        let neighbours = self.appender.as_ref().is_some_and(Appender::has_neighbours);
        for mut write in self.judge(writes).await {
            if how == How::Certain {
                write.refuse(Refusal::Swallowed);
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

    /// This request conflicts with a row. If that is not by what it says itself, it is by a constraint
    /// of somebody's.
    async fn conflicted(
        &mut self,
        writes: Vec<PendingWrite>,
        failure: &Failure,
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

    async fn appender(&mut self) -> Result<&mut Appender, Failure> {
        if self.appender.as_ref().is_none_or(Appender::is_closed) {
            self.appender = None;
            let connected = Appender::connect(&self.server).await?;
            return Ok(self.appender.insert(connected));
        }
        Ok(self.appender.as_mut().expect("it was looked at"))
    }

    /// Looks up why these were not written: answers those that never will be, or have been
    /// before. The others go again.
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

/// What is in the log where these were to be written. What triggers of others have changed says the
/// same if it would be changed to the same again.
async fn find(appender: &Appender, drafts: &[&Draft]) -> Result<Vec<Found>, Failure> {
    let mut found = appender.find(drafts).await?;
    if appender.has_neighbours() {
        for (draft, found) in drafts.iter().zip(&mut found) {
            if let Some(written) = found.written.filter(|_| found.in_place && !found.same) {
                match appender.would_be_same(draft, written.id).await {
                    Ok(same) => found.same = same,
                    Err(failure) if failure.is_lost() => return Err(failure),
                    Err(failure) => debug!(%failure, "an event cannot be tried"),
                }
            }
        }
    }
    Ok(found)
}

/// Nothing of these was written, for this reason, or that is not known.
fn failed(writes: Vec<PendingWrite>, failure: &Failure) -> Vec<PendingWrite> {
    debug!(%failure, requests = writes.len(), "a write failed");
    let refusal = match failure {
        Failure::Contended(_) => {
            return writes.into_iter().map(PendingWrite::backed_off).collect();
        }
        Failure::Unknown(_) => {
            let (again, lost): (Vec<_>, Vec<_>) =
                writes.into_iter().partition(|write| write.is_idempotent() && !write.isolated);
            warn!(%failure, requests = lost.len(), "it is not known what was written");
            refuse(lost, &Refusal::Unknown);
            return again.into_iter().map(retry_maybe_committed).collect();
        }
        Failure::Refused { message, .. } => Refusal::Refused(message.clone()),
        Failure::Conflict { message, .. } => Refusal::Conflict(message.clone()),
        Failure::Misfit(why) => Refusal::Misfit(why.clone()),
        Failure::Forbidden(why) => Refusal::Forbidden(why.clone()),
        Failure::Hindered { reason, .. } => {
            warn!(%failure, requests = writes.len(), "PostgreSQL could not write events");
            Refusal::Hindered(reason.clone())
        }
        Failure::Unusable { message, passing } => {
            warn!(%failure, requests = writes.len(), "events cannot be written");
            Refusal::Unusable { message: message.clone(), passing: *passing }
        }
        Failure::Away(_) => {
            warn!(%failure, requests = writes.len(), "events cannot be written");
            Refusal::Away
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

/// What can be written again without being there twice, is: that tells what became of it.
fn retry_maybe_committed(mut write: PendingWrite) -> PendingWrite {
    write.maybe_committed = true;
    write.backed_off()
}

fn halves(mut writes: Vec<PendingWrite>) -> [Vec<PendingWrite>; 2] {
    let half = writes.split_off(writes.len() / 2);
    [half, writes]
}

/// All or nothing is asked for where a part would leave something half written: one request of
/// several events, or a hole in a stream.
fn must_be_whole(writes: &[PendingWrite]) -> bool {
    writes.iter().any(|write| write.missing().nth(1).is_some()) || have_a_stream_in_common(writes)
}

fn have_a_stream_in_common(writes: &[PendingWrite]) -> bool {
    let mut seen = HashSet::new();
    !writes.iter().flat_map(PendingWrite::streams).all(|stream| seen.insert(stream))
}

/// Requests that are not answered yet.
struct Sorted {
    /// All of its rows would have been written, but for others in the same transaction.
    kept: Vec<PendingWrite>,
    /// A row of it was not.
    unwritten: Vec<PendingWrite>,
}

/// Answers those that are written, or can never be.
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
            changed.inspect(|column| warn!(column, "a trigger changed an event that is written"));
            write.written(its.iter().filter_map(Row::written));
        } else if let Some(column) = changed {
            write.refuse(Refusal::Redirected { column });
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
    fn what_must_not_be_written_by_half_is_written_whole() {
        let to = |streams: &[&str]| pending_write(streams, Expected::Any).0;
        assert!(!must_be_whole(&[to(&["a"]), to(&["b"])]));
        assert!(must_be_whole(&[to(&["a"]), to(&["b", "c"])]), "one request of two events");
        assert!(must_be_whole(&[to(&["a"]), to(&["b"]), to(&["a"])]), "a would have a hole");
    }
}

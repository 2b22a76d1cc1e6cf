//! A connection at work: writes a batch, and answers each request in it.

use std::{collections::HashSet, sync::Arc, time::Instant};

use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::{
    Refusal,
    queue::Batch,
    request::{Ticket, Verdict},
};
use crate::{
    event::draft::Draft,
    metrics::Metrics,
    postgres::{
        append::{Appended, Appender, Failure, Written},
        server::Server,
    },
};

/// The connections that write, those that are idle, and what they have to tell.
pub(super) struct Lanes {
    work: Vec<mpsc::Sender<Batch>>,
    /// The one that rested last is the first to work again: its connection is open.
    idle: Vec<usize>,
    done: mpsc::Receiver<Done>,
}

/// A batch that is over.
pub(super) struct Done {
    pub(super) lane: usize,
    /// Its claims; its requests have been answered,
    pub(super) batch: Batch,
    /// save for these, which go again.
    pub(super) again: Vec<Ticket>,
}

/// Starts so many connections; each is opened when it is first needed.
pub(super) fn start(
    server: &Server,
    connections: usize,
    metrics: &Arc<Metrics>,
    tasks: &TaskTracker,
) -> Lanes {
    let (done, all_done) = mpsc::channel(connections);
    let lanes = (0..connections).map(|number| {
        let (give, batches) = mpsc::channel(1);
        let (server, metrics) = (server.clone(), Arc::clone(metrics));
        let lane = Lane { number, server, metrics, appender: None };
        tasks.spawn(lane.run(batches, done.clone()));
        give
    });
    Lanes { work: lanes.collect(), idle: (0..connections).rev().collect(), done: all_done }
}

impl Lanes {
    pub(super) fn has_idle(&self) -> bool {
        !self.idle.is_empty()
    }

    pub(super) fn are_idle(&self) -> bool {
        self.idle.len() == self.work.len()
    }

    /// Gives a batch to an idle lane.
    pub(super) fn give(&mut self, batch: Batch) {
        let lane = self.idle.pop().expect("the caller has looked");
        self.work[lane].try_send(batch).expect("an idle lane waits for a batch");
    }

    pub(super) async fn done(&mut self) -> Done {
        match self.done.recv().await {
            Some(done) => done,
            // All lanes have ended: there is nothing more to come.
            None => std::future::pending().await,
        }
    }

    pub(super) fn rest(&mut self, lane: usize) {
        self.idle.push(lane);
    }
}

struct Lane {
    number: usize,
    server: Server,
    metrics: Arc<Metrics>,
    appender: Option<Appender>,
}

/// Requests are written again without those that had to be taken out of their transaction. Who
/// is still not through after so many times goes alone.
const ROUNDS: usize = 4;

impl Lane {
    async fn run(mut self, mut batches: mpsc::Receiver<Batch>, done: mpsc::Sender<Done>) {
        while let Some(mut batch) = batches.recv().await {
            let tickets = std::mem::take(&mut batch.tickets);
            let shadows = std::mem::take(&mut batch.shadows);
            let mut again = Vec::new();
            self.write(tickets, &mut again).await;
            again.extend(self.judge(shadows).await);
            for ticket in again.extract_if(.., |ticket| ticket.is_overdue()) {
                ticket.refuse(Refusal::Contended);
            }
            // The dispatcher leaves after the last batch has come back.
            let _ = done.send(Done { lane: self.number, batch, again }).await;
        }
    }

    /// Writes these requests, in one transaction as long as that goes well.
    async fn write(&mut self, tickets: Vec<Ticket>, again: &mut Vec<Ticket>) {
        let (mut work, mut rounds) = (vec![tickets], 0);
        while let Some(mut tickets) = work.pop() {
            if tickets.is_empty() {
                continue;
            }
            if rounds == ROUNDS {
                again.extend(tickets.into_iter().map(alone));
                continue;
            }
            match self.attempt(&tickets).await {
                Ok(Some(appended)) if appended.len() == missing(&tickets) => {
                    answer_all(tickets, &appended);
                }
                Ok(Some(appended)) => {
                    let skipped = answer_some(tickets, appended);
                    again.extend(self.judge(skipped).await);
                }
                Ok(None) => {
                    rounds += 1;
                    work.push(self.judge(tickets).await);
                }
                Err(Failure::Refused(_) | Failure::Misfit(_)) if tickets.len() > 1 => {
                    let half = tickets.split_off(tickets.len() / 2);
                    work.extend([half, tickets]);
                }
                Err(failure) => again.extend(failed(tickets, &failure)),
            }
        }
    }

    /// One transaction.
    async fn attempt(&mut self, tickets: &[Ticket]) -> Result<Option<Vec<Appended>>, Failure> {
        let whole = must_be_whole(tickets);
        let drafts: Vec<&Draft> = tickets.iter().flat_map(Ticket::missing).collect();
        let writing = Arc::clone(&self.metrics);
        let appender = self.appender().await?;
        let begun = Instant::now();
        let appended = if whole {
            appender.append_whole(&drafts).await
        } else {
            appender.append(&drafts).await.map(Some)
        };
        writing.writing.seconds.observe(begun.elapsed().as_secs_f64());
        writing.writing.batch.observe(u32::try_from(drafts.len()).map_or(0.0, f64::from));
        if appended.as_ref().is_err_and(Failure::is_lost) {
            self.appender = None;
        }
        appended
    }

    async fn appender(&mut self) -> Result<&Appender, Failure> {
        if self.appender.as_ref().is_none_or(Appender::is_closed) {
            self.appender = None;
            let connected = Appender::connect(&self.server).await?;
            return Ok(self.appender.insert(connected));
        }
        Ok(self.appender.as_ref().expect("it was looked at"))
    }

    /// Looks up why these were not written: answers those that never will be, or have been
    /// before. The others go again.
    async fn judge(&mut self, tickets: Vec<Ticket>) -> Vec<Ticket> {
        if tickets.is_empty() {
            return tickets;
        }
        let drafts: Vec<&Draft> = tickets.iter().flat_map(Ticket::missing).collect();
        let found = match self.appender().await {
            Ok(appender) => appender.find(&drafts).await,
            Err(failure) => Err(failure),
        };
        let found = match found {
            Ok(found) => found,
            Err(failure) => {
                if failure.is_lost() {
                    self.appender = None;
                }
                return failed(tickets, &failure);
            }
        };
        let (mut again, mut rest) = (Vec::new(), found.as_slice());
        for ticket in tickets {
            let (its, others) = rest.split_at(ticket.missing().count());
            rest = others;
            if let Verdict::Again(ticket) = ticket.judge(its) {
                again.push(ticket);
            }
        }
        again
    }
}

/// Nothing of these was written, for this reason, or that is not known.
fn failed(tickets: Vec<Ticket>, failure: &Failure) -> Vec<Ticket> {
    debug!(%failure, requests = tickets.len(), "a write failed");
    let refusal = match failure {
        Failure::Contended(_) => return tickets.into_iter().map(alone).collect(),
        Failure::Unknown(_) => {
            let (again, lost): (Vec<_>, Vec<_>) =
                tickets.into_iter().partition(|ticket| ticket.is_idempotent() && !ticket.alone);
            warn!(%failure, requests = lost.len(), "it is not known what was written");
            refuse(lost, &Refusal::Unknown);
            return again.into_iter().map(doubtful).collect();
        }
        Failure::Refused(why) => Refusal::Refused(why.clone()),
        Failure::Misfit(why) => Refusal::Misfit(why.clone()),
        Failure::Forbidden(_) => Refusal::Forbidden,
        Failure::Away(_) => {
            warn!(%failure, requests = tickets.len(), "events cannot be written");
            Refusal::Away
        }
    };
    refuse(tickets, &refusal);
    Vec::new()
}

fn refuse(tickets: Vec<Ticket>, refusal: &Refusal) {
    for ticket in tickets {
        ticket.refuse(refusal.clone());
    }
}

fn alone(mut ticket: Ticket) -> Ticket {
    ticket.alone = true;
    ticket
}

/// What can be written again without being there twice, is: that tells what became of it.
fn doubtful(mut ticket: Ticket) -> Ticket {
    ticket.doubtful = true;
    alone(ticket)
}

fn missing(tickets: &[Ticket]) -> usize {
    tickets.iter().map(|ticket| ticket.missing().count()).sum()
}

/// All or nothing is asked for where a part would leave something half written: one request of
/// several events, or a hole in a stream.
fn must_be_whole(tickets: &[Ticket]) -> bool {
    tickets.iter().any(|ticket| ticket.missing().nth(1).is_some())
        || have_a_stream_in_common(tickets)
}

fn have_a_stream_in_common(tickets: &[Ticket]) -> bool {
    let mut seen = HashSet::new();
    !tickets.iter().flat_map(Ticket::streams).all(|stream| seen.insert(stream))
}

/// All was written, in the order in which it was sent.
fn answer_all(tickets: Vec<Ticket>, appended: &[Appended]) {
    let mut places = appended.iter().map(|appended| appended.written);
    for ticket in tickets {
        let count = ticket.missing().count();
        ticket.written(places.by_ref().take(count).collect::<Vec<Written>>());
    }
}

/// Some were skipped: these come back. Each request has one event, and no two have a stream or
/// a `uid` in common; what has neither is never skipped, and comes in the order in which it was
/// sent.
fn answer_some(tickets: Vec<Ticket>, appended: Vec<Appended>) -> Vec<Ticket> {
    let (mut named, mut plain) = (Vec::new(), Vec::new());
    for one in appended {
        let is_plain = one.uid.is_none() && one.stream.is_none();
        if is_plain { plain.push(one) } else { named.push(one) }
    }
    let mut plain = plain.into_iter();
    let mut skipped = Vec::new();
    for ticket in tickets {
        let (uid, stream) = (ticket.uids().next(), ticket.streams().next().cloned());
        let its = if uid.is_none() && stream.is_none() {
            plain.next()
        } else {
            let its = |one: &Appended| one.uid == uid && one.stream == stream;
            named.iter().position(its).map(|at| named.swap_remove(at))
        };
        match its {
            Some(its) => ticket.written([its.written]),
            None => skipped.push(ticket),
        }
    }
    skipped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{event::draft::Expected, gateway::writer::request::tests::ticket};

    #[test]
    fn what_must_not_be_written_by_half_is_written_whole() {
        let to = |streams: &[&str]| ticket(streams, Expected::Any).0;
        assert!(!must_be_whole(&[to(&["a"]), to(&["b"])]));
        assert!(must_be_whole(&[to(&["a"]), to(&["b", "c"])]), "one request of two events");
        assert!(must_be_whole(&[to(&["a"]), to(&["b"]), to(&["a"])]), "a would have a hole");
    }
}

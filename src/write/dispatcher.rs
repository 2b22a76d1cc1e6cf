//! Assigns the next batch to each idle connection.

use std::{sync::Arc, time::Instant};

use tokio::{select, sync::mpsc, time::sleep_until};
use tokio_util::sync::CancellationToken;

use super::{
    connection::{ConnectionPool, Done},
    queue::Queue,
    request::PendingWrite,
};
use crate::metrics::Metrics;

/// Assigns the next batch to each idle connection.
pub(super) struct Dispatcher {
    inbox: mpsc::UnboundedReceiver<PendingWrite>,
    queue: Queue,
    connections: ConnectionPool,
    metrics: Arc<Metrics>,
}

impl Dispatcher {
    pub(super) fn new(
        inbox: mpsc::UnboundedReceiver<PendingWrite>,
        connections: ConnectionPool,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { inbox, queue: Queue::default(), connections, metrics }
    }

    /// Runs until `shutdown`, then until every request that has arrived is answered.
    pub(super) async fn run(mut self, shutdown: CancellationToken) {
        loop {
            let (ending, next_retry) = (shutdown.is_cancelled(), self.queue.next_retry());
            let retries = next_retry.is_some();
            let due = sleep_until(next_retry.unwrap_or_else(Instant::now).into());
            select! {
                biased;
                done = self.connections.done() => self.take_back(done),
                Some(write) = self.inbox.recv() => self.queue.push(write),
                () = due, if retries => {}
                () = shutdown.cancelled(), if !ending => self.inbox.close(),
            }
            self.queue.requeue_due(Instant::now());
            while let Ok(write) = self.inbox.try_recv() {
                self.queue.push(write);
            }
            while self.connections.has_idle()
                && let Some(batch) = self.queue.take()
            {
                self.connections.assign(batch);
            }
            let waiting = self.queue.len();
            self.metrics.writing.queue.set(i64::try_from(waiting).unwrap_or(i64::MAX));
            if shutdown.is_cancelled() && waiting == 0 && self.connections.are_idle() {
                return;
            }
        }
    }

    fn take_back(&mut self, done: Done) {
        self.queue.settle(&done.batch.claims, done.again);
        self.connections.release(done.connection);
    }
}

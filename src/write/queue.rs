//! The requests that wait to be written, and which of them are written together.
//!
//! A transaction combines requests that cannot block each other or conflict. A stream, like a `uid`, is in
//! only one transaction of this gateway at a time, because the second transaction would just wait for the
//! first. Of the requests that expect a stream to be at some version, one is written. The others can only
//! lose against it. They become [`Batch::contenders`], and are answered with the state of the stream after
//! the transaction.

use std::{collections::VecDeque, time::Instant};

use super::{
    batch::{Batch, Claims, MAX_BATCH_EVENTS},
    request::PendingWrite,
};

/// The waiting requests, in the order in which they arrived.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: VecDeque<PendingWrite>,
    /// Requests that wait for their `retry_at`.
    backing_off: Vec<PendingWrite>,
    /// The streams and uids that are being written now.
    busy: Claims,
}

impl Queue {
    pub(super) fn push(&mut self, write: PendingWrite) {
        self.waiting.push_back(write);
    }

    /// The next batch of requests that can be written now, earlier requests first.
    pub(super) fn take(&mut self) -> Option<Batch> {
        let mut batch = Batch::default();
        let mut left = VecDeque::new();
        while let Some(write) = self.waiting.pop_front() {
            if write.is_abandoned() {
                continue;
            }
            let joins = batch.writes.is_empty() || !write.isolated;
            if self.busy.has_any_of(&write) || !joins || !batch.has_room_for(&write) {
                left.push_back(write);
            } else if batch.is_compatible_with(&write) {
                let isolated = write.isolated;
                batch.add(write);
                if isolated || batch.events >= MAX_BATCH_EVENTS {
                    break;
                }
            } else if batch.is_contender(&write) {
                batch.contenders.push(write);
            } else {
                left.push_back(write);
            }
        }
        left.append(&mut self.waiting);
        self.waiting = left;
        self.busy.streams.extend(batch.claims.streams.iter().cloned());
        self.busy.uids.extend(&batch.claims.uids);
        (!batch.writes.is_empty()).then_some(batch)
    }

    /// A batch is complete, except for the requests `again`. They are queued before those that arrived later.
    pub(super) fn settle(&mut self, claims: &Claims, again: Vec<PendingWrite>) {
        self.busy.release(claims);
        for write in again.into_iter().rev() {
            if write.retry_at.is_some() {
                self.backing_off.push(write);
            } else {
                self.waiting.push_front(write);
            }
        }
    }

    /// The time at which the next request is due to be retried.
    pub(super) fn next_retry(&self) -> Option<Instant> {
        self.backing_off.iter().filter_map(|write| write.retry_at).min()
    }

    /// Moves the requests that are due to be retried back into the queue, before those that arrived later.
    pub(super) fn requeue_due(&mut self, now: Instant) {
        let due = |write: &mut PendingWrite| write.retry_at.is_some_and(|at| at <= now);
        for mut write in self.backing_off.extract_if(.., due) {
            write.retry_at = None;
            self.waiting.push_front(write);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len() + self.backing_off.len()
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;
    use crate::write::batch::MAX_BATCH_BYTES;
    use crate::{
        event::draft::Expected,
        write::{
            Answer,
            request::tests::{pending_write, pending_write_of},
        },
    };

    struct World {
        queue: Queue,
        waiting: Vec<oneshot::Receiver<Answer>>,
    }

    impl World {
        fn of(requests: &[(&str, Expected)]) -> Self {
            let (mut queue, mut waiting) = (Queue::default(), Vec::new());
            for (stream, expected) in requests {
                let (write, waits) = pending_write(&[*stream], *expected);
                queue.push(write);
                waiting.push(waits);
            }
            Self { queue, waiting }
        }

        /// The next batch, its number of writes, and its number of contenders.
        fn take(&mut self) -> Option<(Batch, usize, usize)> {
            let batch = self.queue.take()?;
            let (writes, contenders) = (batch.writes.len(), batch.contenders.len());
            Some((batch, writes, contenders))
        }
    }

    const ANY: Expected = Expected::Any;
    const FIRST: Expected = Expected::Version(1);

    #[test]
    fn one_of_several_contenders_is_written() {
        let mut world =
            World::of(&[("a", ANY), ("a", ANY), ("b", FIRST), ("b", FIRST), ("c", ANY)]);
        let (_, writes, contenders) = world.take().unwrap();
        assert_eq!((writes, contenders), (4, 1));
        assert!(world.take().is_none());
    }

    #[test]
    fn a_batch_is_bounded_in_events() {
        let names: Vec<String> = (0..MAX_BATCH_EVENTS + 10).map(|at| format!("s{at}")).collect();
        let requests: Vec<_> = names.iter().map(|name| (&**name, ANY)).collect();
        let mut world = World::of(&requests);
        assert_eq!(world.take().unwrap().1, MAX_BATCH_EVENTS);
        assert_eq!(world.take().unwrap().1, 10);

        let halves: Vec<&str> = vec!["a"; MAX_BATCH_EVENTS / 2 + 1];
        let mut world = World::of(&[]);
        for _ in 0..2 {
            let (write, waits) = pending_write(&halves, ANY);
            world.queue.push(write);
            world.waiting.push(waits);
        }
        assert_eq!(world.take().unwrap().1, 1, "both together exceed a batch");
    }

    #[test]
    fn a_batch_is_bounded_in_bytes_but_takes_one_request() {
        let third = format!("\"{}\"", "x".repeat(MAX_BATCH_BYTES / 3));
        let mut world = World::of(&[]);
        for (streams, payload) in [(&["a"; 4][..], &*third), (&["b"], &third), (&["c"], &third)] {
            let (write, waits) = pending_write_of(payload, streams, ANY);
            world.queue.push(write);
            world.waiting.push(waits);
        }
        assert_eq!(world.take().unwrap().1, 1, "a request larger than a batch is written alone");
        assert_eq!(world.take().unwrap().1, 2);
    }

    #[test]
    fn a_batch_is_bounded_in_contenders() {
        let mut world = World::of(&[("a", FIRST); MAX_BATCH_EVENTS + 3]);
        let (first, writes, contenders) = world.take().unwrap();
        assert_eq!((writes, contenders), (1, MAX_BATCH_EVENTS));
        world.queue.settle(&first.claims, Vec::new());
        let (_, writes, contenders) = world.take().unwrap();
        assert_eq!((writes, contenders), (1, 1));
    }

    #[test]
    fn a_stream_is_in_one_transaction_at_a_time() {
        let mut world = World::of(&[("a", FIRST), ("a", ANY), ("b", ANY)]);
        let (first, writes, contenders) = world.take().unwrap();
        assert_eq!((writes, contenders), (2, 0), "an append after another request's version waits");
        assert!(world.take().is_none(), "a is being written");
        world.queue.settle(&first.claims, Vec::new());
        assert_eq!(world.take().unwrap().1, 1);
    }

    #[test]
    fn an_isolated_request_shares_no_batch_and_an_abandoned_one_is_dropped() {
        let mut world = World::of(&[("a", ANY), ("b", ANY), ("c", ANY), ("d", ANY)]);
        world.queue.waiting[1].isolated = true;
        drop(world.waiting.remove(3));
        let batches = std::iter::from_fn(|| world.take().map(|it| it.0.writes));
        let isolated =
            |writes: Vec<PendingWrite>| writes.iter().map(|it| it.isolated).collect::<Vec<_>>();
        assert_eq!(batches.map(isolated).collect::<Vec<_>>(), [vec![false, false], vec![true]]);
    }
}

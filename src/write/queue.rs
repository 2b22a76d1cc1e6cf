//! Who waits to be written, and who goes together.
//!
//! In one transaction go requests that cannot be in each other's way. A stream, and a `uid`,
//! is in one transaction of this gateway at a time: there is no use in waiting for oneself.
//! Of the requests that expect a stream to be at some version, one goes; the others, which can
//! only lose against it, go along as [`Batch::contenders`], and hear what became of their stream
//! when it is over.

use std::{collections::VecDeque, time::Instant};

use super::{
    batch::{Batch, Claims, MAX_BATCH_EVENTS},
    request::PendingWrite,
};

/// Requests in the order in which they came, and what is being written.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: VecDeque<PendingWrite>,
    /// They are tried again after a pause.
    backing_off: Vec<PendingWrite>,
    busy: Claims,
}

impl Queue {
    pub(super) fn push(&mut self, write: PendingWrite) {
        self.waiting.push_back(write);
    }

    /// The next requests that can go, those that came first before the others.
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
            } else if batch.suits(&write) {
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

    /// A batch is over, save for those requests of it that go again: they came first.
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

    /// When the next request has rested.
    pub(super) fn next_retry(&self) -> Option<Instant> {
        self.backing_off.iter().filter_map(|write| write.retry_at).min()
    }

    /// Those that have rested wait again, before those that came later.
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

        /// The next batch; how many it writes, and how many are only told.
        fn take(&mut self) -> Option<(Batch, usize, usize)> {
            let batch = self.queue.take()?;
            let (writes, contenders) = (batch.writes.len(), batch.contenders.len());
            Some((batch, writes, contenders))
        }
    }

    const ANY: Expected = Expected::Any;
    const FIRST: Expected = Expected::Version(1);

    #[test]
    fn who_expects_nothing_goes_together_and_rivals_are_only_told() {
        let mut world =
            World::of(&[("a", ANY), ("a", ANY), ("b", FIRST), ("b", FIRST), ("c", ANY)]);
        let (_, writes, contenders) = world.take().unwrap();
        assert_eq!((writes, contenders), (4, 1));
        assert!(world.take().is_none());
    }

    #[test]
    fn a_batch_takes_so_many_and_the_next_one_goes_on() {
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
        assert_eq!(world.take().unwrap().1, 1, "both are more than a batch holds");
    }

    #[test]
    fn a_batch_takes_so_many_bytes_and_at_least_one_request() {
        let third = format!("\"{}\"", "x".repeat(MAX_BATCH_BYTES / 3));
        let mut world = World::of(&[]);
        for (streams, payload) in [(&["a"; 4][..], &*third), (&["b"], &third), (&["c"], &third)] {
            let (write, waits) = pending_write_of(payload, streams, ANY);
            world.queue.push(write);
            world.waiting.push(waits);
        }
        assert_eq!(world.take().unwrap().1, 1, "larger than a batch, and alone");
        assert_eq!(world.take().unwrap().1, 2);
    }

    #[test]
    fn of_rivals_so_many_are_told_and_the_others_wait_their_turn() {
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
        assert_eq!((writes, contenders), (2, 0), "who appends behind another's version waits");
        assert!(world.take().is_none(), "a is being written");
        world.queue.settle(&first.claims, Vec::new());
        assert_eq!(world.take().unwrap().1, 1);
    }

    #[test]
    fn who_goes_alone_shares_with_nobody_and_who_has_left_is_forgotten() {
        let mut world = World::of(&[("a", ANY), ("b", ANY), ("c", ANY), ("d", ANY)]);
        world.queue.waiting[1].isolated = true;
        drop(world.waiting.remove(3));
        let batches = std::iter::from_fn(|| world.take().map(|it| it.0.writes));
        let isolated =
            |writes: Vec<PendingWrite>| writes.iter().map(|it| it.isolated).collect::<Vec<_>>();
        assert_eq!(batches.map(isolated).collect::<Vec<_>>(), [vec![false, false], vec![true]]);
    }
}

//! Requests that are written together in one transaction.

use std::collections::HashSet;

use uuid::Uuid;

use super::request::PendingWrite;
use crate::event::name::StreamName;

/// Requests that are written together.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// The requests to write.
    pub(super) writes: Vec<PendingWrite>,
    /// Requests that expect the same version of a stream as one of `writes`, so that they can only lose
    /// against it. They are not written, only answered with the outcome for their stream.
    pub(super) contenders: Vec<PendingWrite>,
    /// The streams and uids of `writes`.
    pub(super) claims: Claims,
    /// The streams and uids of those of `writes` that expect a stream to be at some version.
    expected: Claims,
    pub(super) events: usize,
    bytes: usize,
}

/// The streams and uids that a transaction writes.
#[derive(Debug, Default)]
pub(super) struct Claims {
    pub(super) streams: HashSet<StreamName>,
    pub(super) uids: HashSet<Uuid>,
}

/// The most events and bytes in a batch, unless its first request is larger. The longer a transaction takes,
/// the longer readers wait at its ids.
pub(super) const MAX_BATCH_EVENTS: usize = 256;
pub(super) const MAX_BATCH_BYTES: usize = 1 << 20;

impl Batch {
    pub(super) fn has_room_for(&self, write: &PendingWrite) -> bool {
        let events = self.events + write.missing().count();
        self.writes.is_empty()
            || events <= MAX_BATCH_EVENTS && self.bytes + write.bytes() <= MAX_BATCH_BYTES
    }

    pub(super) fn add(&mut self, write: PendingWrite) {
        self.events += write.missing().count();
        self.bytes += write.bytes();
        self.claims.take(&write);
        if write.expects() {
            self.expected.take(&write);
        }
        self.writes.push(write);
    }

    /// Whether a request can be written together with those in the batch.
    pub(super) fn is_compatible_with(&self, write: &PendingWrite) -> bool {
        let fresh = !self.claims.has_uid_of(write);
        let expects = write.expects() && self.claims.has_stream_of(write);
        fresh && !expects && !self.expected.has_stream_of(write)
    }

    /// Whether a request can only lose against one in the batch, and there is space for it.
    pub(super) fn is_contender(&self, write: &PendingWrite) -> bool {
        let rivals = write.expects() && self.expected.has_stream_of(write);
        rivals && self.contenders.len() < MAX_BATCH_EVENTS
    }
}

impl Claims {
    pub(super) fn take(&mut self, write: &PendingWrite) {
        self.streams.extend(write.streams().cloned());
        self.uids.extend(write.uids());
    }

    pub(super) fn has_any_of(&self, write: &PendingWrite) -> bool {
        self.has_stream_of(write) || self.has_uid_of(write)
    }

    pub(super) fn has_uid_of(&self, write: &PendingWrite) -> bool {
        write.uids().any(|uid| self.uids.contains(&uid))
    }

    pub(super) fn has_stream_of(&self, write: &PendingWrite) -> bool {
        write.streams().any(|stream| self.streams.contains(stream))
    }

    pub(super) fn release(&mut self, of: &Self) {
        self.streams.retain(|stream| !of.streams.contains(stream));
        self.uids.retain(|uid| !of.uids.contains(uid));
    }
}

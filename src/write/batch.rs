//! Requests that go together in one transaction.

use std::collections::HashSet;

use uuid::Uuid;

use super::request::Ticket;
use crate::event::name::StreamName;

/// Requests that go together.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// Those that are written.
    pub(super) tickets: Vec<Ticket>,
    /// Those that are only told.
    pub(super) shadows: Vec<Ticket>,
    pub(super) claims: Claims,
    /// Streams that one of its requests expects something of.
    expected: Claims,
    pub(super) events: usize,
    bytes: usize,
}

/// Streams and uids that a transaction is about.
#[derive(Debug, Default)]
pub(super) struct Claims {
    pub(super) streams: HashSet<StreamName>,
    pub(super) uids: HashSet<Uuid>,
}

/// A batch holds so much at most, unless its first request is larger: the longer a transaction
/// takes, the longer it keeps readers waiting at its ids.
pub(super) const MOST_EVENTS: usize = 256;
pub(super) const MOST_BYTES: usize = 1 << 20;

impl Batch {
    pub(super) fn has_room_for(&self, ticket: &Ticket) -> bool {
        let events = self.events + ticket.missing().count();
        self.tickets.is_empty()
            || events <= MOST_EVENTS && self.bytes + ticket.bytes() <= MOST_BYTES
    }

    pub(super) fn add(&mut self, ticket: Ticket) {
        self.events += ticket.missing().count();
        self.bytes += ticket.bytes();
        self.claims.take(&ticket);
        if ticket.expects() {
            self.expected.take(&ticket);
        }
        self.tickets.push(ticket);
    }

    /// Whether a request can go together with those in the batch.
    pub(super) fn suits(&self, ticket: &Ticket) -> bool {
        let fresh = !self.claims.has_uid_of(ticket);
        let expects = ticket.expects() && self.claims.has_stream_of(ticket);
        fresh && !expects && !self.expected.has_stream_of(ticket)
    }

    /// Whether a request can only lose against one in the batch.
    pub(super) fn shadows(&self, ticket: &Ticket) -> bool {
        let rivals = ticket.expects() && self.expected.has_stream_of(ticket);
        rivals && self.shadows.len() < MOST_EVENTS
    }
}

impl Claims {
    pub(super) fn take(&mut self, ticket: &Ticket) {
        self.streams.extend(ticket.streams().cloned());
        self.uids.extend(ticket.uids());
    }

    pub(super) fn has_any_of(&self, ticket: &Ticket) -> bool {
        self.has_stream_of(ticket) || self.has_uid_of(ticket)
    }

    pub(super) fn has_uid_of(&self, ticket: &Ticket) -> bool {
        ticket.uids().any(|uid| self.uids.contains(&uid))
    }

    pub(super) fn has_stream_of(&self, ticket: &Ticket) -> bool {
        ticket.streams().any(|stream| self.streams.contains(stream))
    }

    pub(super) fn release(&mut self, of: &Self) {
        self.streams.retain(|stream| !of.streams.contains(stream));
        self.uids.retain(|uid| !of.uids.contains(uid));
    }
}

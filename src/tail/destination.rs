//! The receiver of what the tail reads.

use crate::{
    event::EventId,
    order::Position,
    reader::Publication,
    store::event_log::{Changed, EventRow},
};

/// Receives what the tail reads, in the order in which it may be delivered. No method is async, so that
/// nothing that was published is lost with the connection.
pub trait Destination: Send + Sync {
    /// Whether rows must be read with their payloads. Otherwise only their ids and transactions are read.
    fn wants_payloads(&self) -> bool;

    /// Reading starts at `position`, for the first time or because the log was replaced. Nothing older than
    /// the snapshot `as_of` was read. Subscribers of a log that was replaced continue after `origin`.
    fn restart(&mut self, position: &Position, as_of: String, origin: EventId);

    /// Takes rows, and the position after them.
    fn publish(&mut self, publication: &Publication<EventRow>);

    /// The snapshot up to which changes of rows have been passed to [`changed`](Self::changed). `None` if the
    /// destination keeps no rows.
    fn clean_as_of(&self) -> Option<String>;

    /// Rows were changed in the table, so copies of them must not be used any more.
    fn changed(&mut self, changed: Changed);
}

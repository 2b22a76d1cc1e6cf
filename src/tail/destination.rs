//! Where the tail puts what it reads.

use crate::{
    event::EventId,
    order::Position,
    reader::Publication,
    store::event_log::{Changed, EventRow},
};

/// Takes what the tail reads, in the order in which it may go. None of it waits: what is published is
/// never lost with the connection.
pub trait Destination: Send + Sync {
    /// Whether rows are wanted with their payloads. Otherwise only their ids and transactions are read.
    fn wants_payloads(&self) -> bool;

    /// Reading begins at `position`, for the first time or in a log that was replaced. Nothing was read
    /// that is older than the snapshot `as_of`. A reader of the log that was replaced goes on behind `origin`.
    fn restart(&mut self, position: &Position, as_of: String, origin: EventId);

    /// Takes rows, and the position behind them.
    fn publish(&mut self, publication: &Publication<EventRow>);

    /// The snapshot behind which rows may have been changed that are kept; none where nothing is kept.
    fn clean_as_of(&self) -> Option<String>;

    /// Rows that may be kept were changed in the table.
    fn changed(&mut self, changed: Changed);
}

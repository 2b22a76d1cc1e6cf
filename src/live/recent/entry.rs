//! An event in memory, and history that is to be put before it.

use crate::{consumer::ConsumerId, event::EventId, item::frame::Frame, order::Position};

/// A place in the order of delivery. It counts up with every event that is published, and
/// means nothing outside of this process.
pub type Sequence = u64;

/// One event as it was delivered.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its place in the order of delivery.
    pub sequence: Sequence,
    /// Where the reader was after it.
    pub position: Position,
    /// Its bytes.
    pub frame: Frame,
    /// It turned up where nothing could be any more: it goes to everybody who is live, what
    /// ever their cursors say.
    pub found: bool,
    pub(super) consumer: ConsumerId,
}

/// A page of history, to be [loaded into memory](Recent::warm_up).
#[derive(Debug)]
pub struct Past {
    /// All events up to this id ...
    pub upto: EventId,
    /// ... and above this one, as far as they are for a consumer.
    pub after: EventId,
    /// In descending order.
    pub rows: Vec<(ConsumerId, Frame)>,
}

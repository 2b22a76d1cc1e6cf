//! An event in memory, and a page of history to load before the first one.

use crate::{consumer::ConsumerId, event::EventId, item::frame::Frame, order::Position};

/// A place in the order of delivery. It increases by one with every event that is published, and has no
/// meaning outside of this process.
pub type Sequence = u64;

/// An event that was delivered.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its place in the order of delivery.
    pub sequence: Sequence,
    /// The reader's position after the event.
    pub position: Position,
    /// Its bytes on the wire.
    pub frame: Frame,
    /// The event appeared at an id where nothing could appear any more. It is sent to every live client,
    /// regardless of the client's cursor.
    pub found: bool,
    pub(super) consumer: ConsumerId,
}

/// A page of history to [load](Recent::warm_up). It has every event above `after` and up to `upto` that is
/// for a consumer.
#[derive(Debug)]
pub struct HistoryPage {
    /// The greatest id that the page covers.
    pub upto: EventId,
    /// The page covers ids above this one.
    pub after: EventId,
    /// The events, in descending order of their ids.
    pub rows: Vec<(ConsumerId, Frame)>,
}

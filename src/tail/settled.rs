//! The destination of a process that serves no subscriptions, and needs to know only how far the log is
//! settled.

use std::sync::Arc;

use super::destination::Destination;
use crate::{
    event::EventId,
    order::Position,
    read::horizon::Horizons,
    reader::Publication,
    store::event_log::{Changed, EventRow},
};

/// Shows the horizon, and discards the rows.
#[derive(Debug)]
pub struct SettledOnly(Arc<Horizons>);

impl SettledOnly {
    /// Shows the horizon in `horizons`.
    #[must_use]
    pub fn new(horizons: Arc<Horizons>) -> Self {
        Self(horizons)
    }
}

impl Destination for SettledOnly {
    fn wants_payloads(&self) -> bool {
        false
    }

    fn restart(&mut self, position: &Position, _as_of: String, _origin: EventId) {
        self.0.restart(position);
    }

    fn publish(&mut self, publication: &Publication<EventRow>) {
        self.0.advance(&publication.position);
    }

    fn clean_as_of(&self) -> Option<String> {
        None
    }

    fn changed(&mut self, _changed: Changed) {}
}

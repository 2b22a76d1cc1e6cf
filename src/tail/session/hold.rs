//! A hold: delivery waits at a hole, because events with the missing ids may still be committed.

use std::time::Instant;

/// A hold in progress.
pub(super) struct Held {
    pub(super) since: Instant,
    /// A warning about it was logged.
    pub(super) logged: bool,
}

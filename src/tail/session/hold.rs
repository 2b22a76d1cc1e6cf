//! A hole that delivery is being held for.

use std::time::Instant;

/// A hole that delivery is being held for.
pub(super) struct Held {
    pub(super) since: Instant,
    /// Operators were told.
    pub(super) said: bool,
}

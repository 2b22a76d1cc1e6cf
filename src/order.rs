//! What follows what: the pure rules of delivery order.

use std::time::Duration;

/// How long a hole in the ids may hold back the events behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// At most this long; then the open transaction is *late*, and its events follow.
    For(Duration),
    /// Until the transaction ends: strict id order.
    Unlimited,
}

//! What users see on the wire.

use std::time::Duration;

/// What an operator can turn on the HTTP side.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Who is believed to be whom.
    pub auth: Auth,
    /// Web origins that may read cross-origin; empty: loopback origins in the open mode,
    /// none otherwise.
    pub cors_origins: Vec<String>,
    /// How long a shutdown may take before open requests are cut.
    pub drain: Duration,
}

/// Who is believed to be whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Auth {
    /// Anybody may name any consumer, by header or query: for loopback addresses only.
    Open,
    /// Something in front has authenticated the caller and sets `X-Consumer-Id`.
    TrustedHeader,
}

//! Why the sender of a request is not authenticated.

/// A failed authentication.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Denied {
    /// What kind of failure it is.
    pub what: Missing,
    /// The label of the failure in the metrics. There are only a few.
    pub reason: &'static str,
    /// A message for people. It contains nothing of the credentials.
    pub detail: String,
}

/// The kinds of failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// The request has no credentials.
    Credentials,
    /// The credentials are not valid.
    GoodProof,
    /// The credentials cannot be checked at present, for a reason on our side.
    Unavailable,
}

impl Denied {
    /// The request has no credentials.
    pub fn none(detail: impl Into<String>) -> Self {
        Self { what: Missing::Credentials, reason: "no-proof", detail: detail.into() }
    }

    /// The credentials are not valid.
    pub fn bad(reason: &'static str, detail: impl Into<String>) -> Self {
        Self { what: Missing::GoodProof, reason, detail: detail.into() }
    }

    /// The key behind the credentials has been revoked.
    pub(super) fn revoked(detail: impl Into<String>) -> Self {
        Self::bad("revoked", detail)
    }

    /// The credentials cannot be checked at present.
    pub(super) fn later(detail: impl Into<String>) -> Self {
        Self { what: Missing::Unavailable, reason: "unavailable", detail: detail.into() }
    }
}

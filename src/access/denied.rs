//! Why a request is refused before it was looked at.

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Denied {
    /// What it is that is missing.
    pub what: Missing,
    /// In a word, for metrics: one of a few.
    pub reason: &'static str,
    /// For people. Shows nothing of the proof.
    pub detail: String,
}

/// What it is that is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// A proof.
    Proof,
    /// A proof that is good.
    GoodProof,
    /// Something of ours, without which no proof can be checked; or room.
    Means,
}

impl Denied {
    /// Nothing says who is asking.
    pub fn none(detail: impl Into<String>) -> Self {
        Self { what: Missing::Proof, reason: "no-proof", detail: detail.into() }
    }

    /// What says who is asking cannot be believed.
    pub fn bad(reason: &'static str, detail: impl Into<String>) -> Self {
        Self { what: Missing::GoodProof, reason, detail: detail.into() }
    }

    /// What it rests on counts no more.
    pub(super) fn revoked(detail: impl Into<String>) -> Self {
        Self::bad("revoked", detail)
    }

    /// It cannot be found out just now.
    pub(super) fn later(detail: impl Into<String>) -> Self {
        Self { what: Missing::Means, reason: "unavailable", detail: detail.into() }
    }
}

//! Why a patch, or an amendment, cannot be applied.

use super::{
    limits::{MAX_BYTES, MAX_OPERATIONS},
    work::Exhausted,
};
use crate::event::EventId;

/// Why a patch cannot be applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    /// The payload or the patch cannot be worked on.
    #[error("it cannot be read: {0}")]
    Unreadable(String),
    /// It is an array, and no JSON Patch.
    #[error("it is an array, and no JSON Patch: {0}")]
    NoPatch(String),
    /// It has too many operations.
    #[error("it has {0} operations, and a JSON Patch has at most {MAX_OPERATIONS}")]
    TooManyOperations(usize),
    /// All amendments of the event together are too much to apply.
    #[error("to apply all amendments of the event takes too much work")]
    TooMuchWork,
    /// The corrected payload would be too large.
    #[error(
        "the corrected payload would be larger than {MAX_BYTES} bytes, or have too many values"
    )]
    TooLarge,
    /// An operation does not fit the payload.
    #[error("operation {number} ({path:?}): {why}")]
    Operation {
        /// Which, counted from 1.
        number: usize,
        /// What it points to.
        path: String,
        /// Why it does not fit.
        why: String,
    },
}

/// An amendment that cannot be applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("amendment {amendment} does not apply: {misfit}")]
pub struct Unamended {
    /// Which.
    pub amendment: EventId,
    /// Why.
    pub misfit: Misfit,
}

impl From<Exhausted> for Misfit {
    fn from(Exhausted: Exhausted) -> Self {
        Self::TooMuchWork
    }
}

//! The errors of patches and amendments.

use super::{
    limits::{MAX_BYTES, MAX_OPERATIONS},
    work::Exhausted,
};
use crate::event::EventId;

/// Why a patch cannot be applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The payload or the patch cannot be parsed.
    #[error("it cannot be read: {0}")]
    Unreadable(String),
    /// The patch is an array, but not a JSON Patch.
    #[error("it is an array, but not a JSON Patch: {0}")]
    NoPatch(String),
    /// The patch has too many operations: this many.
    #[error("it has {0} operations, and a JSON Patch has at most {MAX_OPERATIONS}")]
    TooManyOperations(usize),
    /// The amendments of the event together take more work than is allowed.
    #[error("applying all amendments of the event takes too much work")]
    TooMuchWork,
    /// The corrected payload would be too large.
    #[error(
        "the corrected payload would be larger than {MAX_BYTES} bytes, or have too many values"
    )]
    TooLarge,
    /// An operation cannot be applied to the payload.
    #[error("operation {number} ({path:?}): {why}")]
    Operation {
        /// The number of the operation in the patch, counted from 1.
        number: usize,
        /// The JSON Pointer of the operation.
        path: String,
        /// Why it cannot be applied.
        why: String,
    },
}

/// An amendment that cannot be applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("amendment {amendment} does not apply: {error}")]
pub struct Unamended {
    /// The amendment's id.
    pub amendment: EventId,
    /// Why it cannot be applied.
    pub error: PatchError,
}

impl From<Exhausted> for PatchError {
    fn from(Exhausted: Exhausted) -> Self {
        Self::TooMuchWork
    }
}

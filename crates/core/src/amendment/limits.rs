//! What a patch may have, and what may come out.

/// As deep as values may be nested: what reads JSON here goes no deeper either.
pub(super) const MAX_DEPTH: usize = 127;
/// As many operations as one JSON Patch may have.
pub(super) const MAX_OPERATIONS: usize = 10_000;
/// As many bytes as a payload may have that is corrected, and the payload that comes out.
pub(super) const MAX_BYTES: usize = 8 << 20;
/// As many values: each takes some 60 bytes in memory.
pub(super) const MAX_VALUES: usize = 1 << 20;

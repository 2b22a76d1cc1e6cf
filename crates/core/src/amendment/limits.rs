//! Limits of patches, and of payloads that are patched.

/// The greatest depth of nested values. The JSON parser has the same limit.
pub(super) const MAX_DEPTH: usize = 127;
/// The most operations in one JSON Patch.
pub(super) const MAX_OPERATIONS: usize = 10_000;
/// The most bytes of a payload, before and after it is patched.
pub(super) const MAX_BYTES: usize = 8 << 20;
/// The most values in a payload. Each takes some 60 bytes in memory.
pub(super) const MAX_VALUES: usize = 1 << 20;

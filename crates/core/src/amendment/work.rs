//! What it costs to apply the amendments of one event, and how large the payload becomes.

use std::ops::Add;

use serde_json::Value;

use super::limits::{MAX_BYTES, MAX_VALUES};

/// The work that is left. One step is about a value that is looked at, or four bytes that are read:
/// some nanoseconds. What may be done for one event takes a fraction of a second.
#[derive(Clone, Debug)]
pub(super) struct Work {
    steps_left: usize,
}

/// There is no work left to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Exhausted;

/// Steps that the amendments of one event take together: a payload of the usual largest size may be read,
/// and 30 MB of patches, or it may be walked through some ten times.
const MAX_STEPS: usize = 8_000_000;
const BYTES_A_STEP: usize = 4;

impl Default for Work {
    fn default() -> Self {
        Self { steps_left: MAX_STEPS }
    }
}

impl Work {
    /// So many bytes or elements are passed over.
    pub(super) fn step(&mut self, count: usize) -> Result<(), Exhausted> {
        self.take(1 + count / BYTES_A_STEP)
    }

    /// A text is read.
    pub(super) fn read(&mut self, text: &str) -> Result<(), Exhausted> {
        self.step(text.len())
    }

    /// How large a value is, and how deep.
    pub(super) fn measure(&mut self, value: &Value) -> Result<(Size, usize), Exhausted> {
        self.take(1)?;
        let (mut size, mut depth) = (Size { bytes: 2, values: 1 }, 0);
        match value {
            Value::String(text) => size.bytes += text.len(),
            Value::Array(values) => {
                depth = 1;
                for value in values {
                    self.measure_within(value, &mut size, &mut depth)?;
                }
            }
            Value::Object(members) => {
                depth = 1;
                for (name, value) in members {
                    size.bytes += name.len() + 4;
                    self.measure_within(value, &mut size, &mut depth)?;
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => size.bytes += 3,
        }
        Ok((size, depth))
    }

    fn measure_within(
        &mut self,
        value: &Value,
        size: &mut Size,
        depth: &mut usize,
    ) -> Result<(), Exhausted> {
        let (more, deeper) = self.measure(value)?;
        *size = *size + more;
        *depth = (*depth).max(deeper + 1);
        Ok(())
    }

    fn take(&mut self, steps: usize) -> Result<(), Exhausted> {
        self.steps_left = self.steps_left.checked_sub(steps).ok_or(Exhausted)?;
        Ok(())
    }
}

/// How large a payload is.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Size {
    bytes: usize,
    values: usize,
}

impl Size {
    /// Of a text, where each comma, colon and bracket may stand beside a value.
    pub(super) fn of_text(text: &str) -> Self {
        let beside = |byte: &u8| matches!(byte, b',' | b'[' | b'{');
        Self { bytes: text.len(), values: 1 + text.bytes().filter(|it| beside(it)).count() }
    }

    /// Whether it is more than so many times what it may be.
    pub(super) fn exceeds(self, times: usize) -> bool {
        self.bytes > times * MAX_BYTES || self.values > times * MAX_VALUES
    }
}

impl Add for Size {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { bytes: self.bytes + other.bytes, values: self.values + other.values }
    }
}

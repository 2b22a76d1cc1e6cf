//! Counts the work of applying the amendments of one event, and the size of the payload.

use std::ops::Add;

use serde_json::Value;

use super::limits::{MAX_BYTES, MAX_VALUES};

/// The budget of work. A step is about one value that is visited or four bytes that are parsed, and takes
/// some nanoseconds. The whole budget takes a fraction of a second.
#[derive(Clone, Debug)]
pub(super) struct Work {
    steps_left: usize,
}

/// The budget is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Exhausted;

/// The steps for all amendments of one event: enough to parse a payload of the default limit and 30 MB of
/// patches, or to visit all values of the payload about ten times.
const MAX_STEPS: usize = 8_000_000;
const BYTES_A_STEP: usize = 4;

impl Default for Work {
    fn default() -> Self {
        Self { steps_left: MAX_STEPS }
    }
}

impl Work {
    /// Counts bytes or elements that are skipped.
    pub(super) fn step(&mut self, count: usize) -> Result<(), Exhausted> {
        self.take(1 + count / BYTES_A_STEP)
    }

    /// Counts a text that is parsed.
    pub(super) fn read(&mut self, text: &str) -> Result<(), Exhausted> {
        self.step(text.len())
    }

    /// Counts and measures a value. Returns its size and its depth.
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

/// The size of a payload.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Size {
    bytes: usize,
    values: usize,
}

impl Size {
    /// The size of a text: each comma, bracket and brace may begin a value.
    pub(super) fn of_text(text: &str) -> Self {
        let beside = |byte: &u8| matches!(byte, b',' | b'[' | b'{');
        Self { bytes: text.len(), values: 1 + text.bytes().filter(|it| beside(it)).count() }
    }

    /// Whether the size is more than this multiple of the limits.
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

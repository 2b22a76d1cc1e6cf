//! The events that are handed to a client at once: of the types that it wants, up to a size.

use std::{collections::BTreeSet, ops::ControlFlow};

use crate::item::output::Output;

/// The event types that a client wants, as they are on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kinds(BTreeSet<Box<[u8]>>);

impl<'a> FromIterator<&'a str> for Kinds {
    fn from_iter<I: IntoIterator<Item = &'a str>>(kinds: I) -> Self {
        Self(kinds.into_iter().map(|kind| kind.as_bytes().into()).collect())
    }
}

/// Events that are handed over together.
#[derive(Debug)]
pub struct Chunk<'a, O> {
    kinds: Option<&'a Kinds>,
    out: &'a mut O,
    events: u64,
}

impl<'a, O: Output> Chunk<'a, O> {
    /// A chunk is full when the output has this many bytes.
    pub const MAX_BYTES: usize = 64 << 10;

    /// A chunk of events of these types, which are written to `out`. `None`: all types.
    pub fn new(kinds: Option<&'a Kinds>, out: &'a mut O) -> Self {
        Self { kinds, out, events: 0 }
    }

    /// How many events were written to the output.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.events
    }

    /// Writes an event to the output, if its type is wanted. Breaks when the chunk is full. Whether the event
    /// is written or not, the client's cursor has advanced over it.
    pub fn add(&mut self, kind: &[u8], put: impl FnOnce(&mut O)) -> ControlFlow<()> {
        if self.kinds.is_none_or(|kinds| kinds.0.contains(kind)) {
            put(self.out);
            self.events += 1;
        }
        if self.out.len() < Self::MAX_BYTES {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    }
}

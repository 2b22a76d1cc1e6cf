//! What is handed to a client at once: its types of events, and no more than fits.

use std::{collections::BTreeSet, ops::ControlFlow};

use crate::item::output::Output;

/// Types that a client wants to see, as they stand on the wire.
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
    /// As much as is handed over at once.
    pub const BYTES: usize = 64 << 10;

    /// Puts events of these types into `out`; without types, all.
    pub fn new(kinds: Option<&'a Kinds>, out: &'a mut O) -> Self {
        Self { kinds, out, events: 0 }
    }

    /// How many events were put out.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.events
    }

    /// Puts out an event of a type that is wanted; says stop when there is enough. The client's
    /// cursor has moved over the event in either case.
    pub fn add(&mut self, kind: &[u8], put: impl FnOnce(&mut O)) -> ControlFlow<()> {
        if self.kinds.is_none_or(|kinds| kinds.0.contains(kind)) {
            put(self.out);
            self.events += 1;
        }
        if self.out.len() < Self::BYTES {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    }
}

//! What a stream gives its client, in the words of no protocol.
//!
//! The engine hands over events and signals; who speaks to the client encodes them, as the
//! event-stream format or otherwise.

use super::{frame::Frame, signal::Signal};
use crate::{cursor::Cursor, event::EventId};

/// Takes what goes to one client, in this order.
pub trait Output: Send {
    /// An event that others get as well: it was encoded once for all of them.
    fn shared(&mut self, frame: &Frame, cursor: &Cursor);

    /// An event for this client alone. `data` is JSON as PostgreSQL prints it.
    fn event(&mut self, id: EventId, cursor: &Cursor, kind: &str, data: &[u8]);

    /// Something that the gateway itself says. `cursor` is where the client is, where that is known.
    fn signal(&mut self, signal: Signal, cursor: Option<&Cursor>);

    /// The size in bytes of what was taken.
    fn len(&self) -> usize;

    /// Whether nothing was taken.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// How a source went on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It put something out.
    Produced,
    /// It is over, for this reason. Nothing was put out.
    Ended(&'static str),
}

/// Where a client's events come from. It waits for the client: while [`next`](Self::next) is not called
/// nothing is read, and nothing piles up.
pub trait Source: Send {
    /// Puts what comes next into `out`. Answers as soon as there is something, with no more than goes to
    /// the client at once.
    ///
    /// # Cancel safety
    /// Nothing is lost: what is put out is put out in the moment in which this answers.
    fn next(&mut self, out: &mut impl Output) -> impl Future<Output = Progress> + Send;

    /// Where the client is, when that is known.
    fn cursor(&self) -> Option<Cursor>;

    /// Notes why this ends, for the metrics.
    fn note_end(&mut self, reason: &'static str);
}

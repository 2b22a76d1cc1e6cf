//! The interface between the engine and a protocol.
//!
//! The engine produces events and signals. An implementation of [`Output`] encodes them for the client, in
//! the event-stream format or another one.

use super::{frame::Frame, signal::Signal};
use crate::{cursor::Cursor, event::EventId};

/// Collects what is sent to one client, in the order of the calls.
pub trait Output: Send {
    /// Adds an event that was encoded once for all clients. `cursor` is the client's cursor after the event.
    fn shared(&mut self, frame: &Frame, cursor: &Cursor);

    /// Adds an event for this client only. `cursor` is the client's cursor after the event, and `data` is
    /// JSON as PostgreSQL prints it.
    fn event(&mut self, id: EventId, cursor: &Cursor, kind: &str, data: &[u8]);

    /// Adds a signal of the gateway itself. `cursor` is the client's cursor, if it is known.
    fn signal(&mut self, signal: Signal, cursor: Option<&Cursor>);

    /// The size in bytes of what was added.
    fn len(&self) -> usize;

    /// Whether nothing was added.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The result of [`Source::next`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The output has something to send.
    Produced,
    /// The source has ended, for this reason. Nothing was added to the output.
    Ended(&'static str),
}

/// The source of a client's events. It reads only on demand: until [`next`](Self::next) is called nothing
/// piles up.
pub trait Source: Send {
    /// Waits for the next events or signals, and adds them to `out`. Adds no more than is sent to the client
    /// at once.
    ///
    /// # Cancel safety
    /// Cancel safe: `out` is changed only by the poll that completes the future, so nothing is lost or
    /// repeated.
    fn next(&mut self, out: &mut impl Output) -> impl Future<Output = Progress> + Send;

    /// The client's cursor, if it is known.
    fn cursor(&self) -> Option<Cursor>;

    /// Records the reason for the end of the stream, for the metrics.
    fn note_end(&mut self, reason: &'static str);
}

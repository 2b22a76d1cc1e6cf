//! The signals that the gateway itself sends to a client.

use crate::event::EventId;

/// A signal that the gateway itself sends to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// The client's current cursor: a greeting, or a heartbeat while there are no events.
    Cursor,
    /// Every event that the client missed while it was disconnected has been sent.
    CaughtUp,
    /// The events between these ids cannot be sent any more.
    Gap {
        /// The last id that the client has.
        from: EventId,
        /// The last id that is missing.
        to: EventId,
        /// The reason.
        reason: GapReason,
    },
    /// The event before this signal was sent as it was written, because its amendments cannot be applied.
    Unamended {
        /// The id of the event.
        event: EventId,
        /// The first of its amendments that does not apply.
        amendment: EventId,
    },
    /// The gateway ends the stream; the client should reconnect.
    Closing {
        /// The reason, as it is on the wire.
        reason: &'static str,
    },
}

/// Why events cannot be sent any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GapReason {
    /// The events were pruned.
    Pruned,
    /// The log was truncated or restored from a backup, and ends before the client's cursor.
    Reset,
}

impl GapReason {
    /// The name of the reason on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pruned => "pruned",
            Self::Reset => "reset",
        }
    }
}

//! What the gateway itself says to a client.

use crate::event::EventId;

/// Something that the gateway itself says to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// The client is here: a greeting, or a heartbeat while nothing comes.
    Cursor,
    /// All that the client missed while it was away has been sent.
    CaughtUp,
    /// Events between these ids can be sent no more.
    Gap {
        /// The last id that the client has.
        from: EventId,
        /// The last id that is missing.
        to: EventId,
        /// Why.
        reason: GapReason,
    },
    /// The event before this one is shown as it was written: it cannot be corrected.
    Unamended {
        /// The event.
        event: EventId,
        /// The first of its amendments that does not apply.
        amendment: EventId,
    },
    /// The stream ends on purpose; the client should come back.
    Closing {
        /// Why.
        reason: &'static str,
    },
}

/// Why events can be sent no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GapReason {
    /// They were pruned.
    Pruned,
    /// The log was truncated or restored from a backup: it ends before the client's cursor.
    Reset,
}

impl GapReason {
    /// Its name in the contract.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pruned => "pruned",
            Self::Reset => "reset",
        }
    }
}

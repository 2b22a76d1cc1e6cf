//! Why events are not written.

use uuid::Uuid;

use crate::{event::name::StreamName, store::append::Written};

/// Why a request was not carried out. Nothing of it was written, except with [`Unknown`](Self::Unknown).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The stream is not at the version that the writer expects.
    #[error("the stream {:?} is at version {current}", stream.as_str())]
    Version {
        /// The stream.
        stream: StreamName,
        /// Its last version; 0 if it has no events.
        current: i64,
    },
    /// An event with this `uid` was written before, with a different content. The error does not identify
    /// that event, because the writer may have no right to know of it.
    #[error("an event with the uid {uid} was written before, with a different content")]
    Uid {
        /// The `uid`.
        uid: Uuid,
    },
    /// PostgreSQL, or a trigger of the table, refuses the content of an event.
    #[error("PostgreSQL refuses the event: {0}")]
    Refused(String),
    /// The event conflicts with an existing row, by a constraint that users added to the table.
    #[error("PostgreSQL refuses the event: {0}")]
    Conflict(String),
    /// A trigger of the table dropped the row.
    #[error(
        "a trigger of the table dropped the event: it was not inserted, and PostgreSQL reported no \
         error (a trigger that returns NULL has this effect)"
    )]
    DroppedByTrigger,
    /// A trigger of the table changed a column of the row that the answer contains.
    #[error("a trigger of the table changed the event's {column}")]
    ChangedByTrigger {
        /// The column.
        column: &'static str,
    },
    /// An amendment does not fit the event that it amends.
    #[error("{0}")]
    Misfit(String),
    /// The database role has no right to write the event.
    #[error("this gateway's database role has no right to write the event ({0})")]
    Forbidden(String),
    /// Too many requests are waiting already.
    #[error("too many requests are waiting to be written")]
    Full,
    /// Other transactions blocked the write for too long.
    #[error("other transactions blocked the write for too long")]
    Contended,
    /// PostgreSQL is available, and could not write.
    #[error("PostgreSQL could not write: {0}")]
    Failed(String),
    /// The table cannot be written to as it is.
    #[error("nothing can be written to the table events: {message}")]
    Unusable {
        /// PostgreSQL's message.
        message: String,
        /// The cause may be temporary, such as a change of the table in progress.
        passing: bool,
    },
    /// PostgreSQL is not available.
    #[error("PostgreSQL is not available")]
    Unavailable,
    /// The events may or may not have been written.
    #[error(
        "the connection to PostgreSQL was lost before it answered: it is not known what was written"
    )]
    Unknown,
}

/// The outcome of a request: the place of each of its events, or the reason why there is none.
pub type Answer = Result<Vec<Written>, Refusal>;

impl Refusal {
    /// The label of this outcome in the metrics.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Version { .. } => "version-conflict",
            Self::Uid { .. } => "uid-conflict",
            Self::Refused(_)
            | Self::Conflict(_)
            | Self::DroppedByTrigger
            | Self::ChangedByTrigger { .. }
            | Self::Misfit(_) => "refused",
            Self::Forbidden(_) => "forbidden",
            Self::Full => "full",
            Self::Contended => "contended",
            Self::Failed(_) | Self::Unusable { .. } => "failed",
            Self::Unavailable => "away",
            Self::Unknown => "unknown",
        }
    }
}

//! Why events are not written.

use uuid::Uuid;

use crate::{event::name::StreamName, store::append::Written};

/// Why a request was not carried out. Nothing of it was written, save where it says otherwise.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The stream is not where the writer expects it.
    #[error("the stream {:?} is at version {current}", stream.as_str())]
    Version {
        /// The stream.
        stream: StreamName,
        /// Its last version; 0 while it has none.
        current: i64,
    },
    /// An event with this `uid` was written before, and says something else. Which one is not said: it may
    /// be one that the writer may not know of.
    #[error("an event with the uid {uid} was written before, and says something else")]
    Uid {
        /// The `uid`.
        uid: Uuid,
    },
    /// PostgreSQL refuses what an event contains, or a trigger does.
    #[error("PostgreSQL refuses the event: {0}")]
    Refused(String),
    /// It conflicts with a row that is there, by a constraint that is not ours.
    #[error("PostgreSQL refuses the event: {0}")]
    Conflict(String),
    /// A trigger of the table has dropped the row.
    #[error(
        "a trigger of the table swallowed the event: it was not inserted, and nothing says why (a \
         trigger that returns NULL does that)"
    )]
    Swallowed,
    /// A trigger of the table has changed what the answer would say of the row.
    #[error("a trigger of the table changed the event's {column}")]
    Redirected {
        /// The column.
        column: &'static str,
    },
    /// An amendment does not fit what is there that it amends.
    #[error("{0}")]
    Misfit(String),
    /// The database role may not write.
    #[error("PostgreSQL lets this gateway's database role not write the event ({0})")]
    Forbidden(String),
    /// Too many wait already.
    #[error("too many events wait to be written")]
    Full,
    /// Others were in the way for too long.
    #[error("other transactions were in the way for too long")]
    Contended,
    /// PostgreSQL is there, and could not write.
    #[error("PostgreSQL could not write: {0}")]
    Hindered(String),
    /// The table cannot be written to as it is.
    #[error("nothing can be written to the table events: {message}")]
    Unusable {
        /// What PostgreSQL says.
        message: String,
        /// Somebody may be about to change the table.
        passing: bool,
    },
    /// PostgreSQL cannot be reached.
    #[error("PostgreSQL cannot write just now")]
    Away,
    /// It may be written, or not.
    #[error("PostgreSQL went away before it answered: it is not known what was written")]
    Unknown,
}

/// What became of a request: each of its events with its place, or why there is none.
pub type Answer = Result<Vec<Written>, Refusal>;

impl Refusal {
    /// Its name in the metrics.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Version { .. } => "version-conflict",
            Self::Uid { .. } => "uid-conflict",
            Self::Refused(_)
            | Self::Conflict(_)
            | Self::Swallowed
            | Self::Redirected { .. }
            | Self::Misfit(_) => "refused",
            Self::Forbidden(_) => "forbidden",
            Self::Full => "full",
            Self::Contended => "contended",
            Self::Hindered(_) | Self::Unusable { .. } => "failed",
            Self::Away => "away",
            Self::Unknown => "unknown",
        }
    }
}

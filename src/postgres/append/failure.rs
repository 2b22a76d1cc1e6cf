//! Why nothing was written, or why that is not known.

use tokio_postgres::error::SqlState;

use crate::postgres::error::Chain;

/// See the module. The texts are for the log, save those of [`Failure::Refused`] and
/// [`Failure::Misfit`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Nothing was written: PostgreSQL refuses what one of the events contains.
    #[error("PostgreSQL refuses an event: {0}")]
    Refused(String),
    /// Nothing was written: one of the events does not fit what is there that it amends.
    #[error("PostgreSQL refuses an amendment: {0}")]
    Misfit(String),
    /// Nothing was written: another transaction was in the way, and may have ended since.
    #[error("another transaction is in the way: {0}")]
    Contended(String),
    /// Nothing was written: the role may not.
    #[error("the role may not write events: {0}")]
    Forbidden(String),
    /// Nothing was written: PostgreSQL cannot be reached, or cannot write now.
    #[error("PostgreSQL cannot write: {0}")]
    Away(String),
    /// PostgreSQL may have written, or not: it went away before it answered.
    #[error("PostgreSQL went away before it answered: {0}")]
    Unknown(String),
}

/// Classes of errors that lie in what is written: values, checks, limits, and what the triggers
/// of others say.
const OF_THE_EVENT: [&str; 9] = ["0A", "21", "22", "23", "38", "39", "44", "54", "P0"];

/// What the check of rows says of amendments.
const AMENDMENTS: &str = "events_amends_an_event";

impl Failure {
    /// What an error of a statement that commits means.
    pub(super) fn of(error: &tokio_postgres::Error) -> Self {
        let told = Chain(error).to_string();
        let Some(said) = error.as_db_error() else { return Self::Unknown(told) };
        match said.code() {
            &SqlState::LOCK_NOT_AVAILABLE
            | &SqlState::T_R_DEADLOCK_DETECTED
            | &SqlState::T_R_SERIALIZATION_FAILURE => Self::Contended(told),
            &SqlState::INSUFFICIENT_PRIVILEGE => Self::Forbidden(told),
            // They may come while a commit waits for a standby: it is on disk here already.
            &SqlState::ADMIN_SHUTDOWN | &SqlState::CRASH_SHUTDOWN | &SqlState::QUERY_CANCELED => {
                Self::Unknown(told)
            }
            _ if said.constraint() == Some(AMENDMENTS) => Self::Misfit(said.message().to_owned()),
            code if OF_THE_EVENT.contains(&&code.code()[..2]) => {
                Self::Refused(said.message().to_owned())
            }
            _ => Self::Away(told),
        }
    }

    /// The same, where nothing had been committed yet, so that nothing was written for certain.
    pub(super) fn before_commit(self) -> Self {
        match self {
            Self::Unknown(told) => Self::Away(told),
            known => known,
        }
    }

    /// Whether the connection is of no more use.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        matches!(self, Self::Unknown(_) | Self::Away(_))
    }
}

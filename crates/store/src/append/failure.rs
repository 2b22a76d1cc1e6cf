//! Why nothing was written, or why that is not known.
//!
//! PostgreSQL ends a statement with the severity ERROR, and the session with FATAL or PANIC. An ERROR
//! means that the transaction was rolled back, and that the connection is as good as before, whatever
//! its SQLSTATE says: a trigger can raise any. The SQLSTATE then says whether time may mend it.

use tokio_postgres::error::{DbError, Severity, SqlState};

use super::neighbours::Constraint;
use crate::error::Chain;

/// See the module. The texts are for the log, save those of [`Failure::Refused`],
/// [`Failure::Conflict`], [`Failure::Misfit`] and [`Failure::Forbidden`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Nothing was written: PostgreSQL, or a trigger, refuses one of the events.
    #[error("PostgreSQL refuses an event: {message}")]
    Refused {
        /// What it says.
        message: String,
        /// The session may be the reason: it was prepared when the table was another.
        renew: bool,
    },
    /// Nothing was written: one of the events conflicts with a row that is there.
    #[error("PostgreSQL refuses an event: {message}")]
    Conflict {
        /// What it says.
        message: String,
        /// By which constraint.
        constraint: Option<Constraint>,
    },
    /// Nothing was written: one of the events does not fit what is there that it amends.
    #[error("PostgreSQL refuses an amendment: {0}")]
    Misfit(String),
    /// Nothing was written: another transaction was in the way, and may have ended since.
    #[error("another transaction is in the way: {0}")]
    Contended(String),
    /// Nothing was written: the role may not.
    #[error("the role may not write events: {0}")]
    Forbidden(String),
    /// Nothing was written: PostgreSQL is there, and could not.
    #[error("PostgreSQL could not write: {told}")]
    Hindered {
        /// The whole story.
        told: String,
        /// Its SQLSTATE, and the class of it in words: more would show what only operators need.
        reason: String,
        /// Another session may fare better.
        renew: bool,
    },
    /// Nothing can be written to the table as it is.
    #[error("nothing can be written to the table: {message}")]
    Unusable {
        /// What PostgreSQL says.
        message: String,
        /// Somebody may be about to change the table, as by a migration.
        passing: bool,
    },
    /// Nothing was written: PostgreSQL cannot be reached.
    #[error("PostgreSQL cannot be reached: {0}")]
    Away(String),
    /// PostgreSQL may have written, or not: it went away before it answered.
    #[error("PostgreSQL went away before it answered: {0}")]
    Unknown(String),
}

/// What the check of rows says of amendments.
const AMENDMENTS: &str = "events_amends_an_event";

/// Classes of SQLSTATEs, and of single ones, that do not lie in what is written, in words.
const HINDRANCES: [(&str, &str); 9] = [
    ("08", "a connection of its own failed"),
    ("25006", "it is read-only"),
    ("53100", "its disk is full"),
    ("53200", "it is out of memory"),
    ("53", "it lacks resources"),
    ("57", "the statement was cancelled"),
    ("58", "its system failed"),
    ("HV", "a foreign server failed"),
    ("XX", "an internal error"),
];

/// Classes that a session may be the reason of that was prepared when the table, or the server, was
/// another: a new session is worth one try.
const OF_THE_SESSION: [&str; 8] = ["08", "0A", "25", "26", "34", "42", "57", "XX"];

impl Failure {
    /// What an error of a statement that commits means.
    pub(super) fn of(error: &tokio_postgres::Error) -> Self {
        let told = Chain(error).to_string();
        match error.as_db_error() {
            Some(said) if said.parsed_severity() == Some(Severity::Error) => {
                Self::of_statement(said, told)
            }
            _ => Self::Unknown(told),
        }
    }

    fn of_statement(said: &DbError, told: String) -> Self {
        let (code, message) = (said.code(), said.message().to_owned());
        let renew = OF_THE_SESSION.iter().any(|class| code.code().starts_with(class));
        match code {
            &SqlState::LOCK_NOT_AVAILABLE
            | &SqlState::T_R_DEADLOCK_DETECTED
            | &SqlState::T_R_SERIALIZATION_FAILURE => Self::Contended(told),
            &SqlState::INSUFFICIENT_PRIVILEGE => Self::Forbidden(message),
            &SqlState::UNIQUE_VIOLATION | &SqlState::EXCLUSION_VIOLATION => {
                let constraint = said.constraint().map(|name| Constraint {
                    schema: said.schema().unwrap_or_default().to_owned(),
                    name: name.to_owned(),
                });
                Self::Conflict { message, constraint }
            }
            _ if said.constraint() == Some(AMENDMENTS) => Self::Misfit(message),
            code => match HINDRANCES.iter().find(|(class, _)| code.code().starts_with(class)) {
                Some((_, words)) => {
                    let reason = format!("{words} (SQLSTATE {})", code.code());
                    Self::Hindered { told, reason, renew }
                }
                None => Self::Refused { message, renew },
            },
        }
    }

    /// The same, where nothing had been committed yet, so that nothing was written for certain.
    pub(super) fn before_commit(self) -> Self {
        match self {
            Self::Unknown(told) => Self::Away(told),
            known => known,
        }
    }

    /// What an error means of a connection that is being prepared to write: all events would meet it.
    pub(super) fn of_connecting(error: &tokio_postgres::Error) -> Self {
        match Self::of(error).before_commit() {
            Self::Refused { message, .. } | Self::Conflict { message, .. } => {
                let code = error.code().cloned();
                // Of a rule only the hint speaks.
                let hint = error.as_db_error().and_then(DbError::hint);
                let message = hint.map_or(message.clone(), |hint| format!("{message}. {hint}"));
                Self::Unusable { message, passing: code != Some(SqlState::FEATURE_NOT_SUPPORTED) }
            }
            Self::Hindered { told, .. } => Self::Away(told),
            known => known,
        }
    }

    /// Whether the connection is of no more use.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        matches!(self, Self::Unknown(_) | Self::Away(_))
    }

    /// Whether it lies in one of the requests of a batch, for all that is known.
    #[must_use]
    pub fn is_of_a_request(&self) -> bool {
        match self {
            Self::Refused { .. }
            | Self::Conflict { .. }
            | Self::Misfit(_)
            | Self::Forbidden(_)
            | Self::Hindered { .. } => true,
            Self::Contended(_) | Self::Unusable { .. } | Self::Away(_) | Self::Unknown(_) => false,
        }
    }

    /// Whether another session may fare better.
    #[must_use]
    pub fn may_be_of_session(&self) -> bool {
        match self {
            Self::Refused { renew, .. } | Self::Hindered { renew, .. } => *renew,
            _ => false,
        }
    }
}

//! The errors of appending: why nothing was written, or why that is not known.
//!
//! PostgreSQL ends a statement with the severity ERROR, and a session with FATAL or PANIC. An ERROR means that the
//! transaction was rolled back, and that the connection is still usable, whatever the SQLSTATE: a trigger can
//! raise any. The SQLSTATE says whether the error may pass.

use tokio_postgres::error::{DbError, Severity, SqlState};

use super::neighbours::Constraint;
use crate::error::ErrorChain;

/// Why nothing was written, or why that is not known. The texts are for the log, except those of
/// [`AppendError::Refused`], [`AppendError::Conflict`], [`AppendError::Misfit`] and [`AppendError::Forbidden`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// Nothing was written: PostgreSQL, or a trigger, refuses one of the events.
    #[error("PostgreSQL refuses an event: {message}")]
    Refused {
        /// PostgreSQL's message.
        message: String,
        /// Whether the session may be the cause: its statements were prepared before the table changed.
        renew: bool,
    },
    /// Nothing was written: one of the events conflicts with a row that is there.
    #[error("PostgreSQL refuses an event: {message}")]
    Conflict {
        /// PostgreSQL's message.
        message: String,
        /// The constraint, if PostgreSQL names it.
        constraint: Option<Constraint>,
    },
    /// Nothing was written: one of the events cannot amend its target.
    #[error("PostgreSQL refuses an amendment: {0}")]
    Misfit(String),
    /// Nothing was written: another transaction was in the way. It may have ended since.
    #[error("another transaction is in the way: {0}")]
    Contended(String),
    /// Nothing was written: the role does not have the right.
    #[error("the role may not write events: {0}")]
    Forbidden(String),
    /// Nothing was written: PostgreSQL can be reached, but was not able to write.
    #[error("PostgreSQL could not write: {chain}")]
    Hindered {
        /// The error with all its causes.
        chain: String,
        /// The SQLSTATE, and its class in words. Callers see no more than this; the rest is for operators.
        reason: String,
        /// Whether another session may succeed.
        renew: bool,
    },
    /// Nothing can be written to the table in its present state.
    #[error("nothing can be written to the table: {message}")]
    Unusable {
        /// PostgreSQL's message.
        message: String,
        /// Whether the table may be about to change, as by a migration.
        passing: bool,
    },
    /// Nothing was written: PostgreSQL cannot be reached.
    #[error("PostgreSQL cannot be reached: {0}")]
    Away(String),
    /// The events may have been written or not: PostgreSQL went away before it answered.
    #[error("PostgreSQL went away before it answered: {0}")]
    Unknown(String),
}

/// The constraint that the check of amendments names in its errors.
const AMENDMENTS: &str = "events_amends_an_event";

/// Classes of SQLSTATEs, and single SQLSTATEs, whose cause is not the written event, in words.
const OPERATIONAL_ERRORS: [(&str, &str); 9] = [
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

/// Classes of SQLSTATEs that a session may cause whose statements were prepared before the table or the server
/// changed. One attempt in a new session is worthwhile.
const SESSION_ERRORS: [&str; 8] = ["08", "0A", "25", "26", "34", "42", "57", "XX"];

impl AppendError {
    /// Classifies an error of a statement that commits.
    pub(super) fn of(error: &tokio_postgres::Error) -> Self {
        let chain = ErrorChain(error).to_string();
        match error.as_db_error() {
            Some(said) if said.parsed_severity() == Some(Severity::Error) => {
                Self::of_statement(said, chain)
            }
            _ => Self::Unknown(chain),
        }
    }

    fn of_statement(said: &DbError, chain: String) -> Self {
        let (code, message) = (said.code(), said.message().to_owned());
        let renew = SESSION_ERRORS.iter().any(|class| code.code().starts_with(class));
        match code {
            &SqlState::LOCK_NOT_AVAILABLE
            | &SqlState::T_R_DEADLOCK_DETECTED
            | &SqlState::T_R_SERIALIZATION_FAILURE => Self::Contended(chain),
            &SqlState::INSUFFICIENT_PRIVILEGE => Self::Forbidden(message),
            &SqlState::UNIQUE_VIOLATION | &SqlState::EXCLUSION_VIOLATION => {
                let constraint = said.constraint().map(|name| Constraint {
                    schema: said.schema().unwrap_or_default().to_owned(),
                    name: name.to_owned(),
                });
                Self::Conflict { message, constraint }
            }
            _ if said.constraint() == Some(AMENDMENTS) => Self::Misfit(message),
            code => {
                match OPERATIONAL_ERRORS.iter().find(|(class, _)| code.code().starts_with(class)) {
                    Some((_, words)) => {
                        let reason = format!("{words} (SQLSTATE {})", code.code());
                        Self::Hindered { chain, reason, renew }
                    }
                    None => Self::Refused { message, renew },
                }
            }
        }
    }

    /// Returns the error for a statement before COMMIT, when it is certain that nothing was written.
    pub(super) fn before_commit(self) -> Self {
        match self {
            Self::Unknown(chain) => Self::Away(chain),
            known => known,
        }
    }

    /// Classifies an error of a connection that is being prepared to write. All events would get it.
    pub(super) fn of_connecting(error: &tokio_postgres::Error) -> Self {
        match Self::of(error).before_commit() {
            Self::Refused { message, .. } | Self::Conflict { message, .. } => {
                let code = error.code().cloned();
                // Only the hint mentions a rule.
                let hint = error.as_db_error().and_then(DbError::hint);
                let message = hint.map_or(message.clone(), |hint| format!("{message}. {hint}"));
                Self::Unusable { message, passing: code != Some(SqlState::FEATURE_NOT_SUPPORTED) }
            }
            Self::Hindered { chain, .. } => Self::Away(chain),
            known => known,
        }
    }

    /// Whether the connection cannot be used any more.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        matches!(self, Self::Unknown(_) | Self::Away(_))
    }

    /// Whether one of the requests of a batch may be the cause.
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

    /// Whether another session may succeed.
    #[must_use]
    pub fn may_be_of_session(&self) -> bool {
        match self {
            Self::Refused { renew, .. } | Self::Hindered { renew, .. } => *renew,
            _ => false,
        }
    }
}

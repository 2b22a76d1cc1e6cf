//! Errors of PostgreSQL: whether the connection is to blame, and how to show them with their causes.

use std::{
    error::Error,
    fmt::{self, Display, Formatter},
};

use tokio_postgres::error::SqlState;

/// Whether an error lies with the connection, so that the same statement may succeed on a fresh one. The
/// connection has ended or is about to end, its prepared statements are gone or were made for a table that
/// has changed since, or it is in a state that it should not be in.
#[must_use]
pub fn is_of_connection(error: &tokio_postgres::Error) -> bool {
    /// Connection, transaction state, prepared statements, internal errors.
    const CLASSES: [&str; 4] = ["08", "25", "26", "XX"];
    let Some(said) = error.as_db_error() else { return true };
    match said.code() {
        // "cached plan must not change result type" has a code that it shares with others.
        &SqlState::FEATURE_NOT_SUPPORTED => said.routine() == Some("RevalidateCachedQuery"),
        // A function in PL/pgSQL was planned in this session for columns of other types.
        &SqlState::DATATYPE_MISMATCH => {
            said.routine().is_some_and(|routine| routine.starts_with("plpgsql_param_eval"))
        }
        &SqlState::DUPLICATE_PSTATEMENT
        | &SqlState::ADMIN_SHUTDOWN
        | &SqlState::CRASH_SHUTDOWN
        | &SqlState::CANNOT_CONNECT_NOW
        | &SqlState::DATABASE_DROPPED
        | &SqlState::IDLE_SESSION_TIMEOUT => true,
        code => CLASSES.contains(&&code.code()[..2]),
    }
}

/// Shows an error and all its causes on one line.
///
/// `tokio_postgres::Error` alone shows only the kind of the error ("db error"). What the server said is its
/// cause.
#[derive(Clone, Copy, Debug)]
pub struct ErrorChain<'a>(pub &'a (dyn Error + 'static));

impl Display for ErrorChain<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let causes = std::iter::successors(Some(self.0), |error| (*error).source());
        for (depth, error) in causes.enumerate() {
            let separator = if depth == 0 { "" } else { ": " };
            write!(f, "{separator}{}", error.to_string().replace('\n', "; "))?;
        }
        Ok(())
    }
}

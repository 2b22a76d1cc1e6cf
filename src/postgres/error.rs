//! How an error of PostgreSQL's tells its whole story.

use std::{
    error::Error,
    fmt::{self, Display, Formatter},
};

/// Shows an error and everything that caused it, on one line.
///
/// `tokio_postgres::Error` alone shows only the kind of error ("db error"); what the server said
/// is its cause.
#[derive(Clone, Copy, Debug)]
pub struct Chain<'a>(pub &'a (dyn Error + 'static));

impl Display for Chain<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let causes = std::iter::successors(Some(self.0), |error| (*error).source());
        for (depth, error) in causes.enumerate() {
            let separator = if depth == 0 { "" } else { ": " };
            write!(f, "{separator}{}", error.to_string().replace('\n', "; "))?;
        }
        Ok(())
    }
}

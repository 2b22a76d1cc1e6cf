//! Errors, told whole.

use std::error::Error;

/// An error with all of its causes, outermost first, in one line. `tokio_postgres` leaves
/// the server's own words to the causes.
#[must_use]
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut story = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        story = format!("{story}: {error}");
        cause = error.source();
    }
    story
}

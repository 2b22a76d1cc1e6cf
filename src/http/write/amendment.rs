//! Amendments are tried before they are written: one that cannot be applied would only leave the
//! event that it corrects to be shown as it was.
//!
//! The database has the last word, also where two are written at the same moment.

use tracing::warn;

use crate::{event::draft::Draft, gateway::Gateway, http::error::Problem, postgres::error::Chain};

/// Refuses what does not fit the event that it amends.
pub(super) async fn check(gateway: &Gateway, drafts: &[Draft]) -> Result<(), Problem> {
    let several = drafts.len() > 1;
    for (at, draft) in drafts.iter().enumerate() {
        let Some(target) = draft.amends else { continue };
        let tried = gateway.would_amend(target, draft).await;
        let tried = tried.map_err(|error| {
            warn!(error = %Chain(&error), %target, "looking up what is amended failed");
            Problem::unavailable("PostgreSQL cannot be asked just now; try again")
        })?;
        if let Err(why) = tried {
            let problem = Problem::conflict(format!("this does not amend {target}: {why}"));
            return Err(if several { problem.about(&format!("event {at}")) } else { problem });
        }
    }
    Ok(())
}

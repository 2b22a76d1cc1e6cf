//! Regularly checks what delivery relies on in the database: the doorbell's trigger, how ids are generated,
//! and that no row is hidden from the gateway's role. If a check fails, events can be lost silently.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;
use tracing::{debug, error, info};

use super::health::Health;
use crate::store::{doctor::Finding, error::ErrorChain, history::History};

/// What to do if a check fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checks {
    /// The gateway reports that it is not ready, and `serve` does not start.
    #[default]
    Enforce,
    /// An error is logged at each check. For emergencies.
    Warn,
}

/// The pause between checks. The table's definition changes rarely, and a check is a few short queries.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);

/// Checks again and again, until the future is dropped.
pub async fn watch(history: Arc<History>, health: Arc<Health>, checks: Checks) {
    let mut known = Vec::new();
    loop {
        match history.unsafe_findings().await {
            Ok(found) => {
                note(&found, &known, checks, &health);
                known = found;
            }
            // The tail reports that PostgreSQL is not available.
            Err(error) => {
                debug!(error = %ErrorChain(&error), "cannot check what delivery relies on");
            }
        }
        sleep(CHECK_INTERVAL).await;
    }
}

fn note(found: &[Finding], known: &[Finding], checks: Checks, health: &Health) {
    if found.is_empty() && !known.is_empty() {
        info!("all that delivery relies on in the database is in order again");
    }
    for Finding { subject, found, mend, .. } in found {
        error!(subject, mend, "events can be lost: {found}");
    }
    let reason = found.first().filter(|_| checks == Checks::Enforce);
    health.endangered(reason.map(|it| format!("events can be lost: {}. {}", it.found, it.mend)));
}

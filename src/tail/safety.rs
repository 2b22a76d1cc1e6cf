//! Looks now and then at what delivery rests on in the database: the doorbell's trigger, how ids are
//! drawn, and that no row is hidden. Where that is not so, events can be lost without a sign of it.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;
use tracing::{debug, error, info};

use super::health::Health;
use crate::store::{doctor::Finding, error::Chain, history::History};

/// What is done about what is found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checks {
    /// The gateway is not ready, and `serve` does not start.
    #[default]
    Enforce,
    /// It is logged as an error, again and again; for an emergency.
    Warn,
}

/// How often it looks. A change of the table is rare, and a look costs a few short queries.
const INTERVAL: Duration = Duration::from_secs(10);

/// Looks until it is dropped.
pub async fn watch(history: Arc<History>, health: Arc<Health>, checks: Checks) {
    let mut known = Vec::new();
    loop {
        match history.unsafe_findings().await {
            Ok(found) => {
                note(&found, &known, checks, &health);
                known = found;
            }
            // Others tell that PostgreSQL is away.
            Err(error) => debug!(error = %Chain(&error), "cannot check what delivery rests on"),
        }
        sleep(INTERVAL).await;
    }
}

fn note(found: &[Finding], known: &[Finding], checks: Checks, health: &Health) {
    if found.is_empty() && !known.is_empty() {
        info!("what delivery rests on is in order again");
    }
    for Finding { subject, found, mend, .. } in found {
        error!(subject, mend, "events can be lost: {found}");
    }
    let reason = found.first().filter(|_| checks == Checks::Enforce);
    health.endangered(reason.map(|it| format!("events can be lost: {}. {}", it.found, it.mend)));
}

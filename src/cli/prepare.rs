//! Prepares the database for delivery: waits for it, migrates it, and checks it.

use std::time::Duration;

use anyhow::{Context, bail};
use tracing::{info, warn};

use super::{database::wait_for, invocation};
use crate::{
    backoff::Policy,
    config::Config,
    store::{doctor, migrate, reachable, server::Server, shape},
    tail::safety::Checks,
};

/// The pauses between attempts if the connection to PostgreSQL is lost during the start.
const RETRY_BACKOFF: Policy = Policy::new(Duration::from_millis(250), Duration::from_secs(5));

/// Waits for the server, migrates the schema, and checks everything that delivery depends on. If the
/// connection is lost, it starts again.
pub(super) async fn prepare(server: &Server, config: &Config) -> anyhow::Result<()> {
    let mut backoff = RETRY_BACKOFF.start();
    loop {
        wait_for(server).await?;
        match prepare_once(server, config).await {
            // An interrupted migration is rolled back, so the next attempt continues with it.
            Err(error) if reachable::is_transient(error.as_ref()) => {
                warn!("PostgreSQL became unavailable during startup; retrying: {error:#}");
                backoff.wait().await;
            }
            outcome => return outcome,
        }
    }
}

async fn prepare_once(server: &Server, config: &Config) -> anyhow::Result<()> {
    if config.migrate {
        let done = migrate::migrate(server).await.context("updating the schema")?;
        done.applied.iter().for_each(|name| info!("applied migration {name}"));
        if let Some(said) = done.restored.to_words() {
            warn!("{said}");
        }
    } else {
        require_log(server, config).await?;
    }
    check(server, config).await
}

/// Fails if events could be lost unnoticed, unless `--safety-checks warn` is given.
async fn check(server: &Server, config: &Config) -> anyhow::Result<()> {
    let client = server.client().await.context("running the safety checks")?;
    shape::find(&client).await?;
    let found = doctor::unsafe_findings(&client).await.context("running the safety checks")?;
    if config.gateway.log.checks == Checks::Warn || found.is_empty() {
        return Ok(());
    }
    let mend = |sentence: &str| invocation::in_sentence(config, sentence);
    let found: Vec<_> = found
        .iter()
        .map(|it| format!("{}: {}. {}", it.subject, it.found, mend(&it.mend)))
        .collect();
    bail!(
        "events could be lost: {} To start anyway in an emergency, use --safety-checks warn",
        found.join(" ")
    )
}

/// Fails without the table of events: with `--no-migrate` it must have been created before.
async fn require_log(server: &Server, config: &Config) -> anyhow::Result<()> {
    if !migrate::is_there(server).await.context("checking whether the table events exists")? {
        let migrate = invocation::of(&config.database, "migrate");
        bail!(
            "the table events does not exist, and --no-migrate leaves the schema unchanged: run {migrate}"
        );
    }
    Ok(())
}

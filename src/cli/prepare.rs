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

/// After PostgreSQL went away during the start.
const PREPARE_AGAIN: Policy = Policy::new(Duration::from_millis(250), Duration::from_secs(5));

/// Waits for a server that is not there yet, brings the schema up to date, and makes sure that delivery can
/// rest on it. A server that goes away meanwhile is waited for again.
pub(super) async fn prepare(server: &Server, config: &Config) -> anyhow::Result<()> {
    let mut backoff = PREPARE_AGAIN.start();
    loop {
        wait_for(server).await?;
        match prepare_once(server, config).await {
            // A migration left nothing behind: the next attempt goes on where this one was.
            Err(error) if reachable::is_passing(error.as_ref()) => {
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

/// Refuses to start where events could be lost without a sign of it, unless the settings say otherwise.
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

/// With `--no-migrate` somebody else makes the schema, and must have done so.
async fn require_log(server: &Server, config: &Config) -> anyhow::Result<()> {
    if !migrate::is_there(server).await.context("checking whether the table events exists")? {
        let migrate = invocation::of(&config.database, "migrate");
        bail!(
            "the table events does not exist, and --no-migrate leaves the schema unchanged: run {migrate}"
        );
    }
    Ok(())
}

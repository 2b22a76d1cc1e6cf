//! `event-piper migrate`: migrates the database's schema.

use std::process::ExitCode;

use super::{database::reach, output};
use crate::{
    config::Config,
    store::{migrate, server::Server},
};

/// Migrates the schema. The embedded PostgreSQL is created if it does not exist, as by `serve`.
pub(super) async fn migrate(config: Config) -> anyhow::Result<ExitCode> {
    let database = reach(config.database).await?;
    let done = run(&database.server).await;
    database.close().await;
    done
}

async fn run(server: &Server) -> anyhow::Result<ExitCode> {
    let outcome = migrate::migrate(server).await?;
    for name in &outcome.applied {
        output::line(format_args!("applied {name}"))?;
    }
    if let Some(said) = outcome.restored.to_words() {
        output::line(said)?;
    }
    output::line(format_args!("the schema of {server} is up to date"))?;
    Ok(ExitCode::SUCCESS)
}

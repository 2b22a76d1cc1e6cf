//! `event-piper migrate`: bring the database's schema up to date.

use std::process::ExitCode;

use crate::postgres::{migrate, server::Server};

/// Migrates, and says what was applied. An error is the caller's to print, with its causes.
pub(super) async fn run(server: &Server) -> anyhow::Result<ExitCode> {
    let outcome = migrate::migrate(server).await?;
    for name in &outcome.applied {
        println!("applied {name}");
    }
    if let Some(said) = outcome.restored.to_words() {
        println!("{said}");
    }
    println!("the schema of {server} is up to date");
    Ok(ExitCode::SUCCESS)
}

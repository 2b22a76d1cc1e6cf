//! The database that the gateway follows.

use crate::{gateway, postgres::Postgres};

/// Creates and migrates the database `events`.
pub(super) fn ours(postgres: &Postgres) -> anyhow::Result<()> {
    postgres.create("events", "")?;
    gateway::migrate(&postgres.url("events"))
}

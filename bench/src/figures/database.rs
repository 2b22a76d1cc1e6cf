//! The database that the gateway follows.

use crate::{gateway, postgres::Postgres};

/// Creates it under the name `events`.
pub(super) fn ours(postgres: &Postgres) -> anyhow::Result<()> {
    postgres.create("events", "")?;
    gateway::migrate(&postgres.url("events"))
}

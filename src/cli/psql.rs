//! `event-piper psql`: runs psql on the database.

use std::{
    ffi::OsString,
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Command, ExitCode},
};

use anyhow::Context;
use secrecy::ExposeSecret;

use super::{database::require_cluster, database_url::split_password, invocation};
use crate::{
    config::{Config, Database},
    embedded::binaries::Binaries,
};

/// Replaces this process by psql. Returns only after an error.
pub(super) fn psql(config: &Config, args: Vec<OsString>) -> anyhow::Result<ExitCode> {
    if let Database::Embedded(settings) = &config.database {
        require_cluster(settings)?;
    }
    let url = config.database.url().with_context(|| {
        let serve = invocation::of(&config.database, "serve");
        format!("the embedded PostgreSQL is not running; start it with {serve}")
    })?;
    let program = program(&config.database);
    let mut command = Command::new(&program);
    let (url, password) = split_password(&url)?;
    command.arg(url).args(args);
    if let Some(password) = password {
        command.env("PGPASSWORD", password.expose_secret());
    }
    Err(command.exec()).with_context(|| format!("running {}", program.display()))
}

/// The psql in the folder of the server's programs, or the one in the PATH.
fn program(database: &Database) -> PathBuf {
    let setting = match database {
        Database::Embedded(settings) => settings.binaries.as_deref(),
        Database::Url { .. } => None,
    };
    let beside = Binaries::find(setting, None).map(|binaries| binaries.program("psql"));
    beside.ok().filter(|psql| psql.is_file()).unwrap_or_else(|| "psql".into())
}

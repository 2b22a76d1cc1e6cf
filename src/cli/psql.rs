//! `event-piper psql`: a terminal on the database, wherever it is.

use std::{
    ffi::OsString,
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Command, ExitCode},
};

use anyhow::{Context, bail};
use secrecy::{ExposeSecret, SecretString};

use super::invocation;
use crate::{
    config::{Config, Database},
    embedded::binaries::Binaries,
};

/// Becomes psql.
pub(super) fn psql(config: &Config, args: Vec<OsString>) -> anyhow::Result<ExitCode> {
    if let Database::Embedded(settings) = &config.database {
        super::require_cluster(settings)?;
    }
    let url = config.database.url().with_context(|| {
        let serve = invocation::of(&config.database, "serve");
        format!("the embedded PostgreSQL is not running: start it with {serve}")
    })?;
    let program = program(&config.database);
    let mut command = Command::new(&program);
    let (url, password) = apart(&url)?;
    command.arg(url).args(args);
    if let Some(password) = password {
        command.env("PGPASSWORD", password.expose_secret());
    }
    Err(command.exec()).with_context(|| format!("running {}", program.display()))
}

/// The one that came with the server, else whatever a shell would run.
fn program(database: &Database) -> PathBuf {
    let setting = match database {
        Database::Embedded(settings) => settings.binaries.as_deref(),
        Database::Url { .. } => None,
    };
    let beside = Binaries::find(setting, None).map(|binaries| binaries.program("psql"));
    beside.ok().filter(|psql| psql.is_file()).unwrap_or_else(|| "psql".into())
}

/// The URL without its password, and the password: arguments can be seen by everybody on the
/// machine, the environment cannot.
pub(super) fn apart(url: &SecretString) -> anyhow::Result<(String, Option<SecretString>)> {
    let text = url.expose_secret();
    let config: tokio_postgres::Config = text.parse().context("reading the database's URL")?;
    let Some(password) = config.get_password() else { return Ok((text.to_owned(), None)) };
    let password = String::from_utf8(password.to_owned()).context("the password is not UTF-8")?;
    let Some(bare) = without_password(text) else {
        bail!("the password must stand before the host, as in postgres://user:password@host/")
    };
    Ok((bare, Some(password.into())))
}

fn without_password(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let (before, after) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let (user, host) = before.rsplit_once('@')?;
    let (user, _) = user.split_once(':')?;
    Some(format!("{scheme}://{user}@{host}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_no_argument() {
        let url = "postgres://u:p%40ss@h:1/d?sslmode=require".into();
        let (bare, password) = apart(&url).unwrap();
        assert_eq!(bare, "postgres://u@h:1/d?sslmode=require");
        assert_eq!(password.unwrap().expose_secret(), "p@ss");
    }

    #[test]
    fn a_password_that_cannot_be_taken_out_is_refused() {
        assert!(apart(&"host=h user=u password=p".into()).is_err());
        assert_eq!(apart(&"host=h user=u".into()).unwrap().0, "host=h user=u");
    }
}

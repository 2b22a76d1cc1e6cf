//! The database of a command: the server of `--database-url`, or the embedded PostgreSQL.

use std::process::ExitCode;

use anyhow::{Context, bail};

use crate::{
    config::{Config, Database},
    crash,
    embedded::{self, Embedded},
    store::{reachable, server::Server},
};

/// Runs a command on the database of these settings, which must exist.
pub(super) async fn on_database(
    config: Config,
    command: impl AsyncFnOnce(&Server) -> anyhow::Result<ExitCode>,
) -> anyhow::Result<ExitCode> {
    let database = reach_existing(config.database).await?;
    let done = command(&database.server).await;
    database.close().await;
    done
}

/// The server to connect to, and the embedded PostgreSQL if this process has started it.
pub(super) struct Open {
    pub(super) server: Server,
    embedded: Option<Embedded>,
}

impl Open {
    pub(super) async fn close(self) {
        if let Some(embedded) = self.embedded {
            embedded.stop().await;
        }
    }
}

/// Opens a database that exists. It is never created here: a misspelt folder would become a new, empty
/// log.
pub(super) async fn reach_existing(database: Database) -> anyhow::Result<Open> {
    if let Database::Embedded(settings) = &database {
        require_cluster(settings)?;
    }
    reach(database).await
}

pub(super) fn require_cluster(settings: &embedded::Settings) -> anyhow::Result<()> {
    let folder = settings.data_dir.display();
    let exists = embedded::exists(settings);
    if !exists.with_context(|| format!("looking for the embedded PostgreSQL in {folder}"))? {
        bail!(
            "there is no database: --database-url (DATABASE_URL) is not set, and there is no \
             embedded PostgreSQL in {folder}. Set the database URL, or the folder with --data-dir; \
             event-piper serve creates a new one"
        );
    }
    Ok(())
}

/// Opens the database. An embedded PostgreSQL that is running, for instance under a gateway, is used as it
/// is; otherwise it is started for this command.
pub(super) async fn reach(database: Database) -> anyhow::Result<Open> {
    if let Database::Embedded(settings) = &database
        && let Some(url) = embedded::running_url(settings)
    {
        return Ok(Open { server: Server::parse(&url)?, embedded: None });
    }
    open(database).await
}

/// Waits until the server accepts connections.
///
/// # Errors
/// If the server refuses the connection for a reason that waiting does not change.
pub(super) async fn wait_for(server: &Server) -> anyhow::Result<()> {
    let refusal = || format!("PostgreSQL refuses the connection to {server}");
    reachable::wait_for_server(server).await.with_context(refusal)
}

/// Opens the database, and starts the embedded PostgreSQL if it is the one.
pub(super) async fn open(database: Database) -> anyhow::Result<Open> {
    match database {
        Database::Url { server, .. } => Ok(Open { server: *server, embedded: None }),
        Database::Embedded(settings) => {
            let mut embedded = embedded::start(settings).await?;
            let abandoned = embedded.abandoned();
            tokio::spawn(async {
                abandoned.await;
                crash::end("the task that keeps PostgreSQL running has ended")
            });
            Ok(Open { server: Server::parse(embedded.url())?, embedded: Some(embedded) })
        }
    }
}

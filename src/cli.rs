//! The commands: each reads its settings, puts the parts together, and runs them.

mod append;
mod doctor;
mod erase;
mod healthcheck;
mod keys;
mod migrate;
mod prune;
mod psql;
mod pump;
mod serve;
mod tail;
mod token;
mod upkeep;

use std::{ffi::OsString, process::ExitCode};

use anyhow::Context;
use clap::{Parser, Subcommand};

use crate::{
    config::{Config, Database, Flags, WrongSettings},
    postgres::{
        embedded::{self, Embedded},
        reachable,
        server::Server,
    },
    telemetry,
};

/// Wrong usage, as clap has it too.
const USAGE: u8 = 2;

#[derive(Parser)]
#[command(
    name = "event-piper",
    version,
    about = "New rows of a PostgreSQL events table, to every subscriber, once"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve the events, over HTTP
    Serve(Flags),
    /// Bring the database's schema up to date
    Migrate(Flags),
    /// Examine the database: will every event arrive, and if not, what mends it?
    Doctor(Flags),
    /// Take old events out of the log, in small steps that disturb nobody
    Prune {
        #[command(flatten)]
        flags: Flags,
        #[command(flatten)]
        what: prune::Args,
    },
    /// Take out what the events of a subscriber, or of a stream, said; that they were stays
    Erase {
        #[command(flatten)]
        flags: Flags,
        #[command(flatten)]
        whose: erase::Args,
    },
    /// Open psql on the database, or run it with the arguments given
    Psql {
        #[command(flatten)]
        flags: Flags,
        /// What psql shall be told
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Ask a gateway on this machine whether it is ready; for containers
    Healthcheck(Flags),
    /// Make, list and revoke keys of writers and machines
    #[command(subcommand)]
    Keys(keys::Command),
    /// Follow a gateway from the terminal, through lost connections
    Tail(tail::Args),
    /// Keep aggregators up to date: services that are given every event, over HTTP
    Pump(Box<pump::Args>),
    /// Send events to a gateway: payloads, or lines of JSON on standard input
    Append(append::Args),
}

/// Runs the command that this process was started with.
pub async fn run() -> ExitCode {
    match execute(Cli::parse().command).await {
        Ok(code) => code,
        Err(e) => {
            // With all its causes, on one line as far as they are.
            eprintln!("event-piper: {e:#}");
            if e.is::<WrongSettings>() { USAGE.into() } else { ExitCode::FAILURE }
        }
    }
}

async fn execute(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Serve(flags) => serve::serve(load(flags)?).await,
        Command::Migrate(flags) => on_database(load(flags)?, migrate::run).await,
        Command::Doctor(flags) => on_database(load(flags)?, doctor::run).await,
        Command::Prune { flags, what } => {
            on_database(load(flags)?, async |server: &Server| prune::run(server, what).await).await
        }
        Command::Erase { flags, whose } => {
            on_database(load(flags)?, async |server: &Server| erase::run(server, whose).await).await
        }
        Command::Psql { flags, args } => psql::psql(&load(flags)?, args),
        Command::Healthcheck(flags) => healthcheck::healthcheck(&load(flags)?).await,
        Command::Keys(command) => command.run().await,
        Command::Tail(args) => tail::tail(args).await,
        Command::Pump(args) => pump::pump(*args).await,
        Command::Append(args) => append::append(args).await,
    }
}

fn load(flags: Flags) -> Result<Config, WrongSettings> {
    let config = Config::load(flags)?;
    telemetry::init(&config.telemetry);
    Ok(config)
}

/// Runs a command on the database of these settings.
async fn on_database(
    config: Config,
    command: impl AsyncFnOnce(&Server) -> anyhow::Result<ExitCode>,
) -> anyhow::Result<ExitCode> {
    let database = reach(config.database).await?;
    let done = command(&database.server).await;
    database.close().await;
    done
}

/// A database to connect to, and the server that we brought for it, if we did.
struct Open {
    server: Server,
    embedded: Option<Embedded>,
}

impl Open {
    async fn close(self) {
        if let Some(embedded) = self.embedded {
            embedded.stop().await;
        }
    }
}

/// For a glance or a change from beside: the embedded PostgreSQL as it runs, under a gateway
/// maybe, else started for the occasion.
async fn reach(database: Database) -> anyhow::Result<Open> {
    if let Database::Embedded(settings) = &database
        && let Some(url) = embedded::running_url(settings)
    {
        return Ok(Open { server: Server::parse(&url)?, embedded: None });
    }
    open(database).await
}

/// Waits for a server that is not there yet; a refusal is final.
async fn wait_for(server: &Server) -> anyhow::Result<()> {
    reachable::wait(server).await.context("PostgreSQL refuses the connection")
}

/// The server that is named, or the embedded one, started.
async fn open(database: Database) -> anyhow::Result<Open> {
    match database {
        Database::Url { server, .. } => Ok(Open { server: *server, embedded: None }),
        Database::Embedded(settings) => {
            let embedded = embedded::start(settings).await?;
            Ok(Open { server: embedded.server(), embedded: Some(embedded) })
        }
    }
}

//! The commands. Each loads its settings, composes the parts of the program, and runs them.

mod append;
mod banner;
mod database;
mod database_url;
mod doctor;
mod erase;
mod healthcheck;
mod invocation;
mod keys;
mod load;
mod maintenance;
mod migrate;
mod output;
mod prepare;
mod prune;
mod psql;
mod pump;
mod serve;
mod signals;
mod tail;
mod token;

use std::{ffi::OsString, process::ExitCode};

use clap::{Parser, Subcommand};

use self::{database::on_database, load::load};
use crate::{
    config::{self, Flags, WrongSettings},
    store::server::Server,
    telemetry,
};

/// The exit code for wrong usage, the same as clap's.
const USAGE_EXIT_CODE: u8 = 2;

#[derive(Parser)]
#[command(
    name = "event-piper",
    version,
    about = "Delivers new rows of a PostgreSQL events table to every subscriber, exactly once"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve events over HTTP
    Serve(Flags),
    /// Update the database schema
    Migrate(Flags),
    /// Check the database for problems, and say how to fix them
    Doctor(Flags),
    /// Delete old events, in small steps that do not disturb readers and writers
    Prune {
        #[command(flatten)]
        flags: Flags,
        #[command(flatten)]
        what: prune::Args,
    },
    /// Erase the payloads and metadata of a subscriber's or a stream's events
    Erase {
        #[command(flatten)]
        flags: Flags,
        #[command(flatten)]
        whose: erase::Args,
    },
    /// Run psql on the database, with the given arguments
    Psql {
        #[command(flatten)]
        flags: Flags,
        /// Arguments for psql
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Check whether the gateway on this machine is ready; for containers
    Healthcheck(Flags),
    /// Create, list and revoke API keys
    #[command(subcommand)]
    Keys(keys::Command),
    /// Follow a gateway's events in the terminal, and reconnect when the connection is lost
    Tail(tail::Args),
    /// Deliver every event to aggregators over HTTP, and keep them up to date
    Pump(Box<pump::Args>),
    /// Send events to a gateway: payloads as arguments, or lines of JSON on standard input
    Append(append::Args),
}

/// Runs the command that this process was started with.
pub async fn run() -> ExitCode {
    match execute(Cli::parse().command).await {
        Ok(code) => code,
        Err(e) => {
            let wrong = e.downcast_ref::<WrongSettings>();
            if let Some(wrong) = wrong {
                telemetry::init_for_errors(wrong.log_format);
            }
            // The error with its causes. It is one line unless a cause has several.
            output::failure(format_args!("{e:#}"));
            if wrong.is_some() { USAGE_EXIT_CODE.into() } else { ExitCode::FAILURE }
        }
    }
}

async fn execute(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Serve(flags) => serve::serve(load(flags)?).await,
        Command::Migrate(flags) => migrate::migrate(load(flags)?).await,
        Command::Doctor(flags) => {
            let config = load(flags)?;
            let mend = |sentence: &str| invocation::in_sentence(&config, sentence);
            on_database(config.clone(), async |server| doctor::run(server, &mend).await).await
        }
        Command::Prune { flags, what } => {
            on_database(load(flags)?, async |server: &Server| prune::run(server, what).await).await
        }
        Command::Erase { flags, whose } => {
            let config = load(flags)?;
            let vacuum = invocation::of(&config.database, "psql") + " -c 'vacuum events'";
            on_database(config, async |server| erase::run(server, whose, &vacuum).await).await
        }
        Command::Psql { flags, args } => psql::psql(&load(flags)?, args),
        Command::Healthcheck(flags) => healthcheck::healthcheck(&load(flags)?).await,
        Command::Keys(command) => command.run().await,
        Command::Tail(args) => {
            config::check_environment()?;
            tail::tail(args).await
        }
        Command::Pump(args) => pump::pump(*args).await,
        Command::Append(args) => {
            config::check_environment()?;
            append::append(args).await
        }
    }
}

#[cfg(test)]
mod tests;

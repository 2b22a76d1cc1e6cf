//! `event-piper pump`: delivers events to aggregators, and manages events that they refused.

mod health;
mod letters;

use std::{net::SocketAddr, process::ExitCode, sync::Arc};

use anyhow::Context;
use clap::Subcommand;
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    database::{on_database, reach_existing},
    load::{load, start_logging},
    prepare::prepare,
    signals::until_signals,
};
use crate::{
    config::{AggregatorFlags, Config, Flags, commands},
    crash::vital,
    event::EventId,
    gateway::followed::FollowedLog,
    http,
    metrics::Metrics,
    progress,
    pump::{self, Pump, status::Status},
    read::Read,
    store::{pumps::DeadLetterState, server::Server},
};

/// Which aggregators, or what to do about what they refused.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Args {
    #[command(flatten)]
    flags: Flags,
    #[command(flatten)]
    aggregator: AggregatorFlags,
    /// Serve /readyz and /metrics on this address [default: not served]
    #[arg(long, env = commands::PUMP_HEALTH, value_name = "ADDRESS")]
    health: Option<SocketAddr>,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Subcommand)]
enum Action {
    /// List the pumps, their positions, and the refused events
    List(Flags),
    /// Retry refused events: the given ones, or all of the aggregator's
    Retry {
        #[command(flatten)]
        flags: Flags,
        /// The name of the aggregator
        name: String,
        /// The ids of the events
        events: Vec<EventId>,
    },
    /// Skip refused events
    Skip {
        #[command(flatten)]
        flags: Flags,
        /// The name of the aggregator
        name: String,
        /// The ids of the events
        #[arg(required = true)]
        events: Vec<EventId>,
    },
}

pub(super) async fn pump(args: Args) -> anyhow::Result<ExitCode> {
    match args.action {
        None => {
            let config = start_logging(Config::load_for_pumps(args.flags, args.aggregator)?);
            let leaving = CancellationToken::new();
            let work = Box::pin(run(config, args.health, leaving.clone()));
            until_signals(work, leaving).await
        }
        Some(Action::List(flags)) => on_database(load(flags)?, letters::list).await,
        Some(Action::Retry { flags, name, events }) => {
            let mark = letters::Mark { name, events, letter: DeadLetterState::Retry };
            on_database(load(flags)?, async |server: &Server| mark.apply(server).await).await
        }
        Some(Action::Skip { flags, name, events }) => {
            let mark = letters::Mark { name, events, letter: DeadLetterState::Skipped };
            on_database(load(flags)?, async |server: &Server| mark.apply(server).await).await
        }
    }
}

async fn run(
    config: Config,
    health: Option<SocketAddr>,
    leaving: CancellationToken,
) -> anyhow::Result<()> {
    let listen =
        |address| http::tcp(address).with_context(|| format!("listening on {address} (--health)"));
    let health = health.map(listen).transpose()?;
    let reached = leaving.run_until_cancelled(reach_existing(config.database.clone())).await;
    let Some(database) = reached.transpose()? else { return Ok(()) };
    let pumped = prepare_and_pump(&database.server, &config, health, leaving).await;
    database.close().await;
    pumped
}

async fn prepare_and_pump(
    server: &Server,
    config: &Config,
    health: Option<TcpListener>,
    leaving: CancellationToken,
) -> anyhow::Result<()> {
    let prepared = leaving.run_until_cancelled(prepare(server, config)).await;
    if prepared.transpose()?.is_none() {
        return Ok(());
    }
    let metrics = Arc::new(Metrics::new());
    // A pump has no subscribers and writes no events, so neither engine is started.
    let log = FollowedLog::start(server, &config.gateway.log, &metrics);
    let pumps = start(server, log.read(), &config.aggregators, &metrics, &leaving);
    if let Some(listener) = health {
        health::serve(listener, Arc::clone(&log), config.access.metrics_from.clone(), leaving)
            .await?;
    }
    pumps.wait().await;
    log.stop().await;
    Ok(())
}

/// Starts a pump for each aggregator. The pumps run until `leaving` is cancelled.
pub(super) fn start(
    server: &Server,
    read: &Arc<Read>,
    aggregators: &[pump::Settings],
    metrics: &Arc<Metrics>,
    leaving: &CancellationToken,
) -> TaskTracker {
    let (pumps, bars) = (TaskTracker::new(), progress::bars());
    for settings in aggregators {
        let status = Status::new(&settings.name, Arc::clone(metrics)).beside(&bars);
        let pump = Pump::new(server, read, settings.clone(), status);
        pumps.spawn(vital("the task of a pump has ended", pump.run(leaving.clone())));
    }
    pumps.close();
    pumps
}

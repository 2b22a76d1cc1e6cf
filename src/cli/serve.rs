//! `event-piper serve`: starts the database, migrates the schema, and serves. The shutdown is in reverse
//! order.

use std::{process::ExitCode, sync::Arc};

use anyhow::Context;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{banner::Banner, database::open, prepare::prepare, pump, signals::until_signals};
use crate::{
    access::Access,
    config::Config,
    gateway::Gateway,
    http::{self, Listener, tls::Tls},
    metrics::Metrics,
    store::server::Server,
};

pub(super) async fn serve(mut config: Config) -> anyhow::Result<ExitCode> {
    fit_open_files(&mut config);
    let shutdown = CancellationToken::new();
    until_signals(Box::pin(run(config, shutdown.clone())), shutdown).await
}

async fn run(mut config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    let banner = Banner::new(&config);
    if config.access.modes.is_open() && !config.listen.is_local() {
        warn!(
            "--auth open-anywhere: everyone who can reach {} can read and write all events",
            config.listen
        );
    }
    // Before the slow steps, because a port that is in use is the most frequent error.
    let listener = http::listen(&config.listen);
    let listener = listener.with_context(|| format!("listening on {}", config.listen))?;
    if let Some(files) = config.tls.take() {
        config.http.tls = Some(Tls::load(files)?);
    }
    let Some(database) = shutdown.run_until_cancelled(open(config.database.clone())).await else {
        return Ok(());
    };
    let database = database?;
    let served = prepare_and_serve(&database.server, &config, listener, &banner, shutdown).await;
    database.close().await;
    served
}

async fn prepare_and_serve(
    server: &Server,
    config: &Config,
    listener: Listener,
    banner: &Banner,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let Some(prepared) = shutdown.run_until_cancelled(prepare(server, config)).await else {
        return Ok(());
    };
    prepared?;
    banner.print(&listener.address()?);
    run_gateway(server, config, listener, shutdown).await;
    Ok(())
}

/// Serves until `shutdown` is cancelled and the streams are drained.
async fn run_gateway(
    server: &Server,
    config: &Config,
    listener: Listener,
    shutdown: CancellationToken,
) {
    let metrics = Arc::new(Metrics::new());
    let gateway = Gateway::start(server, &config.gateway, &metrics);
    let pumps = pump::start(server, gateway.read(), &config.aggregators, &metrics, &shutdown);
    let access = Access::start(config.access.clone(), server, Arc::clone(&metrics));
    let router = http::router(Arc::clone(&gateway), Arc::clone(&access), config.http.clone());
    let goodbye = async {
        shutdown.cancelled().await;
        gateway.close();
    };
    tokio::join!(http::serve(listener, router, &config.http, &metrics, shutdown.clone()), goodbye);
    pumps.wait().await;
    tokio::join!(gateway.stop(), access.stop());
}

/// Raises the limit of open files as far as the system allows, since each connection is one. If that leaves
/// fewer files than `--max-streams` needs, the limit of streams is lowered and logged.
fn fit_open_files(config: &mut Config) {
    let files = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, most)| {
        setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
        Ok(most)
    });
    let files = match files {
        Ok(files) => usize::try_from(files).unwrap_or(usize::MAX),
        Err(error) => return warn!(%error, "cannot raise the limit on open files"),
    };
    let writing = config.gateway.writer.map_or(0, |writer| writer.connections);
    let pumps = FILES_PER_PUMP * config.aggregators.len();
    let own = (OWN_FILES + config.gateway.log.pool + writing + pumps).min(files / 2);
    let wanted = config.http.limits.streams;
    config.http.limits = config.http.limits.clone().within(files - own);
    let streams = config.http.limits.streams;
    if streams < wanted {
        info!(
            "the system allows {files} open files, so at most {streams} streams instead of the {wanted} of --max-streams"
        );
    }
}

/// Open files that are not connections of clients: standard streams, event queues, listening sockets, the
/// listening connection to PostgreSQL, name resolution, and pipes of the embedded PostgreSQL.
const OWN_FILES: usize = 48;
/// Open files of one pump: the lease, the checkpoint, and two connections to the aggregator.
const FILES_PER_PUMP: usize = 4;

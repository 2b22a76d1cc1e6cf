//! `event-piper serve`: the database, the schema, the gateway; and in reverse at the end.

use std::{process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{banner::Banner, invocation, open, signals::Signals, wait_for};
use crate::{
    access::Access,
    backoff::Policy,
    config::Config,
    gateway::Gateway,
    http::{self, Listener, tls::Tls},
    metrics::Metrics,
    store::{doctor, migrate, reachable, server::Server, shape},
    tail::safety::Checks,
};

pub(super) async fn serve(mut config: Config) -> anyhow::Result<ExitCode> {
    fit_open_files(&mut config);
    let shutdown = CancellationToken::new();
    until_signals(Box::pin(run(config, shutdown.clone())), shutdown).await
}

/// Works until a signal. The first one drains; a second one leaves at once, and whatever is
/// dropped then, the embedded PostgreSQL too, is told to stop without being waited for.
pub(super) async fn until_signals(
    work: impl Future<Output = anyhow::Result<()>>,
    shutdown: CancellationToken,
) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::new()?;
    tokio::pin!(work);
    tokio::select! {
        outcome = &mut work => return done(outcome),
        name = signals.next() => info!("{name}: draining; once more leaves at once"),
    }
    shutdown.cancel();
    tokio::select! {
        outcome = &mut work => done(outcome),
        name = signals.next() => {
            warn!("{name} again: leaving at once");
            Ok(ExitCode::FAILURE)
        }
    }
}

fn done(outcome: anyhow::Result<()>) -> anyhow::Result<ExitCode> {
    outcome.map(|()| ExitCode::SUCCESS)
}

async fn run(mut config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    let banner = Banner::new(&config);
    if config.access.modes.is_open() && !config.listen.is_local() {
        warn!(
            "--auth open-anywhere: whoever reaches {} can read and write everything",
            config.listen
        );
    }
    // Before the slow things, for a port that is taken is the most usual mistake.
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
    banner.print(&listener.place()?);
    run_gateway(server, config, listener, shutdown).await;
    Ok(())
}

/// Waits for a server that is not there yet, brings the schema up to date, and makes sure that delivery can
/// rest on it. A server that goes away meanwhile is waited for again.
pub(super) async fn prepare(server: &Server, config: &Config) -> anyhow::Result<()> {
    let mut backoff = PREPARE_AGAIN.start();
    loop {
        wait_for(server).await?;
        match prepare_once(server, config).await {
            // A migration left nothing behind: the next attempt goes on where this one was.
            Err(error) if reachable::is_passing(error.as_ref()) => {
                warn!("PostgreSQL went away during the start, will try again: {error:#}");
                backoff.wait().await;
            }
            outcome => return outcome,
        }
    }
}

async fn prepare_once(server: &Server, config: &Config) -> anyhow::Result<()> {
    if config.migrate {
        let done = migrate::migrate(server).await.context("bringing the schema up to date")?;
        done.applied.iter().for_each(|name| info!("applied migration {name}"));
        if let Some(said) = done.restored.to_words() {
            warn!("{said}");
        }
    } else {
        require_log(server, config).await?;
    }
    check(server, config).await
}

/// Refuses to start where events could be lost without a sign of it, unless the settings say otherwise.
async fn check(server: &Server, config: &Config) -> anyhow::Result<()> {
    let client = server.client().await.context("checking what delivery rests on")?;
    shape::find(&client).await?;
    let found =
        doctor::unsafe_findings(&client).await.context("checking what delivery rests on")?;
    if config.gateway.log.checks == Checks::Warn || found.is_empty() {
        return Ok(());
    }
    let mend = |sentence: &str| invocation::in_sentence(config, sentence);
    let found: Vec<_> = found
        .iter()
        .map(|it| format!("{}: {}. {}", it.subject, it.found, mend(&it.mend)))
        .collect();
    bail!(
        "events could be lost: {} To start all the same, in an emergency: --safety-checks warn",
        found.join(" ")
    )
}

/// With `--no-migrate` somebody else makes the schema, and must have done so.
async fn require_log(server: &Server, config: &Config) -> anyhow::Result<()> {
    if !migrate::is_there(server).await.context("looking for the table events")? {
        let migrate = invocation::of(&config.database, "migrate");
        bail!(
            "there is no table events, and --no-migrate leaves the schema as it is: run {migrate}"
        );
    }
    Ok(())
}

/// After PostgreSQL went away during the start.
const PREPARE_AGAIN: Policy = Policy::new(Duration::from_millis(250), Duration::from_secs(5));

/// Serves until `shutdown`, then until the streams are drained.
async fn run_gateway(
    server: &Server,
    config: &Config,
    listener: Listener,
    shutdown: CancellationToken,
) {
    let metrics = Arc::new(Metrics::new());
    let gateway = Gateway::start(server, &config.gateway, &metrics);
    let pumps =
        super::pump::start(server, gateway.read(), &config.aggregators, &metrics, &shutdown);
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

/// Each connection is an open file: takes as many as the system allows, keeps some for the
/// gateway's own, and says so when that leaves fewer streams than there may be.
fn fit_open_files(config: &mut Config) {
    let files = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, most)| {
        setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
        Ok(most)
    });
    let files = match files {
        Ok(files) => usize::try_from(files).unwrap_or(usize::MAX),
        Err(error) => return warn!(%error, "the limit on open files cannot be raised"),
    };
    let writing = config.gateway.writer.map_or(0, |writer| writer.connections);
    let pumps = FILES_OF_A_PUMP * config.aggregators.len();
    let own = (OWN_FILES + config.gateway.log.pool + writing + pumps).min(files / 2);
    let wanted = config.http.limits.streams;
    config.http.limits = config.http.limits.clone().within(files - own);
    let streams = config.http.limits.streams;
    if streams < wanted {
        info!(
            "the system allows {files} open files: {streams} streams, not the {wanted} of --max-streams"
        );
    }
}

/// Files that are no connection of a client: standard streams, event queues, the listening
/// sockets and the listening connection, name resolution, an embedded PostgreSQL's pipes.
const OWN_FILES: usize = 48;
/// The lease, the checkpoint, and two connections to the aggregator.
const FILES_OF_A_PUMP: usize = 4;

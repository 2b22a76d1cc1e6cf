//! A PostgreSQL that a program brings along: its own durable cluster in its own folder.
//!
//! For a newcomer who has no database yet, and for a single machine. It is an ordinary
//! cluster with fsync on, kept across runs, that answers on a private socket only, unless a
//! port is asked for. It runs in a process group of its own, because Ctrl-C in a terminal
//! must not stop it before the gateway has drained; and it outlives a gateway that was killed,
//! so that the next one finds it running and its writers notice nothing.

pub mod account;
pub mod binaries;
mod error;
mod folder;
mod postmaster;

use std::{error::Error, future::pending, iter::successors, path::PathBuf, time::Duration};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use tokio::{sync::oneshot, task::JoinHandle, time::sleep};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{error, info, warn};

use self::{
    account::Account,
    binaries::Binaries,
    folder::Folder,
    postmaster::{Pid, Postmaster},
};
pub use self::{
    error::EmbeddedError,
    folder::{NAME, default_data_dir},
};

const DATABASE_EXISTS: &str = "select from pg_database where datname = $1";

/// Pauses between attempts to start PostgreSQL again after it died.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// What an operator can turn on the embedded PostgreSQL.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The folder that holds the cluster, its log and its socket.
    pub data_dir: PathBuf,
    /// Where PostgreSQL's server programs are, if not where they are usually found.
    pub binaries: Option<PathBuf>,
    /// A TCP port on 127.0.0.1, for programs that cannot use the socket; they log in as
    /// `event_piper` with the password that is in the file `password` of the data folder.
    pub port: Option<u16>,
}

/// The embedded PostgreSQL, running, and kept running until [`Embedded::stop`].
#[derive(Debug)]
pub struct Embedded {
    url: String,
    /// Whoever forgets to stop it, or fails on the way, leaves no server behind.
    stopping: DropGuard,
    supervisor: JoinHandle<()>,
    supervised: Option<oneshot::Receiver<()>>,
}

/// Starts the cluster in its folder, after creating it when there is none, or adopts the
/// server that a killed predecessor of ours left running. Returns when it can be used.
pub async fn start(settings: Settings) -> Result<Embedded, EmbeddedError> {
    let account = Account::choose()?;
    let folder = Folder::claim(&settings.data_dir, account)?;
    let binaries = find_binaries(&settings, &folder)?;
    if folder.major().is_none() {
        info!("creating a PostgreSQL {} cluster in {folder}", binaries.major);
        folder.initialize(&binaries).await?;
    }
    let password = folder.prepare(settings.port)?;
    let cluster = Cluster { folder, binaries, port: settings.port, pid: Pid::default() };
    // From here on a failure drops the postmaster, and that stops it.
    let postmaster = cluster.run().await?;
    cluster.create_database(password.as_deref()).await?;
    let (url, stopping) = (cluster.url(NAME), CancellationToken::new());
    let supervising = supervise(cluster, postmaster, stopping.clone());
    let (finished, supervised) = oneshot::channel();
    let supervisor = tokio::spawn(async move {
        supervising.await;
        let _ = finished.send(());
    });
    let supervised = Some(supervised);
    Ok(Embedded { url, stopping: stopping.drop_guard(), supervisor, supervised })
}

/// Where the cluster in this folder can be reached, if it runs at this moment.
#[must_use]
pub fn running_url(settings: &Settings) -> Option<String> {
    let running = postmaster::read_pid_file(&Folder::cluster_in(&settings.data_dir))?;
    (running.is_ready() && running.is_alive()).then(|| url(&running.socket_dir, running.port, NAME))
}

/// Whether there is a cluster in this folder, running or not.
pub fn exists(settings: &Settings) -> std::io::Result<bool> {
    Folder::cluster_in(&settings.data_dir).try_exists()
}

impl Embedded {
    /// The database's URL, as `psql` takes it.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Is ready if the task that supervises the cluster has panicked: nothing keeps PostgreSQL running any more.
    /// Otherwise never.
    pub fn abandoned(&mut self) -> impl Future<Output = ()> + Send + use<> {
        abandoned(self.supervised.take())
    }

    /// Ends connections, writes a checkpoint, and returns when no process is left.
    pub async fn stop(self) {
        self.stopping.disarm().cancel();
        // It fails only when it panicked, and then there is nobody to tell but the log.
        if let Err(e) = self.supervisor.await {
            error!("stopping the embedded PostgreSQL: {e}");
        }
    }
}

async fn abandoned(supervised: Option<oneshot::Receiver<()>>) {
    let Some(supervised) = supervised else { return pending().await };
    if supervised.await.is_ok() {
        pending::<()>().await;
    }
}

/// A data folder can be opened by its own major version only.
fn find_binaries(settings: &Settings, folder: &Folder) -> Result<Binaries, EmbeddedError> {
    let major = folder.major();
    Binaries::find(settings.binaries.as_deref(), major).map_err(|source| match major {
        None => EmbeddedError::NoPrograms(source),
        Some(major) => EmbeddedError::OtherMajor { folder: folder.to_string(), major, source },
    })
}

async fn supervise(cluster: Cluster, mut postmaster: Postmaster, stopping: CancellationToken) {
    loop {
        tokio::select! {
            () = stopping.cancelled() => return postmaster.stop().await,
            how = postmaster.ended() => warn!("the embedded PostgreSQL ended by itself: {how}"),
        }
        // Before its successor, or its farewell signal would reach that one.
        drop(postmaster);
        let again = stopping.run_until_cancelled(cluster.run_again()).await;
        let Some(started) = again else { return cluster.stop_starting().await };
        postmaster = started;
        info!("the embedded PostgreSQL runs again");
    }
}

/// Everything that is needed to run the server, again and again.
#[derive(Debug)]
struct Cluster {
    folder: Folder,
    binaries: Binaries,
    port: Option<u16>,
    pid: Pid,
}

impl Cluster {
    async fn run(&self) -> Result<Postmaster, EmbeddedError> {
        if let Some(running) = Postmaster::adopt(&self.folder, self.port, &self.pid).await {
            info!("found the embedded PostgreSQL running, and took it over");
            return Ok(running);
        }
        Postmaster::launch(&self.folder, &self.binaries, self.port, &self.pid).await
    }

    async fn run_again(&self) -> Postmaster {
        let (mut pause, longest) = BACKOFF;
        loop {
            sleep(pause).await;
            match Postmaster::launch(&self.folder, &self.binaries, self.port, &self.pid).await {
                Ok(postmaster) => return postmaster,
                Err(e) => {
                    let e = on_one_line(&e);
                    error!("cannot start the embedded PostgreSQL again, will retry: {e}");
                }
            }
            pause = (pause * 2).min(longest);
        }
    }

    /// Stops a server whose start was interrupted.
    async fn stop_starting(&self) {
        Postmaster::of_pid(&self.pid).stop().await;
    }

    fn url(&self, database: &str) -> String {
        url(self.folder.socket_dir(), self.port.unwrap_or(postmaster::DEFAULT_PORT), database)
    }

    /// Creates our database when it is not there yet; an interrupted first start catches up.
    async fn create_database(&self, password: Option<&str>) -> Result<(), EmbeddedError> {
        let (client, connection) =
            tokio_postgres::connect(&self.url("postgres"), tokio_postgres::NoTls).await?;
        let connection = tokio::spawn(connection);
        if client.query_opt(DATABASE_EXISTS, &[&NAME]).await?.is_none() {
            client.batch_execute(&format!("create database {NAME}")).await?;
        }
        if let Some(password) = password {
            // PostgreSQL 13 would store an MD5 hash, which pg_hba.conf does not accept.
            let set = format!(
                "set password_encryption = 'scram-sha-256'; alter role {NAME} password '{password}'"
            );
            client.batch_execute(&set).await?;
        }
        drop(client);
        let _ = connection.await;
        Ok(())
    }
}

/// What a URL has of a path as it is; every other byte is percent-encoded.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'_').remove(b'.');

fn url(socket_dir: &std::path::Path, port: u16, database: &str) -> String {
    let host = percent_encode(socket_dir.as_os_str().as_encoded_bytes(), PLAIN);
    format!("postgresql:///{database}?host={host}&port={port}&user={NAME}")
}

/// An error and what caused it.
fn on_one_line(error: &(dyn Error + 'static)) -> String {
    let causes = successors(Some(error), |error| (*error).source()).map(ToString::to_string);
    causes.collect::<Vec<_>>().join(": ").replace('\n', "; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_supervisor_that_ends_without_a_word_has_abandoned_the_cluster() {
        let watched = |end: fn(oneshot::Sender<()>)| {
            let (finished, supervised) = oneshot::channel();
            end(finished);
            let moment = Duration::from_millis(10);
            tokio::time::timeout(moment, abandoned(Some(supervised)))
        };
        assert!(watched(drop).await.is_ok());
        assert!(watched(|finished| finished.send(()).unwrap()).await.is_err(), "it was stopped");
    }
}

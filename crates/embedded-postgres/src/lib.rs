//! An embedded PostgreSQL: a durable private cluster in its own folder, run by the program that uses it.
//!
//! It is meant for users who have no database yet, and for single machines. It is an ordinary
//! cluster with fsync on. It is kept across runs, and listens on a private socket only, unless a TCP
//! port is set. It runs in its own process group, because Ctrl-C in a terminal
//! must not stop it before the gateway has drained. It keeps running if the gateway is killed:
//! the next gateway adopts the running server, and writers are not interrupted.

pub mod binaries;
mod error;
mod folder;
pub mod os_user;
mod postmaster;

use std::{error::Error, future::pending, iter::successors, path::PathBuf, time::Duration};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use tokio::{sync::oneshot, task::JoinHandle, time::sleep};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{error, info, warn};

use self::{
    binaries::Binaries,
    folder::Folder,
    os_user::OsUser,
    postmaster::{Pid, Postmaster},
};
pub use self::{
    error::EmbeddedError,
    folder::{NAME, default_data_dir},
};

const DATABASE_EXISTS: &str = "select from pg_database where datname = $1";

/// The first and the longest pause between attempts to restart PostgreSQL after it has exited.
const RESTART_PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// The settings of the embedded PostgreSQL.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The folder that contains the cluster, its log and its socket.
    pub data_dir: PathBuf,
    /// The folder of PostgreSQL's server programs. `None`: search `PATH` and the usual folders.
    pub binaries: Option<PathBuf>,
    /// A TCP port on 127.0.0.1, for programs that cannot use the socket. They log in as
    /// `event_piper` with the password in the file `password` of the data folder. `None`: no TCP port.
    pub port: Option<u16>,
}

/// A running embedded PostgreSQL. It is restarted when it exits, until [`Embedded::stop`] is called.
/// Dropping the value asks the server to stop, without waiting for it.
#[derive(Debug)]
pub struct Embedded {
    url: String,
    /// Stops the server when the value is dropped.
    stopping: DropGuard,
    supervisor: JoinHandle<()>,
    supervised: Option<oneshot::Receiver<()>>,
}

/// Starts the cluster in its folder, and creates it if it does not exist. If a killed process left the
/// server running, adopts it. Returns when the server accepts connections.
///
/// # Errors
/// If PostgreSQL's programs are missing, the folder is in use or inaccessible, or the server does not start.
pub async fn start(settings: Settings) -> Result<Embedded, EmbeddedError> {
    let os_user = OsUser::choose()?;
    let folder = Folder::claim(&settings.data_dir, os_user)?;
    let binaries = find_binaries(&settings, &folder)?;
    if folder.major().is_none() {
        info!("creating a PostgreSQL {} cluster in {folder}", binaries.major);
        folder.initialize(&binaries).await?;
    }
    let password = folder.prepare(settings.port)?;
    let cluster = Cluster { folder, binaries, port: settings.port, pid: Pid::default() };
    // From here on, an error drops the postmaster, which stops it.
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

/// The URL of the cluster in this folder, if it is running.
#[must_use]
pub fn running_url(settings: &Settings) -> Option<String> {
    let running = postmaster::read_pid_file(&Folder::cluster_in(&settings.data_dir))?;
    (running.is_ready() && running.is_alive()).then(|| url(&running.socket_dir, running.port, NAME))
}

/// Returns whether this folder contains a cluster, running or not.
pub fn exists(settings: &Settings) -> std::io::Result<bool> {
    Folder::cluster_in(&settings.data_dir).try_exists()
}

impl Embedded {
    /// The URL of the database, in the format of libpq.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Completes if the task that supervises the cluster has panicked, so that PostgreSQL is no longer restarted.
    /// Otherwise, and when called again, it never completes.
    pub fn abandoned(&mut self) -> impl Future<Output = ()> + Send + use<> {
        abandoned(self.supervised.take())
    }

    /// Stops the server: ends connections, writes a checkpoint, and returns when the server has exited.
    pub async fn stop(self) {
        self.stopping.disarm().cancel();
        // The task fails only if it panics. Only the log can report that.
        if let Err(e) = self.supervisor.await {
            error!("cannot stop the embedded PostgreSQL: {e}");
        }
    }
}

async fn abandoned(supervised: Option<oneshot::Receiver<()>>) {
    let Some(supervised) = supervised else { return pending().await };
    if supervised.await.is_ok() {
        pending::<()>().await;
    }
}

/// Finds PostgreSQL's programs. A cluster can be opened only by its own major version.
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
            how = postmaster.ended() => warn!("the embedded PostgreSQL exited unexpectedly: {how}"),
        }
        // Drop it before its successor starts, because dropping it sends a signal to the current pid.
        drop(postmaster);
        let again = stopping.run_until_cancelled(cluster.run_again()).await;
        let Some(started) = again else { return cluster.stop_starting().await };
        postmaster = started;
        info!("restarted the embedded PostgreSQL");
    }
}

/// Everything that is needed to start the server, any number of times.
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
            info!("the embedded PostgreSQL is already running; using it");
            return Ok(running);
        }
        Postmaster::launch(&self.folder, &self.binaries, self.port, &self.pid).await
    }

    async fn run_again(&self) -> Postmaster {
        let (mut pause, longest) = RESTART_PAUSES;
        loop {
            sleep(pause).await;
            match Postmaster::launch(&self.folder, &self.binaries, self.port, &self.pid).await {
                Ok(postmaster) => return postmaster,
                Err(e) => {
                    let e = on_one_line(&e);
                    error!("cannot restart the embedded PostgreSQL; retrying: {e}");
                }
            }
            pause = (pause * 2).min(longest);
        }
    }

    /// Stops a server whose launch was cancelled.
    async fn stop_starting(&self) {
        Postmaster::of_pid(&self.pid).stop().await;
    }

    fn url(&self, database: &str) -> String {
        url(self.folder.socket_dir(), self.port.unwrap_or(postmaster::DEFAULT_PORT), database)
    }

    /// Creates the database if it does not exist, also after an interrupted first start, and sets the password.
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

/// All bytes of a path in a URL that are percent-encoded.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'_').remove(b'.');

fn url(socket_dir: &std::path::Path, port: u16, database: &str) -> String {
    let host = percent_encode(socket_dir.as_os_str().as_encoded_bytes(), PLAIN);
    format!("postgresql:///{database}?host={host}&port={port}&user={NAME}")
}

/// An error and its causes, on one line.
fn on_one_line(error: &(dyn Error + 'static)) -> String {
    let causes = successors(Some(error), |error| (*error).source()).map(ToString::to_string);
    causes.collect::<Vec<_>>().join(": ").replace('\n', "; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_supervisor_that_panics_has_abandoned_the_cluster() {
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

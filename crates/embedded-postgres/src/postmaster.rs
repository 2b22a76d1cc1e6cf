//! The server process: launched or found running, awaited until ready, stopped.

use std::{
    fs::{self, File},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicI32, Ordering},
    },
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
};
use tokio::{
    net::UnixStream,
    process::{Child, Command},
    time::{sleep, timeout},
};
use tracing::{info, warn};

use crate::{
    binaries::Binaries,
    error::EmbeddedError,
    folder::{Folder, file_error},
};

/// Names the socket when no TCP port is asked for.
pub(super) const DEFAULT_PORT: u16 = 5432;

/// Recovery after a crash reads the log since the last checkpoint, which may take a while.
const READY_WITHIN: Duration = Duration::from_mins(5);
/// A fast shutdown writes a checkpoint.
const STOPPED_WITHIN: Duration = Duration::from_mins(1);
/// Without the checkpoint it should be a matter of milliseconds.
const QUIT_WITHIN: Duration = Duration::from_secs(10);
/// How often a process is looked at that cannot be awaited.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A server process. Dropping it tells the server to stop, and does not wait for that.
#[derive(Debug)]
pub(super) struct Postmaster {
    pid: Pid,
    /// None for one that a predecessor of ours launched.
    child: Option<Child>,
}

impl Postmaster {
    /// Launches the server, and waits until it can be used; `pid` is noted for others to see.
    pub(super) async fn launch(
        folder: &Folder,
        binaries: &Binaries,
        port: Option<u16>,
        pid: &Pid,
    ) -> Result<Self, EmbeddedError> {
        disown_reused_pid(&folder.cluster());
        let log = folder.open_log()?;
        let before = log.metadata().map_or(0, |it| it.len());
        let mut postmaster = Self::spawn(folder, binaries, port, log, pid)?;
        match timeout(READY_WITHIN, postmaster.ready(folder)).await {
            Ok(true) => Ok(postmaster),
            Ok(false) => {
                Err(EmbeddedError::Program { program: "postgres", said: folder.log_since(before) })
            }
            Err(_) => {
                let said = folder.log_since(before);
                Err(EmbeddedError::NotReady { within: READY_WITHIN, said })
            }
        }
    }

    fn spawn(
        folder: &Folder,
        binaries: &Binaries,
        port: Option<u16>,
        log: File,
        pid: &Pid,
    ) -> Result<Self, EmbeddedError> {
        let program = binaries.program("postgres");
        let failed = file_error("running", &program);
        let mut command = folder.account().command(&program);
        command.arg("-D").arg(folder.cluster()).args(options(folder.socket_dir(), port));
        command.stdin(Stdio::null()).stdout(log.try_clone().map_err(&failed)?).stderr(log);
        command.process_group(0);
        let child = Command::from(command).spawn().map_err(&failed)?;
        pid.set(child.id());
        Ok(Self { pid: pid.clone(), child: Some(child) })
    }

    /// Takes over the server that runs on this folder already, if one does, and if it runs as
    /// we would run it; else sees to it that it ends.
    pub(super) async fn adopt(folder: &Folder, port: Option<u16>, pid: &Pid) -> Option<Self> {
        let running = timeout(READY_WITHIN, running(&folder.cluster())).await.ok()??;
        // Another program that was given the same number since, or a server that nobody can
        // reach: then launching tells, as PostgreSQL itself guards its data.
        UnixStream::connect(running.socket()).await.ok()?;
        pid.set(u32::try_from(running.pid).ok());
        let postmaster = Self::of_pid(pid);
        let fits = running.socket_dir == folder.socket_dir()
            && running.port == port.unwrap_or(DEFAULT_PORT)
            && running.tcp == port.is_some();
        if fits {
            return Some(postmaster);
        }
        info!("restarting the PostgreSQL that was left running, for its settings differ");
        postmaster.stop().await;
        None
    }

    /// A server that is no child of ours.
    pub(super) fn of_pid(pid: &Pid) -> Self {
        Self { pid: pid.clone(), child: None }
    }

    /// True when the server is ready, false when it has ended.
    async fn ready(&mut self, folder: &Folder) -> bool {
        let ours = self.pid.get();
        loop {
            if self.has_ended() {
                return false;
            }
            let noted = read_pid_file(&folder.cluster());
            if noted.is_some_and(|it| Some(it.pid) == ours && it.is_ready()) {
                return true;
            }
            sleep(LOOK_EVERY).await;
        }
    }

    fn has_ended(&mut self) -> bool {
        let ended = match &mut self.child {
            Some(child) => child.try_wait().ok().flatten().is_some(),
            None => !self.pid.get().is_some_and(is_alive),
        };
        if ended {
            self.pid.clear();
        }
        ended
    }

    /// Waits until the server has ended, and says how.
    pub(super) async fn ended(&mut self) -> String {
        let how = match &mut self.child {
            Some(child) => child.wait().await.map(|status| status.to_string()),
            None => Ok("nobody knows how, for it was no child of ours".to_owned()),
        };
        while !self.has_ended() {
            sleep(LOOK_EVERY).await;
        }
        how.unwrap_or_else(|e| e.to_string())
    }

    /// Stops the server and waits until it is gone: with a checkpoint, or at least at once.
    pub(super) async fn stop(mut self) {
        for (signal, within) in [(Signal::SIGINT, STOPPED_WITHIN), (Signal::SIGQUIT, QUIT_WITHIN)] {
            self.pid.signal(signal);
            if timeout(within, self.ended()).await.is_ok() {
                return;
            }
            warn!("the embedded PostgreSQL did not end within {within:?} of {signal}");
        }
    }
}

impl Drop for Postmaster {
    fn drop(&mut self) {
        self.pid.signal(Signal::SIGINT);
    }
}

/// Settings that must be as we say, whatever the cluster's own file has: what is given here
/// wins over everything else.
fn options(socket_dir: &Path, port: Option<u16>) -> Vec<String> {
    let listen = if port.is_some() { "127.0.0.1" } else { "" };
    let port = port.unwrap_or(DEFAULT_PORT);
    // The quotes are for a list in which a path may have a comma.
    let sockets = format!("\"{}\"", socket_dir.display().to_string().replace('"', "\"\""));
    let settings = [
        format!("listen_addresses={listen}"),
        format!("port={port}"),
        format!("unix_socket_directories={sockets}"),
        "unix_socket_permissions=0700".to_owned(),
        "logging_collector=off".to_owned(),
        "log_destination=stderr".to_owned(),
        "fsync=on".to_owned(),
    ];
    settings.into_iter().flat_map(|setting| ["-c".to_owned(), setting]).collect()
}

/// The server that runs on this cluster and is ready, or will be soon; none if there is none.
async fn running(cluster: &Path) -> Option<PidFile> {
    loop {
        let noted = read_pid_file(cluster).filter(|it| it.is_alive() && it.is_postgres())?;
        if noted.is_ready() {
            return Some(noted);
        }
        sleep(LOOK_EVERY).await;
    }
}

/// A process id that several look at, and that changes when the server is started again.
#[derive(Clone, Debug, Default)]
pub(super) struct Pid(Arc<AtomicI32>);

impl Pid {
    /// Stands for no process.
    const NONE: i32 = 0;

    fn set(&self, pid: Option<u32>) {
        let pid = pid.and_then(|pid| i32::try_from(pid).ok()).unwrap_or(Self::NONE);
        self.0.store(pid, Ordering::SeqCst);
    }

    fn clear(&self) {
        self.set(None);
    }

    fn get(&self) -> Option<i32> {
        Some(self.0.load(Ordering::SeqCst)).filter(|pid| *pid != Self::NONE)
    }

    pub(super) fn signal(&self, signal: Signal) {
        if let Some(pid) = self.get() {
            // It may have ended in the meantime, which is what a signal is for.
            let _ = kill(nix::unistd::Pid::from_raw(pid), signal);
        }
    }
}

/// What a server notes about itself in `postmaster.pid`.
#[derive(Debug)]
pub(super) struct PidFile {
    pid: i32,
    pub(super) port: u16,
    pub(super) socket_dir: PathBuf,
    tcp: bool,
    status: String,
}

/// Reads `postmaster.pid`; it may be of a server that is no more.
pub(super) fn read_pid_file(cluster: &Path) -> Option<PidFile> {
    let text = fs::read_to_string(cluster.join("postmaster.pid")).ok()?;
    let line = |number: usize| text.lines().nth(number - 1).unwrap_or_default().trim();
    Some(PidFile {
        pid: line(1).parse().ok()?,
        port: line(4).parse().unwrap_or_default(),
        socket_dir: line(5).into(),
        tcp: !line(6).is_empty(),
        status: line(8).to_owned(),
    })
}

impl PidFile {
    pub(super) fn is_ready(&self) -> bool {
        self.status == "ready"
    }

    pub(super) fn is_alive(&self) -> bool {
        is_alive(self.pid)
    }

    fn socket(&self) -> PathBuf {
        self.socket_dir.join(format!(".s.PGSQL.{}", self.port))
    }

    /// Whether the process is a PostgreSQL at all, as far as the system tells.
    fn is_postgres(&self) -> bool {
        let name = fs::read_to_string(format!("/proc/{}/comm", self.pid)).or_else(|_| {
            let mut ps = std::process::Command::new("ps");
            let output = ps.args(["-o", "comm=", "-p", &self.pid.to_string()]).output()?;
            Ok::<_, std::io::Error>(String::from_utf8_lossy(&output.stdout).into_owned())
        });
        name.map_or(true, |name| name.contains("postgres") || name.contains("postmaster"))
    }
}

fn is_alive(pid: i32) -> bool {
    let asked = kill(nix::unistd::Pid::from_raw(pid), None);
    matches!(asked, Ok(()) | Err(Errno::EPERM))
}

/// After a crash of the machine, `postmaster.pid` may name a process that is some other
/// program by now, and PostgreSQL would refuse to start. Naming ourselves instead tells
/// PostgreSQL, whose parent we are, that the note is stale; removing the file would also
/// remove the shared memory's key, which guards against surviving backends.
fn disown_reused_pid(cluster: &Path) {
    let Some(noted) = read_pid_file(cluster) else { return };
    if !noted.is_alive() || noted.is_postgres() {
        return;
    }
    let path = cluster.join("postmaster.pid");
    if let Ok(text) = fs::read_to_string(&path) {
        let rest = text.split_once('\n').map_or("", |(_, rest)| rest);
        let _ = fs::write(&path, format!("{}\n{rest}", std::process::id()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_of_another_program_is_replaced_and_the_memory_key_kept() {
        let folder = std::env::temp_dir().join(format!("ep-pid-{:x}", fastrand::u64(..)));
        fs::create_dir(&folder).unwrap();
        let mut other = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        // For a moment it still has the name of this thread, which begins with `postgres`.
        let comm = format!("/proc/{}/comm", other.id());
        while fs::read_to_string(&comm).is_ok_and(|name| name.trim() != "sleep") {
            std::thread::yield_now();
        }
        let rest = "/data\n1700000000\n5432\n/socket\n\n 12345 678\nready\n";
        fs::write(folder.join("postmaster.pid"), format!("{}\n{rest}", other.id())).unwrap();
        disown_reused_pid(&folder);
        other.kill().unwrap();
        other.wait().unwrap();
        let text = fs::read_to_string(folder.join("postmaster.pid")).unwrap();
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!(text, format!("{}\n{rest}", std::process::id()));
    }
}

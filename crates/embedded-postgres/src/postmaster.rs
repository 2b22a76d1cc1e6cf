//! The server process: launch or adopt it, wait until it is ready, stop it.

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

/// The port that names the socket if no TCP port is set.
pub(super) const DEFAULT_PORT: u16 = 5432;

/// The deadline for a start. Recovery after a crash reads the WAL since the last checkpoint, which can take minutes.
const READY_DEADLINE: Duration = Duration::from_mins(5);
/// The deadline for a fast shutdown, which writes a checkpoint.
const STOP_DEADLINE: Duration = Duration::from_mins(1);
/// The deadline for an immediate shutdown, which writes no checkpoint and usually takes milliseconds.
const QUIT_DEADLINE: Duration = Duration::from_secs(10);
/// How often a process is polled that cannot be awaited.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// A server process. Dropping it asks the server to stop, without waiting for it.
#[derive(Debug)]
pub(super) struct Postmaster {
    pid: Pid,
    /// `None` if an earlier process launched the server.
    child: Option<Child>,
}

impl Postmaster {
    /// Launches the server, and waits until it accepts connections. Stores its process id in `pid`.
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
        match timeout(READY_DEADLINE, postmaster.ready(folder)).await {
            Ok(true) => Ok(postmaster),
            Ok(false) => {
                let output = folder.log_since(before);
                Err(EmbeddedError::Program { program: "postgres", output })
            }
            Err(_) => {
                let output = folder.log_since(before);
                Err(EmbeddedError::NotReady { within: READY_DEADLINE, output })
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
        let mut command = folder.os_user().command(&program);
        command.arg("-D").arg(folder.cluster()).args(options(folder.socket_dir(), port));
        command.stdin(Stdio::null()).stdout(log.try_clone().map_err(&failed)?).stderr(log);
        command.process_group(0);
        let child = Command::from(command).spawn().map_err(&failed)?;
        pid.set(child.id());
        Ok(Self { pid: pid.clone(), child: Some(child) })
    }

    /// Adopts the server that is already running on this folder, if there is one with the same settings. Stops
    /// a server with other settings.
    pub(super) async fn adopt(folder: &Folder, port: Option<u16>, pid: &Pid) -> Option<Self> {
        let running = timeout(READY_DEADLINE, running(&folder.cluster())).await.ok()??;
        // If connecting fails, the pid belongs to another program by now, or the server is unreachable. Then
        // try to launch one: PostgreSQL itself refuses to start twice on the same data.
        UnixStream::connect(running.socket()).await.ok()?;
        pid.set(u32::try_from(running.pid).ok());
        let postmaster = Self::of_pid(pid);
        let fits = running.socket_dir == folder.socket_dir()
            && running.port == port.unwrap_or(DEFAULT_PORT)
            && running.tcp == port.is_some();
        if fits {
            return Some(postmaster);
        }
        info!("restarting the embedded PostgreSQL, because it is running with other settings");
        postmaster.stop().await;
        None
    }

    /// A server that is not a child of this process.
    pub(super) fn of_pid(pid: &Pid) -> Self {
        Self { pid: pid.clone(), child: None }
    }

    /// Waits until the server is ready (`true`) or has exited (`false`).
    async fn ready(&mut self, folder: &Folder) -> bool {
        let pid = self.pid.get();
        loop {
            if self.has_ended() {
                return false;
            }
            let file = read_pid_file(&folder.cluster());
            if file.is_some_and(|it| Some(it.pid) == pid && it.is_ready()) {
                return true;
            }
            sleep(POLL_INTERVAL).await;
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

    /// Waits until the server has exited. Returns a description of its exit status.
    ///
    /// # Cancel safety
    /// Can be cancelled and called again.
    pub(super) async fn ended(&mut self) -> String {
        let how = match &mut self.child {
            Some(child) => child.wait().await.map(|status| status.to_string()),
            None => Ok("unknown exit status, because another process launched it".to_owned()),
        };
        while !self.has_ended() {
            sleep(POLL_INTERVAL).await;
        }
        how.unwrap_or_else(|e| e.to_string())
    }

    /// Stops the server, and waits until it has exited: with a fast shutdown, or, if that takes too long, with an
    /// immediate one.
    pub(super) async fn stop(mut self) {
        for (signal, within) in [(Signal::SIGINT, STOP_DEADLINE), (Signal::SIGQUIT, QUIT_DEADLINE)]
        {
            self.pid.signal(signal);
            if timeout(within, self.ended()).await.is_ok() {
                return;
            }
            let seconds = within.as_secs();
            warn!("the embedded PostgreSQL did not exit within {seconds} s after {signal}");
        }
    }
}

impl Drop for Postmaster {
    fn drop(&mut self) {
        self.pid.signal(Signal::SIGINT);
    }
}

/// Command-line options for settings that must not be changed. They override the cluster's configuration files.
fn options(socket_dir: &Path, port: Option<u16>) -> Vec<String> {
    let listen = if port.is_some() { "127.0.0.1" } else { "" };
    let port = port.unwrap_or(DEFAULT_PORT);
    // The setting is a list, so quote the path, which may contain a comma.
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

/// The server that is running on this cluster, after waiting until it is ready. `None` if no server is running.
async fn running(cluster: &Path) -> Option<PidFile> {
    loop {
        let file = read_pid_file(cluster).filter(|it| it.is_alive() && it.is_postgres())?;
        if file.is_ready() {
            return Some(file);
        }
        sleep(POLL_INTERVAL).await;
    }
}

/// A shared process id, which changes when the server is restarted.
#[derive(Clone, Debug, Default)]
pub(super) struct Pid(Arc<AtomicI32>);

impl Pid {
    /// The value for no process.
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
            // Ignore errors: the process may have exited in the meantime.
            let _ = kill(nix::unistd::Pid::from_raw(pid), signal);
        }
    }
}

/// The contents of `postmaster.pid`, which a running server writes.
#[derive(Debug)]
pub(super) struct PidFile {
    pid: i32,
    pub(super) port: u16,
    pub(super) socket_dir: PathBuf,
    tcp: bool,
    status: String,
}

/// Reads `postmaster.pid`. The file may belong to a server that is no longer running.
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

    /// Returns whether the process is PostgreSQL. `true` if its name is unknown.
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
    let probed = kill(nix::unistd::Pid::from_raw(pid), None);
    matches!(probed, Ok(()) | Err(Errno::EPERM))
}

/// Replaces a reused pid in `postmaster.pid`. After a crash of the machine, the pid may belong to another
/// program by now, and PostgreSQL would refuse to start. PostgreSQL ignores the pid of its parent, so this
/// function writes the pid of this process. Removing the file would also
/// remove the key of the shared memory, which protects against surviving backends.
fn disown_reused_pid(cluster: &Path) {
    let Some(file) = read_pid_file(cluster) else { return };
    if !file.is_alive() || file.is_postgres() {
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
    fn a_reused_pid_is_replaced_and_the_memory_key_is_kept() {
        let folder = std::env::temp_dir().join(format!("ep-pid-{:x}", fastrand::u64(..)));
        fs::create_dir(&folder).unwrap();
        let mut other = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        // Until exec, the child has the name of this thread, which begins with `postgres`.
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

//! A gateway in a separate process, for faults: `event-piper serve` as installed.

use std::{
    fs::{self, File},
    net::SocketAddr,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    process::{Child, Command},
    time::timeout,
};

use super::{eventually, ports::free_address, scratch::Scratch, sse_client::try_ask};

/// A gateway process that can be killed, frozen, and restarted at the same address. It ends with the test.
pub(crate) struct Process {
    address: SocketAddr,
    args: Vec<String>,
    /// A shell command to run first.
    before: Option<String>,
    log: PathBuf,
    child: Option<Child>,
    _folder: Scratch,
}

/// The resources that a process uses.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// Resident memory, in bytes.
    pub(crate) bytes: u64,
    /// Peak resident memory, in bytes.
    pub(crate) peak: u64,
    /// Open file descriptors.
    pub(crate) files: usize,
}

impl Process {
    /// Starts a gateway on the database at `url`, with more flags. Does not wait until it is ready.
    pub(crate) fn launch(url: &str, flags: &[&str]) -> Self {
        Self::launch_as(url, flags, None)
    }

    /// The same in a shell that runs a command first, such as `ulimit -n 128`.
    pub(crate) fn launch_limited(url: &str, flags: &[&str], before: &str) -> Self {
        Self::launch_as(url, flags, Some(before.to_owned()))
    }

    fn launch_as(url: &str, flags: &[&str], before: Option<String>) -> Self {
        let folder = Scratch::new();
        let address = free_address();
        let own =
            ["serve", "--database-url", url, "--listen", &address.to_string()].map(From::from);
        let args = own.into_iter().chain(flags.iter().map(|flag| (*flag).to_owned())).collect();
        let log = folder.path().join("log");
        let mut process = Self { address, args, before, log, child: None, _folder: folder };
        process.start();
        process
    }

    /// The address on which it listens, which is the same after a restart.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Starts the process after it has ended.
    pub(crate) fn start(&mut self) {
        let log = File::options().create(true).append(true).open(&self.log).unwrap();
        let program = env!("CARGO_BIN_EXE_event-piper");
        let mut command = match &self.before {
            None => Command::new(program),
            Some(before) => {
                let mut shell = Command::new("sh");
                shell.args(["-c", &format!("{before}; exec \"$0\" \"$@\""), program]);
                shell
            }
        };
        command.args(&self.args).env_clear().envs(std::env::var_os("PATH").map(|it| ("PATH", it)));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).kill_on_drop(true);
        self.child = Some(command.spawn().unwrap());
    }

    /// The process id.
    pub(crate) fn pid(&self) -> Pid {
        let id = self.child.as_ref().and_then(Child::id).expect("the process is running");
        Pid::from_raw(id.try_into().unwrap())
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    /// Waits until it exits. Returns `None` if it does not exit in time.
    pub(crate) async fn ended(&mut self, within: Duration) -> Option<ExitStatus> {
        let status = timeout(within, self.child.as_mut()?.wait()).await.ok()?.unwrap();
        self.child = None;
        Some(status)
    }

    /// Returns the exit status, if the process has exited by itself.
    pub(crate) fn fallen(&mut self) -> Option<ExitStatus> {
        let status = self.child.as_mut()?.try_wait().unwrap()?;
        self.child = None;
        Some(status)
    }

    /// Waits until it is ready.
    pub(crate) async fn ready(&self) {
        eventually("the gateway is ready", async || self.is_ready().await.then_some(())).await;
    }

    /// Returns whether `/readyz` says that it is ready.
    pub(crate) async fn is_ready(&self) -> bool {
        matches!(ask_if_there(self.address, "/readyz").await, Some((200, _)))
    }

    /// Returns the value of a metric, without the prefix `event_piper_`.
    pub(crate) async fn metric(&self, name: &str) -> Option<f64> {
        let (_, text) = ask_if_there(self.address, "/metrics").await?;
        let prefix = format!("event_piper_{name} ");
        text.lines().find_map(|line| line.strip_prefix(&prefix))?.parse().ok()
    }

    /// Returns its current resource usage, if the system reports it.
    pub(crate) fn usage(&self) -> Option<Usage> {
        let id = self.child.as_ref().and_then(Child::id)?;
        let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
        let kibibytes = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim_end_matches("kB").trim().parse::<u64>().ok()
        };
        Some(Usage {
            bytes: kibibytes("VmRSS:")? << 10,
            peak: kibibytes("VmHWM:")? << 10,
            files: fs::read_dir(format!("/proc/{id}/fd")).ok()?.count(),
        })
    }

    /// Returns its log.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

async fn ask_if_there(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    let asked = try_ask(address, "GET", path, &[]);
    let answer = timeout(Duration::from_secs(5), asked).await.ok()?.ok()?;
    Some((answer.status, answer.body))
}

//! A pump as a process, which can be killed and started again.

use std::{
    fs::{self, File},
    net::SocketAddr,
    path::PathBuf,
    process::{Output, Stdio},
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

use super::aggregator::Aggregator;
use crate::support::{eventually, scratch::Scratch, sse_client::try_ask};

/// The process. It is killed when the value is dropped.
pub(crate) struct PumpProcess {
    args: Vec<String>,
    child: Option<Child>,
    log: PathBuf,
    /// The length of the log at the last start.
    before: usize,
    _folder: Scratch,
}

/// Short intervals, so that tests are fast, and a long request timeout.
const QUICK: [(&str, &str); 4] = [
    ("--timeout", "10s"),
    ("--longest-pause", "200ms"),
    ("--name", "toto"),
    ("--log", "info,event_piper=debug"),
];

impl PumpProcess {
    /// Starts a pump for a database and an aggregator, with more flags.
    pub(crate) fn start(url: &str, aggregator: &Aggregator, flags: &[&str]) -> Self {
        let to = aggregator.url();
        let quick = QUICK.into_iter().filter(|(name, _)| !flags.contains(name));
        let quick: Vec<_> = quick.flat_map(<[&str; 2]>::from).collect();
        Self::launch(&[&["--database-url", url, "--to", &to], &quick[..], flags].concat())
    }

    /// Starts a pump with these flags.
    pub(crate) fn launch(flags: &[&str]) -> Self {
        let folder = Scratch::new();
        let own = ["pump", "--health", "127.0.0.1:0"].map(ToOwned::to_owned);
        let args = own.into_iter().chain(flags.iter().map(|flag| (*flag).to_owned())).collect();
        let log = folder.path().join("log");
        let mut process = Self { args, child: None, log, before: 0, _folder: folder };
        process.run();
        process
    }

    /// Starts the process again.
    pub(crate) fn run(&mut self) {
        self.before = self.log().len();
        let log = File::options().create(true).append(true).open(&self.log).unwrap();
        let mut command = program();
        command.args(&self.args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.child = Some(command.kill_on_drop(true).spawn().unwrap());
    }

    pub(crate) async fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().await.unwrap();
        }
    }

    /// Ends the process by a signal, and waits for its exit.
    pub(crate) async fn leave(&mut self) {
        self.signal(Signal::SIGTERM);
        let mut child = self.child.take().expect("it runs");
        let left = timeout(Duration::from_secs(110), child.wait()).await;
        assert!(left.expect("it leaves").unwrap().success(), "{}", self.log());
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let id = self.child.as_ref().and_then(Child::id).expect("it runs");
        kill(Pid::from_raw(id.try_into().unwrap()), signal).unwrap();
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The address of the health endpoint, read from the log, since the port is chosen by the system.
    fn health(&self) -> Option<SocketAddr> {
        let log = self.log();
        let line =
            log[self.before..].lines().find(|line| line.contains("serving health and metrics"))?;
        line.split("address=").nth(1)?.split_whitespace().next()?.parse().ok()
    }

    /// The state in `/readyz`, and whether the pump is ready.
    pub(crate) async fn state(&self) -> Option<(String, bool)> {
        let answer = try_ask(self.health()?, "GET", "/readyz", &[]).await.ok()?;
        let json = answer.json();
        let state = json["pumps"].as_object()?.values().next()?.as_str()?.to_owned();
        Some((state, answer.status == 200))
    }

    /// Waits until the pump is in this state, and ready or not.
    pub(crate) async fn until_it_tells(&self, state: &str, ready: bool) {
        let what = format!("the pump is {state}, ready: {ready}");
        let told = Some((state.to_owned(), ready));
        self.eventually(&what, async || self.state().await == told).await;
    }

    pub(crate) async fn until(&self, state: &str) {
        let what = format!("the pump is {state}");
        self.eventually(&what, async || self.state().await.is_some_and(|(now, _)| now == state))
            .await;
    }

    /// Waits for a condition. The log is shown if it is not met in time.
    pub(crate) async fn eventually(&self, what: &str, mut probe: impl AsyncFnMut() -> bool) {
        let reached = eventually(what, async || probe().await.then_some(()));
        let reached = timeout(Duration::from_secs(110), reached).await;
        assert!(reached.is_ok(), "not in time: {what}\n{}", self.log());
    }

    /// The value of a metric.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let health = self.health().expect("it tells of its health");
        let text = try_ask(health, "GET", "/metrics", &[]).await.unwrap().body;
        let name = format!("event_piper_pump_{name}{{aggregator=\"toto\"}} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&name));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
    }
}

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_event-piper"));
    command.env_clear().envs(std::env::var_os("PATH").map(|it| ("PATH", it)));
    command
}

/// Runs `event-piper pump` with a subcommand.
pub(crate) async fn command(args: &[&str], url: &str) -> Output {
    program().arg("pump").args(args).args(["--database-url", url]).output().await.unwrap()
}

/// The output of such a command, which must succeed.
pub(crate) async fn said(args: &[&str], url: &str) -> String {
    let output = command(args, url).await;
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

//! The measured gateway: the release build of this repository.

use std::{
    fs::File,
    io::{Read, Write},
    net::TcpStream,
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::Context;
use nix::sys::signal::Signal;

use crate::{
    postgres::free_port,
    program::{Cost, Program},
    scratch::Scratch,
};

/// A running gateway. It is stopped when the value is dropped.
pub(crate) struct Gateway {
    program: Program,
    pub(crate) port: u16,
}

/// The path of the program, which is in the same folder as this one.
fn program() -> anyhow::Result<PathBuf> {
    Ok(std::env::current_exe()?.with_file_name("event-piper"))
}

/// Migrates a database to the schema of this repository.
pub(crate) fn migrate(url: &str) -> anyhow::Result<()> {
    let mut command = Command::new(program()?);
    crate::postgres::run(command.args(["migrate", "--database-url", url])).map(drop)
}

impl Gateway {
    /// Starts a gateway, and returns when it is ready.
    pub(crate) fn start(scratch: &Scratch, url: &str, more: &[&str]) -> anyhow::Result<Self> {
        let port = free_port()?;
        let log = File::create(scratch.path().join(format!("gateway-{port}.log")))?;
        let mut command = Command::new(program()?);
        command.args(["serve", "--database-url", url, "--drain", "1s"]).args(more);
        command.args(["--listen", &format!("127.0.0.1:{port}")]);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mut gateway =
            Self { program: Program::start(scratch, &mut command, Signal::SIGTERM)?, port };
        let ready = || get(port, "/readyz").is_ok_and(|answer| answer.contains(" 200 "));
        gateway.program.wait_until(Duration::from_mins(2), ready)?;
        Ok(gateway)
    }

    pub(crate) fn cost(&self) -> Cost {
        self.program.cost()
    }

    /// Returns the value of a metric, without the prefix `event_piper_`.
    pub(crate) fn metric(&self, name: &str) -> anyhow::Result<f64> {
        let text = get(self.port, "/metrics")?;
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("event_piper_{name} ")));
        line.with_context(|| format!("no metric {name}"))?.trim().parse().context("a number")
    }
}

/// Sends one request, and returns the whole response with its head.
fn get(port: u16, path: &str) -> std::io::Result<String> {
    let mut socket = TcpStream::connect(("127.0.0.1", port))?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(socket, "GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

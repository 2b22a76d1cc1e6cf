//! A private PostgreSQL with default durability, in a temporary folder.

use std::{
    fs::{self, File},
    net::TcpListener,
    os::unix::{fs::DirBuilderExt, net::UnixStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use event_piper::embedded::{binaries::Binaries, os_user::OsUser};
use nix::sys::signal::Signal;
use tokio::runtime::Runtime;
use tokio_postgres::{Client, NoTls};

use crate::{
    program::{Cost, Program},
    scratch::Scratch,
};

/// fsync stays on. No checkpoint happens during a measurement.
const SETTINGS: &str = "
max_connections = 200
shared_buffers = 1GB
min_wal_size = 2GB
max_wal_size = 16GB
checkpoint_timeout = 1h
listen_addresses = '127.0.0.1'
";

/// Limits of the WAL for a cluster in memory, where there is less space.
const SETTINGS_IN_MEMORY: &str = "min_wal_size = 1GB\nmax_wal_size = 3GB\n";

/// How long a flush takes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flush {
    /// As long as the disk takes.
    AsItIs,
    /// No time: the cluster is in memory, if the system has enough.
    None,
    /// One millisecond. The cluster is in memory, so that the disk does not add to it.
    OneMillisecond,
}

/// A running server. It is stopped when the value is dropped.
pub(crate) struct Postgres {
    program: Program,
    folder: PathBuf,
    port: u16,
    binaries: Binaries,
}

impl Postgres {
    pub(crate) fn start(scratch: &Scratch, flush: Flush) -> anyhow::Result<Self> {
        let os_user = OsUser::choose()?;
        let binaries = Binaries::find(None, None)?;
        let in_memory = scratch.memory().filter(|_| flush != Flush::AsItIs);
        let place = in_memory.unwrap_or(scratch.path());
        let folder = place.join(format!("pg-{:04x}", fastrand::u16(..)));
        fs::DirBuilder::new().mode(0o700).create(&folder)?;
        os_user.own(&folder)?;
        let data = folder.join("data");
        let mut initdb = os_user.command(binaries.program("initdb"));
        initdb.arg("-D").arg(&data).args(["--username=postgres", "--auth=trust"]);
        run(initdb.args(["--encoding=UTF8", "--locale=C"]))?;
        let port = free_port()?;
        let socket = format!("port = {port}\nunix_socket_directories = '{}'\n", folder.display());
        let more = if in_memory.is_some() { SETTINGS_IN_MEMORY } else { "" };
        fs::write(data.join("postgresql.auto.conf"), socket + SETTINGS + more)?;
        let mut command = os_user.command(binaries.program("postgres"));
        if flush == Flush::OneMillisecond {
            command.env("LD_PRELOAD", slow_flush(&folder)?);
        }
        let log = File::create(folder.join("log"))?;
        command.arg("-D").arg(&data).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let program = Program::start(scratch, &mut command, Signal::SIGQUIT)?;
        let mut postgres = Self { program, folder, port, binaries };
        postgres.wait().with_context(|| postgres.log())?;
        Ok(postgres)
    }

    fn wait(&mut self) -> anyhow::Result<()> {
        let socket = self.folder.join(format!(".s.PGSQL.{}", self.port));
        let note = self.folder.join("data/postmaster.pid");
        self.program.wait_until(Duration::from_mins(1), || {
            let ready = fs::read_to_string(&note).is_ok_and(|note| note.contains("ready"));
            ready && UnixStream::connect(&socket).is_ok()
        })
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    pub(crate) fn cost(&self) -> Cost {
        self.program.cost()
    }

    pub(crate) fn url(&self, database: &str) -> String {
        let (folder, port) = (self.folder.display(), self.port);
        format!("postgresql:///{database}?host={folder}&port={port}&user=postgres")
    }

    pub(crate) fn tcp_url(&self, database: &str) -> String {
        format!("postgresql://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// A command for one of PostgreSQL's client programs, with the connection parameters set.
    pub(crate) fn client(&self, program: &str) -> Command {
        let mut command = Command::new(self.binaries.program(program));
        command.env("PGHOST", &self.folder).env("PGPORT", self.port.to_string());
        command.env("PGUSER", "postgres");
        command
    }

    /// Creates a database, and runs `sql` in it.
    pub(crate) fn create(&self, name: &str, sql: &str) -> anyhow::Result<()> {
        Session::open(&self.url("postgres"))?.run(&format!("create database {name}"))?;
        Session::open(&self.url(name))?.run(sql)
    }

    pub(crate) fn version(&self) -> anyhow::Result<String> {
        Session::open(&self.url("postgres"))?.text("show server_version")
    }
}

/// Compiles the library that makes flushes slower.
fn slow_flush(folder: &Path) -> anyhow::Result<PathBuf> {
    let library = folder.join("slow_flush.so");
    let source = folder.join("slow_flush.c");
    fs::write(&source, include_str!("../slow_flush.c"))?;
    run(Command::new("cc")
        .args(["-O2", "-shared", "-fPIC", "-o"])
        .arg(&library)
        .arg(&source)
        .arg("-ldl"))?;
    Ok(library)
}

pub(crate) fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Runs a command to its end, and returns its standard output.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("running {name}"))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!("{name} failed: {said}{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(said)
}

/// One connection, used by one thread.
pub(crate) struct Session {
    runtime: Runtime,
    client: Client,
}

impl Session {
    pub(crate) fn open(url: &str) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let connecting = tokio_postgres::connect(url, NoTls);
        let (client, connection) = runtime.block_on(connecting).context("connecting")?;
        runtime.spawn(connection);
        Ok(Self { runtime, client })
    }

    pub(crate) fn run(&self, sql: &str) -> anyhow::Result<()> {
        self.runtime.block_on(self.client.batch_execute(sql)).with_context(|| sql.to_owned())
    }

    /// Runs a query, and returns the single value of its single row.
    pub(crate) fn text(&self, sql: &str) -> anyhow::Result<String> {
        let messages = self.runtime.block_on(self.client.simple_query(sql))?;
        let value = messages.iter().find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        });
        value.map(ToOwned::to_owned).with_context(|| format!("no row from {sql}"))
    }

    /// Prepares a statement.
    pub(crate) fn prepare(&self, sql: &str) -> anyhow::Result<tokio_postgres::Statement> {
        Ok(self.runtime.block_on(self.client.prepare(sql))?)
    }

    pub(crate) fn execute(
        &self,
        statement: &tokio_postgres::Statement,
        values: &[&(dyn tokio_postgres::types::ToSql + Sync)],
    ) -> anyhow::Result<()> {
        let rows = self.runtime.block_on(self.client.execute(statement, values))?;
        ensure!(rows > 0, "nothing was inserted");
        Ok(())
    }
}

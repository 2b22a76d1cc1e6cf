//! A real PostgreSQL for the tests: one server that the whole run shares, and private ones for faults.

use std::{
    env,
    fmt::Write as _,
    fs,
    io::{BufRead, BufReader, Write as _},
    os::unix::{
        fs::{DirBuilderExt, PermissionsExt},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{
        Arc, LazyLock, Mutex,
        atomic::{AtomicU32, Ordering},
    },
};

use event_piper::{
    embedded::{binaries::Binaries, os_user::OsUser},
    store::{migrate::migrate, server::Server},
};
use tokio::sync::OnceCell;
use tokio_postgres::{Client, NoTls};

use super::{disk::Disk, eventually, ports::free_port};

/// The servers need not be durable (tests of durability set `fsync` themselves).
const SETTINGS: &str = "
fsync = off
full_page_writes = off
max_connections = 300
max_prepared_transactions = 20
listen_addresses = '127.0.0.1'
logging_collector = off
";

/// The server that the whole test run shares. It ends with this process.
static SHARED: LazyLock<TestServer> = LazyLock::new(|| TestServer::new(""));
/// The result of `initdb`, which runs once; each server gets a copy.
static FRESH: LazyLock<Fresh> = LazyLock::new(Fresh::new);
static TEMPLATE: OnceCell<()> = OnceCell::const_new();

/// A private database for one test.
pub(crate) struct Database {
    name: String,
    server: TestServer,
}

impl Database {
    /// Creates a migrated database on the shared server.
    pub(crate) async fn create() -> Self {
        TEMPLATE.get_or_init(|| create_template(&SHARED)).await;
        Self::create_on(&SHARED, "template events").await
    }

    /// Creates a database without the schema on the shared server.
    pub(crate) async fn create_empty() -> Self {
        Self::create_on(&SHARED, "").await
    }

    /// Creates a migrated database on another server.
    pub(crate) async fn create_on_own(server: &TestServer) -> Self {
        let database = Self::create_on(server, "").await;
        migrate_to_current(&database.url()).await;
        database
    }

    async fn create_on(server: &TestServer, how: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let name = format!("test_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let client = connect(&server.url("postgres")).await;
        client.batch_execute(&format!("create database {name} {how}")).await.unwrap();
        Self { name, server: server.clone() }
    }

    /// The name, as in `current_database()`.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The URL over the private socket.
    pub(crate) fn url(&self) -> String {
        self.server.url(&self.name)
    }

    /// The URL over TCP.
    pub(crate) fn tcp_url(&self) -> String {
        self.server.tcp_url(&self.name)
    }

    /// Connects as superuser.
    pub(crate) async fn connect(&self) -> Client {
        connect(&self.url()).await
    }
}

async fn create_template(server: &TestServer) {
    let client = connect(&server.url("postgres")).await;
    client.batch_execute("create database events").await.unwrap();
    migrate_to_current(&server.url("events")).await;
}

async fn migrate_to_current(url: &str) {
    migrate(&Server::parse(url).unwrap()).await.unwrap();
}

/// Connects, and drives the connection until the client is dropped.
pub(crate) async fn connect(url: &str) -> Client {
    try_connect(url).await.unwrap()
}

/// The same; returns an error if the server is not available.
pub(crate) async fn try_connect(url: &str) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// A PostgreSQL server that can be stopped, killed and restarted. It ends with its last clone, and with this process,
/// even if that is killed.
#[derive(Clone)]
pub(crate) struct TestServer {
    folder: Arc<Path>,
    port: u16,
    disk: Option<Disk>,
    supervisor: Arc<Mutex<Supervisor>>,
}

/// How to stop a server.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stop {
    /// Ends connections, and writes a checkpoint.
    Fast,
    /// Exits without a checkpoint; the next start runs recovery.
    Immediate,
    /// `kill -9` for all of its processes.
    Kill,
}

impl TestServer {
    /// Starts a private server, with more settings in the format of `postgresql.conf`.
    pub(crate) async fn start_own(settings: &str) -> Self {
        let settings = settings.to_owned();
        blocking(move || Self::new(&settings)).await
    }

    /// The major version of PostgreSQL of all servers.
    pub(crate) fn major() -> u32 {
        FRESH.binaries.major
    }

    /// The same with a disk that can be full or slow.
    pub(crate) async fn start_on_disk(settings: &str) -> Self {
        let settings = settings.to_owned();
        let server = blocking(move || {
            let folder = private_folder(&FRESH.os_user);
            let disk = Disk::build(&folder);
            Self::copied(&FRESH.data, folder, Some(disk), &settings)
        });
        server.await
    }

    /// Creates a synchronous standby of this server. This server is restarted: its files are copied while it is
    /// stopped, so that no other program than `postgres` is needed.
    pub(crate) async fn standby(&self) -> Self {
        self.stop(Stop::Fast).await;
        let primary = format!("host={} port={} user=postgres", self.folder.display(), self.port);
        let data = self.data();
        let standby = blocking(move || {
            let (folder, os_user) = (private_folder(&FRESH.os_user), &FRESH.os_user);
            let backup = folder.join("backup");
            run(os_user.command("cp").arg("-R").arg(&data).arg(&backup));
            run(os_user.command("touch").arg(backup.join("standby.signal")));
            let settings = format!("hot_standby = on\nprimary_conninfo = '{primary}'\n");
            (backup, folder, settings)
        });
        let (backup, folder, settings) = standby.await;
        self.start().await;
        let standby = blocking(move || Self::copied(&backup, folder, None, &settings)).await;
        let primary = connect(&self.url("postgres")).await;
        let all = "alter system set synchronous_standby_names = '*'";
        primary.batch_execute(all).await.unwrap();
        primary.batch_execute("select pg_reload_conf()").await.unwrap();
        eventually("the standby follows", async || {
            let state = "select 1 from pg_stat_replication where sync_state = 'sync'";
            primary.query_opt(state, &[]).await.unwrap()
        })
        .await;
        standby
    }

    /// Promotes a standby.
    pub(crate) async fn promote(&self) {
        let client = connect(&self.url("postgres")).await;
        let promoted = client.query_one("select pg_promote()", &[]).await.unwrap();
        assert!(promoted.get::<_, bool>(0), "the standby was not promoted");
    }

    /// The controllable disk of the server.
    pub(crate) fn disk(&self) -> &Disk {
        self.disk.as_ref().expect("the server was started with `start_on_disk`")
    }

    fn new(settings: &str) -> Self {
        Self::copied(&FRESH.data, private_folder(&FRESH.os_user), None, settings)
    }

    fn copied(from: &Path, folder: PathBuf, disk: Option<Disk>, settings: &str) -> Self {
        let supervisor = Supervisor::new(&FRESH.os_user, &FRESH.binaries, &folder, disk.as_ref());
        let data = folder.join("data");
        run(FRESH.os_user.command("cp").arg("-R").arg(from).arg(&data));
        let port = free_port();
        let mut text = SETTINGS.to_owned();
        writeln!(text, "port = {port}\nunix_socket_directories = '{}'", folder.display()).unwrap();
        fs::write(data.join("postgresql.auto.conf"), text + settings).unwrap();
        let supervisor = Arc::new(supervisor.into());
        let server = Self { folder: folder.into(), port, disk, supervisor };
        server.do_start();
        server
    }

    /// A URL over the private socket.
    pub(crate) fn url(&self, database: &str) -> String {
        let (folder, port) = (self.folder.display(), self.port);
        format!("postgresql:///{database}?host={folder}&port={port}&user=postgres")
    }

    /// A URL over TCP.
    pub(crate) fn tcp_url(&self, database: &str) -> String {
        format!("postgresql://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// The port, which is the same after a restart.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The data folder, for files that settings name (certificates, `pg_hba.conf`).
    pub(crate) fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Writes a file into the data folder that only the server may read.
    pub(crate) fn write(&self, name: &str, content: &str) {
        let path = self.data().join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        FRESH.os_user.own(&path).unwrap();
    }

    /// Starts the server on the same port. Returns when it accepts connections.
    pub(crate) async fn start(&self) {
        let server = self.clone();
        blocking(move || server.do_start()).await;
    }

    /// Returns whether the postmaster is running.
    pub(crate) async fn runs(&self) -> bool {
        let supervisor = self.supervisor.clone();
        blocking(move || supervisor.lock().unwrap().command("runs")).await == "yes"
    }

    /// Stops the server. Returns when it has exited.
    pub(crate) async fn stop(&self, how: Stop) {
        let supervisor = self.supervisor.clone();
        let verb = match how {
            Stop::Fast => "fast",
            Stop::Immediate => "immediate",
            Stop::Kill => "kill",
        };
        let answer = blocking(move || supervisor.lock().unwrap().command(verb)).await;
        assert_eq!(answer, verb);
    }

    /// Stops and starts the server.
    pub(crate) async fn restart(&self, how: Stop) {
        self.stop(how).await;
        self.start().await;
    }

    fn do_start(&self) {
        let answer = self.supervisor.lock().unwrap().command("start");
        let log = || fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        assert!(answer.starts_with("started"), "PostgreSQL did not start:\n{}", log());
    }
}

/// The shell that runs a server. It outlives this process just long enough to clean up.
struct Supervisor {
    child: Child,
    /// Closed to end the shell.
    commands: Option<ChildStdin>,
    responses: BufReader<ChildStdout>,
}

impl Supervisor {
    fn new(os_user: &OsUser, binaries: &Binaries, folder: &Path, disk: Option<&Disk>) -> Self {
        let mut command = os_user.command("sh");
        disk.inspect(|disk| disk.under(&mut command));
        command.args(["-c", include_str!("supervisor.sh"), "supervisor"]);
        command.arg(&binaries.dir).arg(folder);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        // Ctrl-C must reach the tests only; the shell notices their end by itself.
        let mut child = command.process_group(0).spawn().unwrap();
        let commands = child.stdin.take();
        let responses = BufReader::new(child.stdout.take().unwrap());
        Self { child, commands, responses }
    }

    fn command(&mut self, verb: &str) -> String {
        writeln!(self.commands.as_mut().unwrap(), "{verb}").unwrap();
        let mut response = String::new();
        self.responses.read_line(&mut response).unwrap();
        response.trim_end().to_owned()
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        drop(self.commands.take());
        let _ = self.child.wait();
    }
}

/// A new data folder, and everything that is needed to run servers on copies of it.
struct Fresh {
    binaries: Binaries,
    os_user: OsUser,
    data: PathBuf,
    /// Removes the folder when the test run ends.
    _supervisor: Mutex<Supervisor>,
}

impl Fresh {
    fn new() -> Self {
        let setting = env::var_os("EVENT_PIPER_TEST_POSTGRES_BIN").map(PathBuf::from);
        let binaries = Binaries::find(setting.as_deref(), None).unwrap_or_else(|e| panic!("{e}"));
        let os_user = OsUser::choose().unwrap();
        let folder = private_folder(&os_user);
        let supervisor = Supervisor::new(&os_user, &binaries, &folder, None);
        let data = folder.join("data");
        let mut initdb = os_user.command(binaries.program("initdb"));
        initdb.arg("-D").arg(&data).args(["--no-sync", "--username=postgres", "--auth=trust"]);
        run(initdb.args(["--encoding=UTF8", "--locale=C"]));
        Self { binaries, os_user, data, _supervisor: supervisor.into() }
    }
}

/// Creates a folder that only the servers' user may enter, with a name short enough for a socket.
fn private_folder(os_user: &OsUser) -> PathBuf {
    let name = format!("ep-test-{:08x}", fastrand::u32(..));
    let folder = env::temp_dir().join(name);
    fs::DirBuilder::new().mode(0o700).create(&folder).unwrap();
    os_user.own(&folder).unwrap();
    folder
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

//! The HTTP clients and proxies of others: each hands over an event when it comes, and tells the
//! end of a stream from a cut. Nothing else is sent on these streams for an hour, so a client that
//! waits for a full block of bytes waits for ever.
//!
//! .NET's `HttpClient` is not among them: Debian has no package of the .NET SDK that
//! `scripts/ensure-clients` could install.

use std::{
    env, fs,
    io::Write,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use nix::sys::signal::Signal;
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    time::{sleep, timeout},
};

use crate::support::{
    eventually,
    ports::free_address,
    postgres::Database,
    process::Process,
    scratch::Scratch,
    sse_client::{Stream, try_ask},
};

/// Compilers and virtual machines start slowly on a busy machine.
const DEADLINE: Duration = Duration::from_mins(3);

const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/clients/");

const INSERT: &str = "insert into events (type, subscriber, payload) values ('t', 'toto', '1')";

/// A client, as `scripts/ensure-clients` sees to it that there is one.
#[derive(Clone, Copy)]
struct Client {
    program: &'static str,
    args: &'static [&'static str],
    script: &'static str,
    library: &'static [&'static str],
}

const REQUESTS: Client = python(&["requests"]);
const SSECLIENT: Client = python(&["sseclient"]);
const HTTPX: Client = python(&["httpx"]);
const GO: Client = client("go", &["run"], "follow.go");
const JAVA: Client = client("java", &[], "Follow.java");
const NODE: Client = client("node", &[], "follow.mjs");
const CURL: Client = Client { program: "curl", ..client("sh", &[], "follow.sh") };

const fn client(
    program: &'static str,
    args: &'static [&'static str],
    script: &'static str,
) -> Client {
    Client { program, args, script, library: &[] }
}

const fn python(library: &'static [&'static str]) -> Client {
    Client { library, ..client("python", &[], "follow.py") }
}

fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target"), PathBuf::from)
}

/// Where a program is. A test without its program says so; with CI=true it fails.
fn found(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(["/usr/sbin".into()]);
    let folders: Vec<_> = match program {
        "python" => vec![target().join("clients/bin")],
        _ => folders.collect(),
    };
    let place = folders.iter().map(|folder| folder.join(program)).find(|place| place.is_file());
    if place.is_none() {
        assert_ne!(env::var("CI").as_deref(), Ok("true"), "there is no {program}");
        // Not by a macro: the test harness would keep it to itself.
        let skipped = format!(
            "SKIPPED: a test with {program}, which is not there; scripts/ensure-clients installs it\n"
        );
        std::io::stderr().write_all(skipped.as_bytes()).unwrap();
    }
    place
}

/// A client that follows a stream, and prints a line for each event, and one for the end.
struct Following {
    lines: Lines<BufReader<ChildStdout>>,
    _child: Child,
}

impl Client {
    fn follow(&self, program: &Path, at: SocketAddr) -> Following {
        let program = if self.program == "curl" { Path::new("sh") } else { program };
        let mut command = Command::new(program);
        command.args(self.args).arg(format!("{SCRIPTS}{}", self.script)).args(self.library);
        command.arg(format!("http://{at}/events?consumer=toto"));
        // What Go has compiled once is kept.
        command.env("GOCACHE", target().join("clients-go")).env("GOTOOLCHAIN", "local");
        command.env("NO_PROXY", "*");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Following { lines, _child: child }
    }
}

impl Following {
    /// The next line but heartbeats.
    async fn next(&mut self) -> String {
        let next = async {
            loop {
                let line = self.lines.next_line().await.unwrap().expect("it says how it ended");
                if !line.ends_with("heartbeat") {
                    return line;
                }
            }
        };
        timeout(DEADLINE, next).await.expect("the client says something in time")
    }
}

async fn gateway() -> (Database, Process) {
    let database = Database::create().await;
    let process = Process::launch(&database.url(), &["--heartbeat", "1h", "--drain", "2s"]);
    process.ready().await;
    (database, process)
}

/// Waits until a client has opened its stream.
async fn joined(process: &Process) {
    let joined = async {
        while process.metric("subscriptions{state=\"live\"}").await.is_none_or(|live| live < 1.0) {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(DEADLINE, joined).await.expect("the client opens a stream in time");
}

async fn insert(database: &Database) {
    database.connect().await.batch_execute(INSERT).await.unwrap();
}

/// Follows a gateway that ends its streams, and one that is killed.
async fn follows(client: Client) {
    let Some(program) = found(client.program) else { return };
    let (database, mut process) = gateway().await;
    let at = process.address();
    for (signal, last) in [(Signal::SIGTERM, "end"), (Signal::SIGKILL, "error")] {
        let mut following = client.follow(&program, at);
        joined(&process).await;
        insert(&database).await;
        assert_eq!(following.next().await, "event t", "{signal}");
        process.signal(signal);
        process.ended(DEADLINE).await.expect("the gateway ends");
        if signal == Signal::SIGTERM {
            assert_eq!(following.next().await, "event $closing");
        }
        let said = following.next().await;
        assert!(said.starts_with(last), "{signal}: {said}");
        process.start();
        process.ready().await;
    }
}

#[tokio::test]
async fn pythons_requests() {
    follows(REQUESTS).await;
}

#[tokio::test]
async fn pythons_sseclient() {
    follows(SSECLIENT).await;
}

#[tokio::test]
async fn pythons_httpx() {
    follows(HTTPX).await;
}

#[tokio::test]
async fn gos_net_http() {
    follows(GO).await;
}

#[tokio::test]
async fn javas_http_client() {
    follows(JAVA).await;
}

#[tokio::test]
async fn nodes_fetch() {
    follows(NODE).await;
}

#[tokio::test]
async fn curl() {
    follows(CURL).await;
}

/// A proxy with this configuration before the gateway, once it answers.
async fn proxy(
    program: &Path,
    args: &[&str],
    configuration: impl Fn(SocketAddr, &str) -> String,
) -> (Scratch, SocketAddr, Child) {
    let (folder, address) = (Scratch::new(), free_address());
    let file = folder.path().join("configuration");
    let place = folder.path().to_str().unwrap().to_owned();
    fs::write(&file, configuration(address, &place)).unwrap();
    let mut command = Command::new(program);
    command.args(args).arg(&file).stdin(Stdio::null()).kill_on_drop(true);
    let child = command.spawn().unwrap();
    eventually("the proxy answers", async || {
        let answer = try_ask(address, "GET", "/healthz", &[]).await.ok()?;
        (answer.status == 200).then_some(())
    })
    .await;
    (folder, address, child)
}

fn nginx(upstream: SocketAddr, more: &str) -> impl Fn(SocketAddr, &str) -> String {
    let more = more.to_owned();
    move |listen, folder| {
        format!(
            "daemon off; master_process off; pid {folder}/pid; error_log {folder}/log;
             events {{}}
             http {{
                 access_log off;
                 client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
                 fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
                 server {{ listen {listen}; location / {{ proxy_pass http://{upstream}; {more} }} }}
             }}"
        )
    }
}

fn haproxy(upstream: SocketAddr) -> impl Fn(SocketAddr, &str) -> String {
    move |listen, _| {
        format!(
            "defaults\n mode http\n timeout connect 5s\n timeout client 1h\n timeout server 1h\n\
             frontend f\n bind {listen}\n default_backend b\nbackend b\n server s {upstream}\n"
        )
    }
}

/// An event passes at once, and a stream's end is not taken for a cut. Whether a cut shows
/// behind the proxy, too, depends on the version of HTTP that it speaks to the gateway.
async fn passes(
    program: &str,
    args: &[&str],
    shows_cuts: bool,
    configuration: impl Fn(SocketAddr) -> Box<dyn Fn(SocketAddr, &str) -> String>,
) {
    let Some(program) = found(program) else { return };
    let (database, mut process) = gateway().await;
    let (_folder, address, _child) = proxy(&program, args, configuration(process.address())).await;
    for (signal, complete) in [(Signal::SIGTERM, true), (Signal::SIGKILL, !shows_cuts)] {
        let mut stream = Stream::open(address, "/events?consumer=toto", &[]).await.joined().await;
        insert(&database).await;
        assert_eq!(stream.event().await.data, "1");
        process.signal(signal);
        process.ended(DEADLINE).await.expect("the gateway ends");
        if signal == Signal::SIGTERM {
            stream.signal("$closing").await;
        }
        while stream.next().await.is_some() {}
        assert_eq!(stream.complete, complete, "{signal}");
        process.start();
        process.ready().await;
    }
}

#[tokio::test]
async fn nginx_with_its_defaults() {
    passes("nginx", &["-c"], false, |upstream| Box::new(nginx(upstream, ""))).await;
}

#[tokio::test]
async fn nginx_that_speaks_http_1_1_to_the_gateway() {
    let more = "proxy_http_version 1.1; proxy_set_header Connection \"\";";
    passes("nginx", &["-c"], true, |upstream| Box::new(nginx(upstream, more))).await;
}

#[tokio::test]
async fn haproxy_with_time_outs() {
    passes("haproxy", &["-db", "-f"], true, |upstream| Box::new(haproxy(upstream))).await;
}

//! Third-party HTTP clients and proxies. Each passes an event on as soon as it arrives, and distinguishes the
//! end of a stream from a lost connection. Nothing else is sent on these streams for an hour, so a client
//! that waits for a full block of bytes does not get the event within the test's time limit.
//!
//! .NET's `HttpClient` is not tested: Debian has no package of the .NET SDK that `scripts/ensure-clients`
//! could install.

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

/// Long enough for compilers and virtual machines, which start slowly on a busy machine.
const CLIENT_TIMEOUT: Duration = Duration::from_mins(3);

const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/clients/");

const INSERT: &str = "insert into events (type, subscriber, payload) values ('t', 'toto', '1')";

/// A client that `scripts/ensure-clients` installs.
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

/// The path of a program. If the program is not installed, the test prints that it is skipped, or fails with
/// CI=true.
fn find_program(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(["/usr/sbin".into()]);
    let folders: Vec<_> = match program {
        "python" => vec![target().join("clients/bin")],
        _ => folders.collect(),
    };
    let place = folders.iter().map(|folder| folder.join(program)).find(|place| place.is_file());
    if place.is_none() {
        assert_ne!(env::var("CI").as_deref(), Ok("true"), "{program} is not installed");
        // Not with a macro, since the test harness would capture the output.
        let skipped = format!(
            "SKIPPED: a test with {program}, which is not installed; scripts/ensure-clients installs it\n"
        );
        std::io::stderr().write_all(skipped.as_bytes()).unwrap();
    }
    place
}

/// A running client. It prints a line for each event of the stream, and one for the stream's end.
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
        // Go reuses what it compiled in an earlier run.
        command.env("GOCACHE", target().join("clients-go")).env("GOTOOLCHAIN", "local");
        command.env("NO_PROXY", "*");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Following { lines, _child: child }
    }
}

impl Following {
    /// The next line that is not a heartbeat.
    async fn next(&mut self) -> String {
        let next = async {
            loop {
                let line = self
                    .lines
                    .next_line()
                    .await
                    .unwrap()
                    .expect("the client prints how the stream ended");
                if !line.ends_with("heartbeat") {
                    return line;
                }
            }
        };
        timeout(CLIENT_TIMEOUT, next).await.expect("the client prints a line in time")
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
    timeout(CLIENT_TIMEOUT, joined).await.expect("the client opens a stream in time");
}

async fn insert(database: &Database) {
    database.connect().await.batch_execute(INSERT).await.unwrap();
}

/// Runs the client against a gateway that ends its streams, and against one that is killed.
async fn follows(client: Client) {
    let Some(program) = find_program(client.program) else { return };
    let (database, mut process) = gateway().await;
    let at = process.address();
    for (signal, last) in [(Signal::SIGTERM, "end"), (Signal::SIGKILL, "error")] {
        let mut following = client.follow(&program, at);
        joined(&process).await;
        insert(&database).await;
        assert_eq!(following.next().await, "event t", "{signal}");
        process.signal(signal);
        process.ended(CLIENT_TIMEOUT).await.expect("the gateway ends");
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
async fn pythons_requests_reads_a_stream() {
    follows(REQUESTS).await;
}

#[tokio::test]
async fn pythons_sseclient_reads_a_stream() {
    follows(SSECLIENT).await;
}

#[tokio::test]
async fn pythons_httpx_reads_a_stream() {
    follows(HTTPX).await;
}

#[tokio::test]
async fn gos_net_http_reads_a_stream() {
    follows(GO).await;
}

#[tokio::test]
async fn javas_http_client_reads_a_stream() {
    follows(JAVA).await;
}

#[tokio::test]
async fn nodes_fetch_reads_a_stream() {
    follows(NODE).await;
}

#[tokio::test]
async fn curl_reads_a_stream() {
    follows(CURL).await;
}

/// Starts a proxy with this configuration, and waits until the gateway answers through it.
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

/// The proxy passes an event on at once, and passes the end of a stream on as an end. Whether it passes a
/// lost connection on as an error depends on the HTTP version that it speaks to the gateway.
async fn passes(
    program: &str,
    args: &[&str],
    shows_cuts: bool,
    configuration: impl Fn(SocketAddr) -> Box<dyn Fn(SocketAddr, &str) -> String>,
) {
    let Some(program) = find_program(program) else { return };
    let (database, mut process) = gateway().await;
    let (_folder, address, _child) = proxy(&program, args, configuration(process.address())).await;
    for (signal, complete) in [(Signal::SIGTERM, true), (Signal::SIGKILL, !shows_cuts)] {
        let mut stream = Stream::open(address, "/events?consumer=toto", &[]).await.joined().await;
        insert(&database).await;
        assert_eq!(stream.event().await.data, "1");
        process.signal(signal);
        process.ended(CLIENT_TIMEOUT).await.expect("the gateway ends");
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
async fn nginx_with_defaults_passes_streams_on() {
    passes("nginx", &["-c"], false, |upstream| Box::new(nginx(upstream, ""))).await;
}

#[tokio::test]
async fn nginx_with_http_1_1_passes_streams_on() {
    let more = "proxy_http_version 1.1; proxy_set_header Connection \"\";";
    passes("nginx", &["-c"], true, |upstream| Box::new(nginx(upstream, more))).await;
}

#[tokio::test]
async fn haproxy_with_timeouts_passes_streams_on() {
    passes("haproxy", &["-db", "-f"], true, |upstream| Box::new(haproxy(upstream))).await;
}

//! The compared servers behind one interface: the gateway, its peers, and bare writes.

use std::{
    fmt,
    fs::{self, File},
    io::{Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::Context;
use nix::sys::signal::Signal;

use crate::{
    Run,
    feed::{Feed, consumer},
    gateway::Gateway,
    postgres::{Postgres, free_port},
    program::{Cost, Program},
    swarm::{Swarm, Target},
};

/// A kind of server.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    EventPiper,
    Bare,
    Nchan,
    Pushpin,
    Relay,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::EventPiper => "EventPiper",
            Self::Bare => "bare epoll writes",
            Self::Nchan => "Nchan",
            Self::Pushpin => "Pushpin",
            Self::Relay => "hand-written Node relay",
        })
    }
}

/// A running server. It is stopped when the value is dropped.
pub(crate) struct Server {
    peer: Peer,
    programs: Programs,
    port: u16,
    pub(crate) feed: Feed,
}

enum Programs {
    Gateway(Gateway),
    Others(Vec<Program>),
}

impl Server {
    /// Starts the gateway on the database `events`.
    pub(crate) fn gateway(run: &Run, postgres: &Postgres) -> anyhow::Result<Self> {
        Self::gateway_with(run, postgres, &[])
    }

    /// Starts the gateway without recent events in memory, so that all history comes from the table.
    pub(crate) fn gateway_without_recent(run: &Run, postgres: &Postgres) -> anyhow::Result<Self> {
        Self::gateway_with(run, postgres, &["--recent", "0B"])
    }

    fn gateway_with(run: &Run, postgres: &Postgres, more: &[&str]) -> anyhow::Result<Self> {
        let url = postgres.url("events");
        let gateway = Gateway::start(&run.scratch, &url, more)?;
        let (port, programs) = (gateway.port, Programs::Gateway(gateway));
        Ok(Self { peer: Peer::EventPiper, programs, port, feed: Feed::Insert { url } })
    }

    /// Starts a peer that gets its messages over HTTP.
    pub(crate) fn start(run: &Run, peer: Peer) -> anyhow::Result<Self> {
        match peer {
            Peer::Nchan => nchan(run),
            Peer::Pushpin => pushpin(run),
            _ => bare(run),
        }
    }

    /// Starts the hand-written relay on the database `notify`.
    pub(crate) fn relay(run: &Run, postgres: &Postgres) -> anyhow::Result<Self> {
        let folder = relay_folder()?;
        let port = free_port()?;
        let mut command = Command::new("node");
        command.arg(folder.join("relay.mjs")).arg(port.to_string());
        command.arg(postgres.tcp_url("notify"));
        let relay = start(run, &mut command, Signal::SIGTERM, port)?;
        let programs = Programs::Others(vec![relay]);
        let feed = Feed::Insert { url: postgres.url("notify") };
        Ok(Self { peer: Peer::Relay, programs, port, feed })
    }

    /// Opens streams; stream `n` follows consumer `n % consumers`.
    pub(crate) fn open(&self, streams: usize, consumers: usize) -> anyhow::Result<Swarm> {
        let path = match self.peer {
            Peer::EventPiper | Peer::Relay => "/events?consumer=",
            Peer::Bare | Peer::Nchan | Peer::Pushpin => "/sub?id=",
        };
        let request = |client: usize| {
            let consumer = consumer(client % consumers);
            format!(
                "GET {path}{consumer} HTTP/1.1\r\nHost: bench\r\nAccept: text/event-stream\r\n\r\n"
            )
        };
        let ready: &[u8] = if self.peer == Peer::EventPiper { b"thump" } else { b"\r\n\r\n" };
        // Pushpin responds with 502 to many more concurrent requests.
        let at_once = if self.peer == Peer::Pushpin { 32 } else { 256 };
        let target = Target { port: self.port, request: &request, ready, at_once };
        Swarm::open(&target, streams).with_context(|| format!("opening {streams} at {}", self.peer))
    }

    /// Reconnects streams of the gateway, all at once, with the same cursor.
    pub(crate) fn resume(
        &self,
        streams: usize,
        consumers: usize,
        cursor: &str,
    ) -> anyhow::Result<Swarm> {
        let request = |client: usize| {
            let consumer = consumer(client % consumers);
            format!(
                "GET /events HTTP/1.1\r\nHost: bench\r\nX-Consumer-Id: {consumer}\r\n\
                     Last-Event-ID: {cursor}\r\n\r\n"
            )
        };
        let target = Target { port: self.port, request: &request, ready: b"", at_once: streams };
        Swarm::storm(&target, streams)
    }

    /// Returns the value of a metric of the gateway.
    pub(crate) fn metric(&self, name: &str) -> anyhow::Result<f64> {
        match &self.programs {
            Programs::Gateway(gateway) => gateway.metric(name),
            Programs::Others(_) => anyhow::bail!("{} has no metrics", self.peer),
        }
    }

    pub(crate) fn cost(&self) -> Cost {
        match &self.programs {
            Programs::Gateway(gateway) => gateway.cost(),
            Programs::Others(programs) => {
                programs.iter().map(Program::cost).fold(Cost::default(), |sum, one| Cost {
                    cpu: sum.cpu + one.cpu,
                    memory: sum.memory + one.memory,
                    peak: sum.peak + one.peak,
                })
            }
        }
    }
}

fn start(
    run: &Run,
    command: &mut Command,
    stop_signal: Signal,
    port: u16,
) -> anyhow::Result<Program> {
    let log = File::create(run.scratch.path().join(format!("peer-{port}.log")))?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let mut program = Program::start(&run.scratch, command, stop_signal)?;
    let up = || TcpStream::connect(("127.0.0.1", port)).is_ok();
    program.wait_until(Duration::from_secs(30), up)?;
    Ok(program)
}

fn bare(run: &Run) -> anyhow::Result<Server> {
    let port = free_port()?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args([crate::BARE, &port.to_string()]);
    let program = start(run, &mut command, Signal::SIGTERM, port)?;
    let programs = Programs::Others(vec![program]);
    Ok(Server { peer: Peer::Bare, programs, port, feed: Feed::Post { port } })
}

fn nchan(run: &Run) -> anyhow::Result<Server> {
    let port = free_port()?;
    let nginx = nginx(
        run,
        port,
        "location = /pub {
             nchan_publisher; nchan_channel_id $arg_id;
             nchan_message_timeout 60s; nchan_message_buffer_length 100;
         }
         location = /sub {
             nchan_subscriber eventsource; nchan_channel_id $arg_id;
             nchan_subscriber_first_message newest; nchan_eventsource_ping_interval 10;
         }",
    )?;
    let programs = Programs::Others(vec![nginx]);
    Ok(Server { peer: Peer::Nchan, programs, port, feed: Feed::Post { port } })
}

/// Starts nginx with one worker, which is its lowest CPU usage.
fn nginx(run: &Run, port: u16, locations: &str) -> anyhow::Result<Program> {
    let folder = run.scratch.path().join(format!("nginx-{port}"));
    fs::create_dir_all(&folder)?;
    let conf = folder.join("nginx.conf");
    let prefix = folder.display();
    fs::write(
        &conf,
        format!(
            "load_module /usr/lib/nginx/modules/ngx_nchan_module.so;
        daemon off; worker_processes 1; worker_rlimit_nofile 19000;
        pid {prefix}/pid; error_log {prefix}/error.log;
        events {{ worker_connections 18000; }}
        http {{
            access_log off; tcp_nodelay on; keepalive_requests 1000000000; keepalive_timeout 1h;
            nchan_shared_memory_size 512M;
            client_body_temp_path {prefix}/body; proxy_temp_path {prefix}/proxy;
            fastcgi_temp_path {prefix}/fastcgi; uwsgi_temp_path {prefix}/uwsgi;
            scgi_temp_path {prefix}/scgi;
            server {{ listen 127.0.0.1:{port} backlog=4096; {locations} }}
        }}"
        ),
    )?;
    let mut command = Command::new("nginx");
    command.arg("-c").arg(&conf).arg("-p").arg(&folder);
    start(run, &mut command, Signal::SIGTERM, port)
}

/// Starts Pushpin, and its backend, which responds to each client with the channel to subscribe to.
fn pushpin(run: &Run) -> anyhow::Result<Server> {
    let backend_port = free_port()?;
    let backend = nginx(
        run,
        backend_port,
        "location = /sub {
            add_header Grip-Hold stream; add_header Grip-Channel $arg_id;
            default_type text/event-stream; return 200 \":\\n\\n\";
        }",
    )?;
    let (port, publish) = (free_port()?, free_port()?);
    let folder = run.scratch.path().join(format!("pushpin-{port}"));
    fs::create_dir_all(folder.join("log"))?;
    let given = fs::read_to_string("/etc/pushpin/pushpin.conf")
        .context("reading the configuration of Pushpin's package")?;
    let prefix = folder.display();
    // On Debian, the HTTP client to the backend, zurl, is a separate service. Start a private one.
    let proxy = format!(
        "[proxy]\nzurl_out_specs=ipc://{prefix}/pushpin-zurl-in\n\
         zurl_out_stream_specs=ipc://{prefix}/pushpin-zurl-in-stream\n\
         zurl_in_specs=ipc://{prefix}/pushpin-zurl-out"
    );
    let ours = |line: &str| match line.split_once('=').map_or(line, |(name, _)| name) {
        "[proxy]" => proxy.clone(),
        "services" => "services=condure,zurl,pushpin-proxy,pushpin-handler".to_owned(),
        "rundir" => format!("rundir={prefix}"),
        "logdir" => format!("logdir={prefix}/log"),
        "routesfile" => format!("routesfile={prefix}/routes"),
        "http_port" => format!("http_port=127.0.0.1:{port}"),
        "push_in_http_port" => format!("push_in_http_port={publish}"),
        "push_in_spec" => format!("push_in_spec=ipc://{prefix}/push"),
        "push_in_sub_specs" => format!("push_in_sub_specs=ipc://{prefix}/sub"),
        "command_spec" => format!("command_spec=ipc://{prefix}/command"),
        // Raise the limits, so that they are not what is measured.
        "message_rate" => "message_rate=1000000".to_owned(),
        "message_hwm" => "message_hwm=1000000".to_owned(),
        _ => line.to_owned(),
    };
    let conf: Vec<_> = given.lines().map(ours).collect();
    fs::write(folder.join("pushpin.conf"), conf.join("\n"))?;
    fs::write(folder.join("routes"), format!("* 127.0.0.1:{backend_port}\n"))?;
    let mut command = Command::new("pushpin");
    command.arg(format!("--config={}/pushpin.conf", folder.display()));
    let mut pushpin = start(run, &mut command, Signal::SIGTERM, port)?;
    // Pushpin listens before all of its processes are connected to each other.
    pushpin.wait_until(Duration::from_secs(30), || answers(port).unwrap_or(false))?;
    let programs = Programs::Others(vec![pushpin, backend]);
    Ok(Server { peer: Peer::Pushpin, programs, port, feed: Feed::Items { port: publish } })
}

/// Returns whether a stream can be opened.
fn answers(port: u16) -> std::io::Result<bool> {
    let mut socket = TcpStream::connect(("127.0.0.1", port))?;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    socket.write_all(b"GET /sub?id=probe HTTP/1.1\r\nHost: bench\r\n\r\n")?;
    let mut head = [0; 12];
    socket.read_exact(&mut head)?;
    Ok(head == *b"HTTP/1.1 200")
}

/// Installs the relay and its npm packages into the folder of the reports, and returns the path.
fn relay_folder() -> anyhow::Result<PathBuf> {
    let folder = crate::report::folder()?.join("relay");
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("relay.mjs"), include_str!("../peers/relay.mjs"))?;
    fs::write(folder.join("package.json"), include_str!("../peers/package.json"))?;
    if !Path::new(&folder).join("node_modules/pg").is_dir() {
        let mut npm = Command::new("npm");
        npm.args(["install", "--no-audit", "--no-fund", "--no-package-lock"]);
        crate::postgres::run(npm.current_dir(&folder))?;
    }
    Ok(folder)
}

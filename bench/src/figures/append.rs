//! Writing over HTTP: events per second with group commit, and the duration of a single request.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};

use crate::{
    Run,
    gateway::{self, Gateway},
    postgres::{Flush, Postgres, run},
    report::{Samples, Table},
};

/// The number of the gateway's connections that write, and of pgbench's connections.
const CONNECTIONS: u32 = 4;
/// The number of concurrent clients.
const CLIENTS: usize = 64;

const EVENT: &str = r#"{"type":"insert","subscriber":"toto","payload":{"foo":"bar"}}"#;
const INSERT: &str = "insert into events (type, timestamp, subscriber, payload) \
                      values ('insert', now(), 'toto', '{\"foo\": \"bar\"}');\n";

pub(crate) fn measure(run: &Run) -> anyhow::Result<Vec<Table>> {
    let mut table = Table::new(
        "append",
        "Writing over HTTP at a flush of 1 ms",
        &["writer", "clients", "connections", "events/s", "ratio"],
    );
    let field = Field::prepare(run)?;
    let (rounds, time) = run.pick((3, Duration::from_secs(2)), (7, Duration::from_secs(5)));
    let (mut plain, mut grouped, mut ratio) =
        (Samples::default(), Samples::default(), Samples::default());
    let (mut insert, mut lone, mut lone_ratio) =
        (Samples::default(), Samples::default(), Samples::default());
    for _ in 0..rounds {
        let (own, http) = (field.pgbench(run, CONNECTIONS, time)?, field.http(CLIENTS, time)?);
        plain.add(own);
        grouped.add(http);
        ratio.add(http / own);
        let (own, http) = (field.pgbench(run, 1, time)?, field.http(1, time)?);
        insert.add(own);
        lone.add(http);
        lone_ratio.add(own / http);
    }
    table.row(&[&"INSERT, one transaction each", &CONNECTIONS, &CONNECTIONS, &plain, &""]);
    table.row(&[&"POST /events", &CLIENTS, &CONNECTIONS, &grouped, &ratio]);
    table.row(&[&"INSERT, one at a time", &1, &1, &insert, &""]);
    table.row(&[&"POST /events, one at a time", &1, &1, &lone, &lone_ratio]);
    table.note("INSERT: pgbench with prepared statements on the same table, over the socket");
    table.note("ratio: for many clients, events/s relative to INSERT (target: at least 3); for one at a time, the duration of a request relative to an INSERT (target: at most 1.1)");
    Ok(vec![table])
}

/// A PostgreSQL with slow flushes, and a gateway that writes to it.
struct Field {
    postgres: Postgres,
    gateway: Gateway,
}

impl Field {
    fn prepare(run: &Run) -> anyhow::Result<Self> {
        let postgres = Postgres::start(&run.scratch, Flush::OneMillisecond)?;
        postgres.create("append", "")?;
        let url = postgres.url("append");
        gateway::migrate(&url)?;
        let connections = CONNECTIONS.to_string();
        let gateway = Gateway::start(&run.scratch, &url, &["--write-connections", &connections])?;
        let field = Self { postgres, gateway };
        // Warm up, so that the first growth of tables and WAL files is not measured.
        field.pgbench(run, CONNECTIONS, Duration::from_secs(1))?;
        field.http(CLIENTS, Duration::from_secs(1))?;
        Ok(field)
    }

    fn pgbench(&self, bench: &Run, clients: u32, time: Duration) -> anyhow::Result<f64> {
        let script = bench.scratch.path().join("append.sql");
        fs::write(&script, INSERT)?;
        let mut command = self.postgres.client("pgbench");
        command.args(["-n", "-M", "prepared", "-f"]).arg(script);
        command.args(["-c", &clients.to_string(), "-T", &time.as_secs().to_string()]);
        let said = run(command.arg("append"))?;
        super::writers::number(&said, "tps = ")
    }

    /// Events per second that `clients` clients write, each with consecutive requests.
    fn http(&self, clients: usize, time: Duration) -> anyhow::Result<f64> {
        let (stop, written) = (AtomicBool::new(false), AtomicU64::new(0));
        let start = Instant::now();
        thread::scope(|scope| {
            let client = || -> anyhow::Result<()> {
                let mut client = Client::connect(self.gateway.port)?;
                while !stop.load(Ordering::Relaxed) {
                    client.post()?;
                    written.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            };
            let clients: Vec<_> = (0..clients).map(|_| scope.spawn(client)).collect();
            thread::sleep(time);
            stop.store(true, Ordering::Relaxed);
            for client in clients {
                client.join().expect("a client does not panic")?;
            }
            anyhow::Ok(())
        })?;
        #[expect(clippy::cast_precision_loss, reason = "a count of requests")]
        let written = written.load(Ordering::Relaxed) as f64;
        Ok(written / start.elapsed().as_secs_f64())
    }
}

/// One persistent connection.
struct Client {
    socket: BufReader<TcpStream>,
    request: String,
}

impl Client {
    fn connect(port: u16) -> anyhow::Result<Self> {
        let socket = TcpStream::connect(("127.0.0.1", port))?;
        socket.set_nodelay(true)?;
        let request = format!(
            "POST /events HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{EVENT}",
            EVENT.len()
        );
        Ok(Self { socket: BufReader::new(socket), request })
    }

    /// Writes one event, and waits for the response.
    fn post(&mut self) -> anyhow::Result<()> {
        self.socket.get_mut().write_all(self.request.as_bytes())?;
        let (mut line, mut length) = (String::new(), 0);
        self.socket.read_line(&mut line)?;
        ensure!(line.contains(" 201 "), "the gateway responded with {}", line.trim_end());
        loop {
            line.clear();
            self.socket.read_line(&mut line)?;
            if let Some(bytes) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = bytes.trim().parse().context("a length")?;
            }
            if line.trim().is_empty() {
                break;
            }
        }
        self.socket.read_exact(&mut vec![0; length])?;
        Ok(())
    }
}

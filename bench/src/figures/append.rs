//! Writing over HTTP: events per second by group commit, and what a lone request pays.

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

/// The gateway's connections that write, and the other side's connections.
const CONNECTIONS: u32 = 4;
/// Clients that write at once.
const CLIENTS: usize = 64;

const EVENT: &str = r#"{"type":"insert","subscriber":"toto","payload":{"foo":"bar"}}"#;
const INSERT: &str = "insert into events (type, timestamp, subscriber, payload) \
                      values ('insert', now(), 'toto', '{\"foo\": \"bar\"}');\n";

pub(crate) fn measure(run: &Run) -> anyhow::Result<Vec<Table>> {
    let mut table = Table::new(
        "append",
        "Writing over HTTP at a flush of 1 ms",
        &["who", "clients", "connections", "events/s", "ratio"],
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
    table.row(&[&"INSERT, a transaction each", &CONNECTIONS, &CONNECTIONS, &plain, &""]);
    table.row(&[&"POST /events", &CLIENTS, &CONNECTIONS, &grouped, &ratio]);
    table.row(&[&"INSERT, one at a time", &1, &1, &insert, &""]);
    table.row(&[&"POST /events, one at a time", &1, &1, &lone, &lone_ratio]);
    table.note("INSERT: pgbench with prepared statements on the same table, over the socket");
    table.note("ratio: of many, events/s against those of INSERT (at least 3); of one at a time, how much longer a request takes than an INSERT (at most 1.1)");
    Ok(vec![table])
}

/// A PostgreSQL that flushes slowly, and a gateway that writes to it.
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
        // What grows for the first time is not measured.
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

    /// Events a second that so many clients write, one request after the other.
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

/// One connection that is kept.
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

    /// Writes one event, and waits for the answer.
    fn post(&mut self) -> anyhow::Result<()> {
        self.socket.get_mut().write_all(self.request.as_bytes())?;
        let (mut line, mut length) = (String::new(), 0);
        self.socket.read_line(&mut line)?;
        ensure!(line.contains(" 201 "), "the gateway answers {line}");
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

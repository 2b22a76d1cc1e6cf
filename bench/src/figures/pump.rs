//! The rate of the bootstrap of an aggregator that responds immediately, compared with the replay to one client.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    process::{Command, Stdio},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::Context;
use nix::sys::signal::Signal;

use super::{database, micros_each};
use crate::{
    Run, feed,
    peers::Server,
    postgres::{Flush, Postgres, Session},
    program::Program,
    report::{Samples, Table},
    swarm::now,
};

pub(crate) fn measure(run: &Run) -> anyhow::Result<Vec<Table>> {
    let mut table = Table::new(
        "pump",
        "Pump: the bootstrap of an aggregator that responds immediately, compared with the replay to one client",
        &[
            "events",
            "pump, events/s",
            "replay, events/s",
            "ratio to replay",
            "CPU us per event",
            "PostgreSQL us",
            "peak MiB",
            "lost",
        ],
    );
    let postgres = Postgres::start(&run.scratch, Flush::AsItIs)?;
    database::ours(&postgres)?;
    let events = run.pick(200_000, 1_000_000);
    feed::load(&postgres.url("events"), events, 1, 50_000)?;
    Session::open(&postgres.url("events"))?.run("vacuum analyze events")?;
    let [mut pumped, mut replayed, mut ratio, mut cpu, mut busy, mut peak] =
        std::array::from_fn(|_| Samples::default());
    let mut lost = 0;
    for _ in 0..run.pick(3, 5) {
        let replay = replay(run, &postgres, events)?;
        let outcome = pump(run, &postgres)?;
        let rate = f64::from(outcome.events) / outcome.took.as_secs_f64();
        pumped.add(rate);
        replayed.add(replay);
        ratio.add(rate / replay);
        cpu.add(micros_each(outcome.cpu, events.into()));
        busy.add(micros_each(outcome.postgres, events.into()));
        peak.add(outcome.peak);
        lost += events.saturating_sub(outcome.events);
    }
    table.row(&[&events, &pumped, &replayed, &ratio, &cpu, &busy, &peak, &lost]);
    table.note("from the pump's first request to the empty batch that ends the bootstrap");
    Ok(vec![table])
}

/// Events per second of a replay to one client.
fn replay(run: &Run, postgres: &Postgres, events: u32) -> anyhow::Result<f64> {
    let server = Server::gateway_without_recent(run, postgres)?;
    let start = now();
    let mut swarm = server.resume(1, 1, "0")?;
    swarm.count_only();
    let swarm = swarm.read();
    swarm.wait_for(events.into(), Duration::from_secs(10));
    let (_, harvest) = swarm.stop()?;
    let took = Duration::from_nanos(harvest.last.saturating_sub(start));
    Ok(f64::from(events) / took.as_secs_f64())
}

struct Outcome {
    events: u32,
    took: Duration,
    cpu: Duration,
    postgres: Duration,
    peak: f64,
}

fn pump(run: &Run, postgres: &Postgres) -> anyhow::Result<Outcome> {
    Session::open(&postgres.url("events"))?.run("delete from event_piper_pumps")?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let to = format!("http://{}/", listener.local_addr()?);
    let aggregator: JoinHandle<_> = thread::spawn(move || aggregate(&listener));
    let before = postgres.cost();
    let mut command = Command::new(std::env::current_exe()?.with_file_name("event-piper"));
    command.args(["pump", "--to", &to, "--no-migrate", "--database-url", &postgres.url("events")]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut program = Program::start(&run.scratch, &mut command, Signal::SIGTERM)?;
    program.wait_until(Duration::from_mins(10), || aggregator.is_finished())?;
    let (cost, postgres) = (program.cost(), postgres.cost().cpu_since(&before));
    let aggregated = aggregator.join().ok().context("the aggregator panicked")?;
    let (events, took) = aggregated.context("the aggregator failed")?;
    #[expect(clippy::cast_precision_loss, reason = "a number of bytes")]
    let peak = cost.peak as f64 / f64::from(1 << 20);
    Ok(Outcome { events, took, cpu: cost.cpu, postgres, peak })
}

/// Accepts all requests until the empty batch. Returns the number of events and the time that they took.
fn aggregate(listener: &TcpListener) -> std::io::Result<(u32, Duration)> {
    let (mut events, mut begun, mut body) = (0, None, Vec::new());
    loop {
        let (socket, _) = listener.accept()?;
        socket.set_nodelay(true)?;
        let mut socket = BufReader::with_capacity(1 << 18, socket);
        while let Some((get, length)) = head(&mut socket)? {
            let begun = *begun.get_or_insert_with(Instant::now);
            body.resize(length, 0);
            socket.read_exact(&mut body)?;
            events += u32::try_from(memchr::memmem::find_iter(&body, b"{\"id\":").count())
                .unwrap_or(u32::MAX);
            let answer: &[u8] =
                if get { b"HTTP/1.1 404 Not Found" } else { b"HTTP/1.1 201 Created" };
            socket.get_mut().write_all(&[answer, b"\r\nContent-Length: 0\r\n\r\n"].concat())?;
            if body == b"[]" {
                return Ok((events, begun.elapsed()));
            }
        }
    }
}

/// Reads the head of a request. Returns whether it is a GET, and the length of its body; `None` at the end of the
/// connection.
fn head(socket: &mut BufReader<TcpStream>) -> std::io::Result<Option<(bool, usize)>> {
    let (mut get, mut length, mut line) = (false, 0, String::new());
    loop {
        line.clear();
        if socket.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        get |= line.starts_with("GET ");
        let lower = line.to_ascii_lowercase();
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().map_err(std::io::Error::other)?;
        }
        if line.trim().is_empty() {
            return Ok(Some((get, length)));
        }
    }
}

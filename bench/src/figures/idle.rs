//! The cost of an idle stream.

use std::{thread::sleep, time::Duration};

use super::database;
use crate::{
    Run,
    peers::{Peer, Server},
    postgres::{Flush, Postgres},
    report::{Samples, Table},
};

const STREAMS: u32 = 15_000;
const PEERS: [Peer; 3] = [Peer::EventPiper, Peer::Nchan, Peer::Bare];
/// The time until buffers for opening the streams are released.
const SETTLE: Duration = Duration::from_secs(3);

pub(crate) fn measure(run: &Run) -> anyhow::Result<Vec<Table>> {
    let mut table = Table::new(
        "idle",
        "Idle: 15,000 streams, each with its own consumer",
        &["server", "KiB per stream", "CPU while idle, % of a core", "closed"],
    );
    let postgres = Postgres::start(&run.scratch, Flush::AsItIs)?;
    database::ours(&postgres)?;
    let mut outcomes = PEERS.map(|_| Outcome::default());
    for _ in 0..run.pick(1, 3) {
        for (peer, outcome) in PEERS.into_iter().zip(&mut outcomes) {
            let done = outcome.add(run, peer, &postgres);
            super::unless_missing(peer, done, &mut table)?;
        }
    }
    for (peer, it) in PEERS.iter().zip(&outcomes) {
        table.row(&[peer, &it.memory, &it.cpu, &it.closed]);
    }
    table.note("memory of the server's processes only (the difference of their PSS), without the kernel's memory for sockets");
    table.note("EventPiper and Nchan send a heartbeat on every stream every 10 s; bare epoll sends nothing, and has no buffers");
    Ok(vec![table])
}

#[derive(Default)]
struct Outcome {
    memory: Samples,
    cpu: Samples,
    closed: u64,
}

impl Outcome {
    fn add(&mut self, run: &Run, peer: Peer, postgres: &Postgres) -> anyhow::Result<()> {
        let time = Duration::from_secs(run.pick(10, 30));
        let server = match peer {
            Peer::EventPiper => Server::gateway(run, postgres)?,
            _ => Server::start(run, peer)?,
        };
        let empty = server.cost();
        let swarm = server.open(STREAMS as usize, STREAMS as usize)?.read();
        sleep(SETTLE);
        let full = server.cost();
        sleep(time);
        let used = server.cost().cpu_since(&full);
        self.closed += swarm.stop()?.1.closed;
        #[expect(clippy::cast_precision_loss, reason = "bytes of memory")]
        let bytes = full.memory.saturating_sub(empty.memory) as f64;
        self.memory.add(bytes / 1024.0 / f64::from(STREAMS));
        self.cpu.add(100.0 * used.as_secs_f64() / time.as_secs_f64());
        Ok(())
    }
}

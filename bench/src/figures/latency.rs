//! The time from COMMIT until an event has reached its client.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use super::{Delays, database, millis};
use crate::{
    Run,
    feed::{self, Pace},
    peers::{Peer, Server},
    postgres::{Flush, Postgres, Session},
    report::{Samples, Table},
};

const STREAMS: u32 = 1000;

/// One load on one server.
struct Scene {
    says: &'static str,
    peer: Peer,
    rate: u32,
    connections: u32,
    foreign: bool,
}

const fn scene(says: &'static str, peer: Peer, rate: u32, connections: u32) -> Scene {
    Scene { says, peer, rate, connections, foreign: false }
}

const SCENES: [Scene; 5] = [
    scene("50 events/s", Peer::EventPiper, 50, 1),
    scene("50 events/s", Peer::Relay, 50, 1),
    scene("5,000 events/s", Peer::EventPiper, 5000, 4),
    scene("5,000 events/s", Peer::Relay, 5000, 4),
    Scene {
        foreign: true,
        ..scene("50 events/s beside transactions of 100 ms", Peer::EventPiper, 50, 1)
    },
];

pub(crate) fn measure(run: &Run) -> anyhow::Result<Vec<Table>> {
    let mut table = Table::new(
        "latency",
        format!("Latency: from the return of COMMIT until the bytes are read, {STREAMS} streams"),
        &["load", "server", "events/s reached", "p50 ms", "p99 ms", "lost", "out of order"],
    );
    let postgres = Postgres::start(&run.scratch, Flush::AsItIs)?;
    database::ours(&postgres)?;
    postgres.create("notify", super::writers::NOTIFY)?;
    let rounds = run.pick(2, 5);
    let mut outcomes: Vec<_> = SCENES.iter().map(|_| Outcome::default()).collect();
    for _ in 0..rounds {
        for (scene, outcome) in SCENES.iter().zip(&mut outcomes) {
            let done = outcome.add(scene, run, &postgres);
            super::unless_missing(scene.peer, done, &mut table)?;
        }
    }
    for (scene, it) in SCENES.iter().zip(&outcomes) {
        let (lost, disordered) = (&it.lost, &it.disordered);
        table.row(&[&scene.says, &scene.peer, &it.reached, &it.p50, &it.p99, lost, disordered]);
    }
    table.note("one transaction per event; each event is for one of the streams; quantiles of each round, shown as the median of the rounds and their spread");
    table.note("beside transactions: at any time, one other transaction is open, which writes an event and commits 100 ms later");
    Ok(vec![table])
}

#[derive(Default)]
struct Outcome {
    reached: Samples,
    p50: Samples,
    p99: Samples,
    lost: u64,
    disordered: u64,
}

impl Outcome {
    fn add(&mut self, scene: &Scene, run: &Run, postgres: &Postgres) -> anyhow::Result<()> {
        let server = match scene.peer {
            Peer::Relay => Server::relay(run, postgres)?,
            _ => Server::gateway(run, postgres)?,
        };
        let foreign = scene.foreign.then(|| Foreign::start(postgres.url("events")));
        let swarm = server.open(STREAMS as usize, STREAMS as usize)?.read();
        let seconds = run.pick(3, if scene.rate < 1000 { 20 } else { 5 });
        let messages = scene.rate * seconds;
        let connections = scene.connections;
        let pace = Pace { rate: scene.rate, messages, consumers: STREAMS, connections };
        let written = feed::write(&server.feed, pace)?;
        swarm.wait_for(u64::from(messages), Duration::from_secs(3));
        let (_, harvest) = swarm.stop()?;
        foreign.map_or(Ok(()), Foreign::stop)?;
        let took = written.done.iter().max().zip(written.done.iter().min());
        let took = took.map_or(0, |(last, first)| last - first);
        self.reached.add(f64::from(messages - 1) / Duration::from_nanos(took).as_secs_f64());
        let delays = Delays::since(&written.done, &harvest);
        self.p50.add(millis(delays.at(0.5)));
        self.p99.add(millis(delays.at(0.99)));
        self.lost += u64::from(messages).saturating_sub(harvest.received);
        self.disordered += harvest.disordered;
        Ok(())
    }
}

/// A writer whose transactions stay open for 100 ms.
struct Foreign {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<anyhow::Result<()>>,
}

impl Foreign {
    fn start(url: String) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let session = Session::open(&url)?;
            while !stopped.load(Ordering::Relaxed) {
                session.run(
                    "begin; insert into events (type, subscriber, payload) \
                     values ('slow', 'foreign', '{}'); select pg_sleep(0.1); commit",
                )?;
            }
            Ok(())
        });
        Self { stop, thread }
    }

    fn stop(self) -> anyhow::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow::anyhow!("the foreign writer panicked"))?
    }
}

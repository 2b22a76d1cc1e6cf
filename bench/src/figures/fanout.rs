//! The cost of a delivery, for one event to many streams and for many events to one stream each.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use super::{Delays, database, micros_each, millis};
use crate::{
    Run,
    feed::{self, Feed, Pace},
    peers::{Peer, Server},
    postgres::{Flush, Postgres},
    report::{Samples, Table},
    swarm::{Swarm, now},
};

const STREAMS: u32 = 5000;
/// The number of messages that may be in transit at the maximum rate.
const WINDOW: u64 = 4;
/// Rows per transaction at the maximum rate. One commit per row would measure the disk.
const BULK_ROWS: u32 = 100;

/// The number of consumers of the streams, and the rate of messages.
#[derive(Clone, Copy)]
struct Shape {
    says: &'static str,
    consumers: u32,
    rate: u32,
    connections: u32,
}

const SHAPES: [Shape; 2] = [
    Shape { says: "1 channel x 5,000", consumers: 1, rate: 8, connections: 1 },
    Shape { says: "5,000 channels x 1", consumers: STREAMS, rate: 2000, connections: 2 },
];

const PEERS: [Peer; 4] = [Peer::Nchan, Peer::EventPiper, Peer::Bare, Peer::Pushpin];

pub(crate) fn measure(run: &Run) -> anyhow::Result<Vec<Table>> {
    let mut table = Table::new(
        "fanout",
        "Fan-out to 5,000 streams: CPU of the server alone, compared with Nchan's",
        &[
            "shape",
            "server",
            "CPU us per delivery",
            "ratio to Nchan",
            "p50 ms",
            "p99 ms",
            "most deliveries/s",
            "PostgreSQL us",
            "client us",
            "lost",
            "out of order",
        ],
    );
    let postgres = Postgres::start(&run.scratch, Flush::AsItIs)?;
    database::ours(&postgres)?;
    for shape in SHAPES {
        let mut outcomes: Vec<_> = PEERS.iter().map(|_| Outcome::default()).collect();
        for _ in 0..run.pick(2, 5) {
            let mut nchan = f64::NAN;
            for (peer, outcome) in PEERS.iter().zip(&mut outcomes) {
                let cpu = outcome.add(*peer, shape, run, &postgres);
                let done = cpu.map(|cpu| {
                    nchan = if *peer == Peer::Nchan { cpu } else { nchan };
                    outcome.ratio.add(cpu / nchan);
                });
                super::unless_missing(*peer, done, &mut table)?;
            }
        }
        for (peer, it) in PEERS.iter().zip(&outcomes) {
            table.row(&[
                &shape.says,
                peer,
                &it.cpu,
                &it.ratio,
                &it.p50,
                &it.p99,
                &it.most,
                &it.postgres,
                &it.client,
                &it.lost,
                &it.disordered,
            ]);
        }
    }
    table.note(
        "CPU, p50 and p99 at 8 messages/s (40,000 deliveries/s) and at 2,000 messages/s; \
        EventPiper gets one transaction per event, the others one POST per message; \
        delays are measured from its start, because Nchan responds after it has delivered",
    );
    table.note("most deliveries/s: at the maximum rate, with up to 4 messages in transit \
        (5,000 channels: up to 1,000; EventPiper: 100 rows per transaction); server, client and PostgreSQL share the machine's cores, so \
        the client is part of the limit");
    table.note("Nchan runs with one worker; Pushpin's CPU includes the nginx that is its backend");
    Ok(vec![table])
}

#[derive(Default)]
struct Outcome {
    cpu: Samples,
    ratio: Samples,
    p50: Samples,
    p99: Samples,
    most: Samples,
    postgres: Samples,
    client: Samples,
    lost: u64,
    disordered: u64,
}

impl Outcome {
    /// Measures one round, and returns the CPU time of a delivery in microseconds.
    fn add(
        &mut self,
        peer: Peer,
        shape: Shape,
        run: &Run,
        postgres: &Postgres,
    ) -> anyhow::Result<f64> {
        let server = match peer {
            Peer::EventPiper => Server::gateway(run, postgres)?,
            _ => Server::start(run, peer)?,
        };
        let swarm = server.open(STREAMS as usize, shape.consumers as usize)?.read();
        let each = u64::from(STREAMS / shape.consumers);
        let Shape { rate, consumers, connections, .. } = shape;
        let messages = rate * run.pick(4, 10);
        let expected = u64::from(messages) * each;
        let (before, postgres_before) = (server.cost(), postgres.cost());
        let pace = Pace { rate, messages, consumers, connections };
        let written = feed::write(&server.feed, pace)?;
        swarm.wait_for(expected, Duration::from_secs(3));
        let cpu = micros_each(server.cost().cpu_since(&before), expected);
        let postgres_cpu = postgres.cost().cpu_since(&postgres_before);
        let (mut swarm, harvest) = swarm.stop()?;
        let delays = Delays::since(&written.begun, &harvest);
        self.cpu.add(cpu);
        self.postgres.add(micros_each(postgres_cpu, expected));
        self.client.add(micros_each(harvest.cpu, expected));
        self.p50.add(millis(delays.at(0.5)));
        self.p99.add(millis(delays.at(0.99)));
        self.lost += expected.saturating_sub(harvest.received);
        self.disordered += harvest.disordered;

        swarm.restart_numbers();
        self.rush(&server, swarm, shape, run.pick(1, 4), postgres)?;
        Ok(cpu)
    }

    /// Measures the server at the maximum rate.
    fn rush(
        &mut self,
        server: &Server,
        swarm: Swarm,
        shape: Shape,
        times: u32,
        postgres: &Postgres,
    ) -> anyhow::Result<()> {
        let (consumers, each) = (shape.consumers, u64::from(STREAMS / shape.consumers));
        let messages = times * if consumers == 1 { 50 } else { 10_000 };
        let swarm = swarm.read();
        let received = swarm.counter();
        let window = if consumers == 1 { WINDOW } else { WINDOW * 250 };
        let ahead: feed::Ahead = Arc::new(move |number| {
            received.load(Ordering::Relaxed) + window * each < u64::from(number) * each
        });
        let start = now();
        if matches!(server.feed, Feed::Insert { .. }) && consumers > 1 {
            feed::load(&postgres.url("events"), messages, consumers, BULK_ROWS)?;
        } else {
            feed::rush(&server.feed, messages, consumers, shape.connections, &ahead)?;
        }
        let expected = u64::from(messages) * each;
        swarm.wait_for(expected, Duration::from_secs(3));
        let (_, harvest) = swarm.stop()?;
        let took = Duration::from_nanos(harvest.last.saturating_sub(start));
        #[expect(clippy::cast_precision_loss, reason = "a count of deliveries")]
        self.most.add(harvest.received as f64 / took.as_secs_f64());
        self.lost += expected.saturating_sub(harvest.received);
        self.disordered += harvest.disordered;
        Ok(())
    }
}

//! The maximum rate of events that one reader delivers when they are inserted in bulk.

use std::time::Duration;

use super::database;
use crate::{
    Run, feed,
    peers::Server,
    postgres::{Flush, Postgres},
    report::{Samples, Table},
    swarm::now,
};

const STREAMS: u32 = 100;
/// Rows of one transaction.
const BULKS: [u32; 2] = [100, 5000];

pub(crate) fn measure(run: &Run) -> anyhow::Result<Vec<Table>> {
    let mut table = Table::new(
        "ceiling",
        format!("Ceiling: rows inserted in bulk by one connection, to {STREAMS} streams"),
        &[
            "rows per transaction",
            "inserted/s",
            "delivered/s",
            "behind at the end, ms",
            "CPU us per event",
            "PostgreSQL us",
            "client us",
            "lost",
            "out of order",
        ],
    );
    let postgres = Postgres::start(&run.scratch, Flush::AsItIs)?;
    database::ours(&postgres)?;
    for bulk in BULKS {
        let events: u32 = run.pick(100_000, 1_000_000);
        let mut samples: [Samples; 6] = Default::default();
        let (mut lost, mut disordered) = (0, 0);
        for _ in 0..run.pick(2, 5) {
            let server = Server::gateway(run, &postgres)?;
            let mut swarm = server.open(STREAMS as usize, STREAMS as usize)?;
            swarm.count_only();
            let swarm = swarm.read();
            let (before, postgres_before) = (server.cost(), postgres.cost());
            let start = now();
            feed::load(&postgres.url("events"), events, STREAMS, bulk)?;
            let inserted = now();
            swarm.wait_for(u64::from(events), Duration::from_secs(5));
            let (_, harvest) = swarm.stop()?;
            let second = |nanos: u64| Duration::from_nanos(nanos).as_secs_f64();
            let each = |cpu: Duration| cpu.as_secs_f64() * 1e6 / f64::from(events);
            let values = [
                f64::from(events) / second(inserted - start),
                f64::from(events) / second(harvest.last.saturating_sub(start)),
                second(harvest.last.saturating_sub(inserted)) * 1e3,
                each(server.cost().cpu_since(&before)),
                each(postgres.cost().cpu_since(&postgres_before)),
                each(harvest.cpu),
            ];
            samples.iter_mut().zip(values).for_each(|(samples, value)| samples.add(value));
            lost += u64::from(events).saturating_sub(harvest.received);
            disordered += harvest.disordered;
        }
        let [inserted, delivered, behind, cpu, database, client] = &samples;
        table.row(&[&bulk, inserted, delivered, behind, cpu, database, client, &lost, &disordered]);
    }
    Ok(vec![table])
}

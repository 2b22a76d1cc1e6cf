//! A storm: all clients reconnect at once.

use std::time::Duration;

use super::database;
use crate::{
    Run, feed,
    peers::Server,
    postgres::{Flush, Postgres, Session},
    report::{Samples, Table},
    swarm::now,
};

const CLIENTS: u32 = 10_000;

pub(crate) fn measure(run: &Run) -> anyhow::Result<Vec<Table>> {
    let mut table = Table::new(
        "storm",
        "Storm: 10,000 clients lose their connection, miss one event each, and reconnect at once",
        &[
            "until all have caught up, s",
            "replays from the table",
            "CPU of the gateway, s",
            "client's CPU, s",
            "lost",
            "out of order",
        ],
    );
    let postgres = Postgres::start(&run.scratch, Flush::AsItIs)?;
    database::ours(&postgres)?;
    let server = Server::gateway(run, &postgres)?;
    let url = postgres.url("events");
    let (mut took, mut replays, mut cpu, mut client) =
        (Samples::default(), Samples::default(), Samples::default(), Samples::default());
    let (mut lost, mut disordered) = (0, 0);
    for _ in 0..run.pick(2, 5) {
        drop(server.open(CLIENTS as usize, CLIENTS as usize)?);
        let cursor = Session::open(&url)?.text("select coalesce(max(id), 0) from events")?;
        feed::load(&url, CLIENTS, CLIENTS, 1000)?;
        std::thread::sleep(Duration::from_secs(1));
        let (replays_before, before) = (server.metric("replays_total")?, server.cost());
        let start = now();
        let swarm = server.resume(CLIENTS as usize, CLIENTS as usize, &cursor)?;
        let swarm = swarm.read();
        swarm.wait_for(u64::from(CLIENTS), Duration::from_secs(10));
        let (_, harvest) = swarm.stop()?;
        took.add(Duration::from_nanos(harvest.last.saturating_sub(start)).as_secs_f64());
        replays.add(server.metric("replays_total")? - replays_before);
        cpu.add(server.cost().cpu_since(&before).as_secs_f64());
        client.add(harvest.cpu.as_secs_f64());
        lost += u64::from(CLIENTS).saturating_sub(harvest.received);
        disordered += harvest.disordered;
    }
    table.row(&[&took, &replays, &cpu, &client, &lost, &disordered]);
    table.note("all clients connect concurrently; if the queue of the listening socket is full, the kernel retries after a second");
    Ok(vec![table])
}

//! The rate of replays, compared with PostgreSQL's own `copy`.

use std::{
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use super::{database, micros_each, millis};
use crate::{
    Run, feed,
    peers::Server,
    postgres::{Flush, Postgres},
    report::{Samples, Table},
    swarm::now,
};

pub(crate) fn measure(run: &Run) -> anyhow::Result<Vec<Table>> {
    let mut table = Table::new(
        "replay",
        "Replay: history from a cursor to its end, compared with psql's copy of the same rows",
        &[
            "events",
            "clients",
            "events/s",
            "copy, rows/s",
            "ratio to copy",
            "first event ms",
            "more memory MiB",
            "CPU us per event",
            "PostgreSQL us",
            "client us",
            "lost",
            "out of order",
        ],
    );
    let postgres = Postgres::start(&run.scratch, Flush::AsItIs)?;
    database::ours(&postgres)?;
    let events = run.pick(200_000, 1_000_000);
    feed::load(&postgres.url("events"), events, 1, 50_000)?;
    crate::postgres::Session::open(&postgres.url("events"))?.run("vacuum analyze events")?;
    for (clients, events) in [(1, events), (50, run.pick(20_000, events))] {
        let mut outcome = Outcome::default();
        for _ in 0..run.pick(2, if clients == 1 { 5 } else { 3 }) {
            outcome.add(run, &postgres, clients, events)?;
        }
        let it = outcome;
        table.row(&[
            &events,
            &clients,
            &it.rate,
            &it.copy,
            &it.ratio,
            &it.first,
            &it.memory,
            &it.cpu,
            &it.postgres,
            &it.client,
            &it.lost,
            &it.disordered,
        ]);
    }
    table.note("copy: `copy (select id, type, payload from events where subscriber = ... order by id) to stdout` into /dev/null, by one psql per client");
    table.note(
        "the gateway keeps no recent events (--recent 0B), so that all events come from the table",
    );
    table.note("more memory: the gateway's peak memory during the replay, minus its memory before");
    Ok(vec![table])
}

#[derive(Default)]
struct Outcome {
    rate: Samples,
    copy: Samples,
    ratio: Samples,
    first: Samples,
    memory: Samples,
    cpu: Samples,
    postgres: Samples,
    client: Samples,
    lost: u64,
    disordered: u64,
}

impl Outcome {
    fn add(
        &mut self,
        run: &Run,
        postgres: &Postgres,
        clients: u32,
        events: u32,
    ) -> anyhow::Result<()> {
        let after = newest(postgres)? - i64::from(events);
        let copied = f64::from(clients * events) / copy(postgres, clients, after)?.as_secs_f64();
        let server = Server::gateway_without_recent(run, postgres)?;
        let (before, postgres_before) = (server.cost(), postgres.cost());
        let start = now();
        let mut swarm = server.resume(clients as usize, 1, &after.to_string())?;
        swarm.count_only();
        let swarm = swarm.read();
        let expected = u64::from(clients) * u64::from(events);
        swarm.wait_for(expected, Duration::from_secs(10));
        let (_, harvest) = swarm.stop()?;
        let cost = server.cost();
        let took = Duration::from_nanos(harvest.last.saturating_sub(start)).as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "a count of events, and of bytes")]
        let (received, more) =
            (harvest.received as f64, cost.peak.saturating_sub(before.peak) as f64);
        self.rate.add(received / took);
        self.copy.add(copied);
        self.ratio.add(received / took / copied);
        self.first.add(millis(Duration::from_nanos(harvest.first.saturating_sub(start))));
        self.memory.add(more / f64::from(1 << 20));
        self.cpu.add(micros_each(cost.cpu_since(&before), expected));
        let postgres_cpu = postgres.cost().cpu_since(&postgres_before);
        self.postgres.add(micros_each(postgres_cpu, expected));
        self.client.add(micros_each(harvest.cpu, expected));
        self.lost += expected.saturating_sub(harvest.received);
        self.disordered += harvest.disordered;
        Ok(())
    }
}

fn newest(postgres: &Postgres) -> anyhow::Result<i64> {
    let session = crate::postgres::Session::open(&postgres.url("events"))?;
    Ok(session.text("select max(id) from events")?.parse()?)
}

/// The time that `clients` concurrent psql need to copy the rows after this id.
fn copy(postgres: &Postgres, clients: u32, after: i64) -> anyhow::Result<Duration> {
    let sql = format!(
        "copy (select id, type, payload from events \
         where subscriber = 'c0' and id > {after} order by id) to stdout"
    );
    let start = Instant::now();
    let spawn = |_| -> anyhow::Result<Child> {
        let mut psql = postgres.client("psql");
        psql.args(["-X", "-c", &sql, "events"]).stdout(Stdio::null());
        Ok(psql.spawn()?)
    };
    let children: Vec<_> = (0..clients).map(spawn).collect::<Result<_, _>>()?;
    for mut child in children {
        anyhow::ensure!(child.wait()?.success(), "psql failed");
    }
    Ok(start.elapsed())
}

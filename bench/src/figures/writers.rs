//! The cost for writers: commits per second, compared with the same table without the gateway's triggers.

use std::{fs, process::Command, time::Duration};

use anyhow::{Context, ensure};

use crate::{
    Run,
    gateway::{self, Gateway},
    postgres::{Flush, Postgres, run},
    report::{Samples, Table},
};

/// The compared tables, each in its own database.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Variant {
    Plain,
    Small,
    Notify,
    Alone,
    Followed,
}

const VARIANTS: [Variant; 5] =
    [Variant::Plain, Variant::Small, Variant::Notify, Variant::Alone, Variant::Followed];

impl Variant {
    fn database(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Small => "small",
            Self::Notify => "notify",
            Self::Alone => "alone",
            Self::Followed => "followed",
        }
    }

    fn table(self) -> &'static str {
        if self == Self::Plain { "plain" } else { "events" }
    }

    fn says(self) -> &'static str {
        match self {
            Self::Plain => "plain table",
            Self::Small => "five columns and a primary key",
            Self::Notify => "row trigger with pg_notify",
            Self::Alone => "EventPiper's table, no gateway",
            Self::Followed => "EventPiper's table, gateway following",
        }
    }
}

/// A table with the same columns, defaults and indexes as EventPiper's, and no triggers.
const PLAIN: &str = "create table plain (like events \
                     including defaults including identity including indexes)";

/// A table of an application without EventPiper: the columns of the INSERT, and only the primary key. It shows
/// the cost of EventPiper's other columns and indexes.
const SMALL: &str = "create table events (id bigint generated always as identity primary key, \
                     type text not null, timestamp timestamptz not null default now(), \
                     subscriber text, payload jsonb not null)";

/// The predecessor's table and trigger.
pub(crate) const NOTIFY: &str = "
create table events (
    id bigserial primary key, type varchar not null, timestamp timestamp not null,
    subscriber varchar not null, payload jsonb not null
);
create index on events (subscriber);
create function notify_of_event() returns trigger language plpgsql as $$
begin
    perform pg_notify('new_event', row_to_json(new)::text);
    return new;
end
$$;
create trigger notify_of_event after insert on events
    for each row execute function notify_of_event();";

const CLIENTS: [u32; 3] = [1, 8, 32];

/// Commits per second of a writer that finds the gateway asleep each time.
const NOW_AND_THEN: u32 = 20;

pub(crate) fn measure(run: &Run) -> anyhow::Result<Vec<Table>> {
    let flushes =
        [(Flush::OneMillisecond, "1 ms"), (Flush::None, "none"), (Flush::AsItIs, "as it is")];
    let mut commits = Table::new(
        "writers",
        "Writers: commits/s, and the ratio to the plain table in the same round",
        &["flush", "clients", "table", "commits/s", "ratio to plain"],
    );
    let mut asleep = Table::new(
        "writers-now-and-then",
        format!("Writers: {NOW_AND_THEN} commits/s by one client, which finds the gateway asleep"),
        &["flush", "table", "ms per commit"],
    );
    for (flush, says) in flushes {
        let field = Field::prepare(run, flush)?;
        field.commits(run, says, &mut commits)?;
        field.now_and_then(run, says, &mut asleep)?;
    }
    commits.note("flush: 1 ms and none use clusters in memory (if /dev/shm has 8 GiB free), so that the disk has no influence; none shows the CPU cost; as it is: on this machine's disk");
    commits.note(
        "plain table: the same columns, defaults and indexes as EventPiper's, without its triggers",
    );
    commits.note("row trigger with pg_notify: the predecessor's table, without a listener");
    Ok(vec![commits, asleep])
}

/// A PostgreSQL with all tables, and a gateway that follows one of them.
struct Field {
    postgres: Postgres,
    _gateway: Gateway,
}

impl Field {
    fn prepare(run: &Run, flush: Flush) -> anyhow::Result<Self> {
        let postgres = Postgres::start(&run.scratch, flush)?;
        for variant in VARIANTS {
            match variant {
                Variant::Notify => postgres.create(variant.database(), NOTIFY)?,
                Variant::Small => postgres.create(variant.database(), SMALL)?,
                Variant::Plain | Variant::Alone | Variant::Followed => {
                    postgres.create(variant.database(), "")?;
                    gateway::migrate(&postgres.url(variant.database()))?;
                }
            }
        }
        crate::postgres::Session::open(&postgres.url("plain"))?.run(PLAIN)?;
        let gateway = Gateway::start(&run.scratch, &postgres.url("followed"), &[])?;
        let field = Self { postgres, _gateway: gateway };
        // Warm up, so that the first growth of tables and WAL files is not measured.
        for variant in VARIANTS {
            field.pgbench(run, variant, &["-c", "8", "-T", "2"])?;
        }
        if flush == Flush::OneMillisecond {
            let tps = field.tps(run, Variant::Plain, 1, Duration::from_secs(1))?;
            ensure!(tps < 1000.0, "the slower flush has no effect: {tps} commits/s");
        }
        Ok(field)
    }

    fn commits(&self, run: &Run, flush: &str, table: &mut Table) -> anyhow::Result<()> {
        let (rounds, time) = run.pick((3, Duration::from_secs(1)), (7, Duration::from_secs(4)));
        for clients in CLIENTS {
            let mut tps = VARIANTS.map(|_| Samples::default());
            let mut ratios = VARIANTS.map(|_| Samples::default());
            for round in 0..rounds {
                let mut got = VARIANTS.map(|_| 0.0);
                for at in order(round) {
                    got[at] = self.tps(run, VARIANTS[at], clients, time)?;
                }
                for (at, got_here) in got.iter().enumerate() {
                    tps[at].add(*got_here);
                    ratios[at].add(got_here / got[0]);
                }
            }
            for (at, variant) in VARIANTS.iter().enumerate() {
                table.row(&[&flush, &clients, &variant.says(), &tps[at], &ratios[at]]);
            }
        }
        Ok(())
    }

    fn now_and_then(&self, run: &Run, flush: &str, table: &mut Table) -> anyhow::Result<()> {
        let (rounds, seconds) = run.pick((2, "2"), (5, "5"));
        let mut latency = VARIANTS.map(|_| Samples::default());
        for round in 0..rounds {
            for at in order(round) {
                let rate = NOW_AND_THEN.to_string();
                let args = ["-c", "1", "-T", seconds, "-R", &rate];
                let said = self.pgbench(run, VARIANTS[at], &args)?;
                let waited = number(&said, "rate limit schedule lag: avg ").unwrap_or(0.0);
                latency[at].add(number(&said, "latency average = ")? - waited);
            }
        }
        for (variant, latency) in VARIANTS.iter().zip(&latency) {
            table.row(&[&flush, &variant.says(), latency]);
        }
        Ok(())
    }

    fn tps(
        &self,
        run: &Run,
        variant: Variant,
        clients: u32,
        time: Duration,
    ) -> anyhow::Result<f64> {
        let (clients, seconds) = (clients.to_string(), time.as_secs().to_string());
        let said = self.pgbench(run, variant, &["-c", &clients, "-T", &seconds])?;
        number(&said, "tps = ")
    }

    fn pgbench(&self, bench: &Run, variant: Variant, args: &[&str]) -> anyhow::Result<String> {
        let script = bench.scratch.path().join(format!("{}.sql", variant.database()));
        fs::write(
            &script,
            format!(
                "\\set who random(1, 1000)\n\
             insert into {} (type, timestamp, subscriber, payload) \
             values ('insert', now(), 'c' || :who, '{{\"foo\": \"bar\"}}');\n",
                variant.table()
            ),
        )?;
        let mut command: Command = self.postgres.client("pgbench");
        command.args(["-n", "-M", "prepared", "-f"]).arg(script).args(args);
        if args[1] != "1" {
            command.args(["-j", "2"]);
        }
        run(command.arg(variant.database()))
    }
}

/// The order of the variants. Every other round is reversed, so that a drift favours none of them.
fn order(round: u32) -> Vec<usize> {
    let order = 0..VARIANTS.len();
    if round.is_multiple_of(2) { order.collect() } else { order.rev().collect() }
}

/// Parses the number that follows `name` in the output of a program.
pub(super) fn number(said: &str, name: &str) -> anyhow::Result<f64> {
    let (_, rest) = said.split_once(name).with_context(|| format!("no {name:?} in {said}"))?;
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
    Ok(rest[..end].parse()?)
}

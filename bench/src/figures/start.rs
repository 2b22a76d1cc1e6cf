//! The time until a gateway is ready, with an empty log and with a long one.

use std::{env, time::Instant};

use anyhow::Context;

use super::{database, millis};
use crate::{
    Run, feed,
    gateway::Gateway,
    postgres::{Flush, Postgres},
    report::{Samples, Table},
};

/// The environment variable with the number of rows of the long log.
const ROWS: &str = "ROWS";

pub(crate) fn measure(run: &Run) -> anyhow::Result<Vec<Table>> {
    let mut table = Table::new(
        "start",
        "Start: from the start of the program until it is ready",
        &["rows in the log", "ms", "memory MiB"],
    );
    let postgres = Postgres::start(&run.scratch, Flush::AsItIs)?;
    database::ours(&postgres)?;
    postgres.create("empty", "")?;
    crate::gateway::migrate(&postgres.url("empty"))?;
    let rows = match env::var(ROWS) {
        Ok(rows) => rows.parse().with_context(|| format!("{ROWS}: expected a number of rows"))?,
        Err(_) => run.pick(500_000, 10_000_000),
    };
    feed::load(&postgres.url("events"), rows, 10_000, 100_000)?;
    let databases = ["empty", "events"];
    let mut times = databases.map(|_| Samples::default());
    let mut memory = databases.map(|_| Samples::default());
    for _ in 0..run.pick(3, 9) {
        for (at, database) in databases.into_iter().enumerate() {
            let start = Instant::now();
            let gateway = Gateway::start(&run.scratch, &postgres.url(database), &[])?;
            times[at].add(millis(start.elapsed()));
            #[expect(clippy::cast_precision_loss, reason = "bytes of memory")]
            memory[at].add(gateway.cost().memory as f64 / f64::from(1 << 20));
        }
    }
    table.row(&[&0, &times[0], &memory[0]]);
    table.row(&[&rows, &times[1], &memory[1]]);
    Ok(vec![table])
}

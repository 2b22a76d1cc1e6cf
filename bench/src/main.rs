//! Measures the gateway, its theoretical limits and its peers in one run.
//!
//!     event-piper-bench [FIGURE...]        QUICK=1: shorter measurements
//!
//! docs/benchmarks.md explains the figures.

mod bare;
mod feed;
mod figures;
mod gateway;
mod machine;
mod peers;
mod postgres;
mod program;
mod report;
mod scratch;
mod swarm;

use std::{env, process::ExitCode};

use anyhow::Context;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use self::{report::Table, scratch::Scratch};

/// The context of all figures.
struct Run {
    scratch: Scratch,
    quick: bool,
}

impl Run {
    /// Selects a parameter for the quick or the full run.
    fn pick<T>(&self, quick: T, full: T) -> T {
        if self.quick { quick } else { full }
    }
}

/// The required limit of open files: 15,000 streams and some others.
const MIN_OPEN_FILES: u64 = 15_500;

type Figure = fn(&Run) -> anyhow::Result<Vec<Table>>;

/// All figures by name, in the order in which they are measured.
const FIGURES: [(&str, Figure); 10] = [
    ("writers", figures::writers::measure),
    ("append", figures::append::measure),
    ("latency", figures::latency::measure),
    ("fanout", figures::fanout::measure),
    ("idle", figures::idle::measure),
    ("replay", figures::replay::measure),
    ("pump", figures::pump::measure),
    ("storm", figures::storm::measure),
    ("start", figures::start::measure),
    ("ceiling", figures::ceiling::measure),
];

/// The tables of all figures, in the order of the report.
const TABLES: [&str; 11] = [
    "writers",
    "writers-now-and-then",
    "append",
    "latency",
    "fanout",
    "idle",
    "replay",
    "pump",
    "storm",
    "start",
    "ceiling",
];

/// The flag that makes this program the server of bare writes.
const BARE: &str = "--bare";

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let done = match &args[..] {
        [first, port] if first == BARE => port.parse().map_err(Into::into).and_then(bare::serve),
        names => measure(names),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(names: &[String]) -> anyhow::Result<()> {
    raise_limit()?;
    let quick = env::var_os("QUICK").is_some_and(|quick| !quick.is_empty() && quick != "0");
    let run = Run { scratch: Scratch::new()?, quick };
    for name in names {
        let known = FIGURES.iter().any(|(known, _)| known == name);
        anyhow::ensure!(
            known,
            "unknown figure {name}: expected one of {}",
            FIGURES.map(|(it, _)| it).join(", ")
        );
    }
    for (name, figure) in FIGURES {
        if names.is_empty() || names.iter().any(|it| it == name) {
            println!("{name} ...");
            let tables = figure(&run).with_context(|| format!("measuring {name}"))?;
            tables.iter().try_for_each(report::publish)?;
        }
    }
    let path = report::combine(&machine::described(&run.scratch, quick)?, &TABLES)?;
    println!("report of all figures measured so far: {}", path.display());
    Ok(())
}

/// Raises the limit of open files for thousands of sockets. Servers that are started inherit the limit.
fn raise_limit() -> anyhow::Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).context("raising the limit of open files")?;
    anyhow::ensure!(
        most >= MIN_OPEN_FILES,
        "the limit of open files is {most}, but {MIN_OPEN_FILES} are required: raise it (ulimit -Hn)"
    );
    Ok(())
}

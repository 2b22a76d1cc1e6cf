//! What is measured, one module a figure.

pub(crate) mod append;
pub(crate) mod ceiling;
pub(crate) mod fanout;
pub(crate) mod idle;
pub(crate) mod latency;
pub(crate) mod pump;
pub(crate) mod replay;
pub(crate) mod start;
pub(crate) mod storm;
pub(crate) mod writers;

mod database;

use std::time::Duration;

use anyhow::Context;

use crate::{peers::Peer, report::Table, swarm::Harvest};

/// How long messages were on their way, sorted.
struct Delays(Vec<u64>);

impl Delays {
    /// Counted from these times, by message; what was read before took no time.
    fn since(times: &[u64], harvest: &Harvest) -> Self {
        let one = |arrival: &crate::swarm::Arrival| {
            let at = times.get(arrival.number as usize)?;
            Some(arrival.at.saturating_sub(*at))
        };
        let mut delays: Vec<_> = harvest.arrivals.iter().filter_map(one).collect();
        delays.sort_unstable();
        Self(delays)
    }

    /// The delay that this part of the messages kept to.
    fn at(&self, part: f64) -> Duration {
        let last = self.0.len().saturating_sub(1);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "an index of a list that fits into memory"
        )]
        let index = (last as f64 * part).round() as usize;
        Duration::from_nanos(self.0.get(index).copied().unwrap_or(0))
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

#[expect(clippy::cast_precision_loss, reason = "a count of deliveries")]
fn micros_each(time: Duration, count: u64) -> f64 {
    time.as_secs_f64() * 1e6 / count as f64
}

/// A peer that is not installed, or fails, is named under the table; the gateway may not.
fn unless_missing(peer: Peer, done: anyhow::Result<()>, table: &mut Table) -> anyhow::Result<()> {
    match done {
        Err(error) if peer != Peer::EventPiper => {
            table.note(format!("a round without {peer}: {error:#}"));
            Ok(())
        }
        done => done.with_context(|| peer.to_string()),
    }
}

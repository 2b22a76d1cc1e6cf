//! The figures, one module each.

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

/// The delays of messages in nanoseconds, sorted.
struct Delays(Vec<u64>);

impl Delays {
    /// The delays since the given times, by message number. An arrival before its time counts as 0.
    fn since(times: &[u64], harvest: &Harvest) -> Self {
        let one = |arrival: &crate::swarm::Arrival| {
            let at = times.get(arrival.number as usize)?;
            Some(arrival.at.saturating_sub(*at))
        };
        let mut delays: Vec<_> = harvest.arrivals.iter().filter_map(one).collect();
        delays.sort_unstable();
        Self(delays)
    }

    /// The quantile `part` (0 to 1) of the delays.
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

/// Turns the failure of a peer, for instance because it is not installed, into a note under the table. A
/// failure of the gateway is an error.
fn unless_missing(peer: Peer, done: anyhow::Result<()>, table: &mut Table) -> anyhow::Result<()> {
    match done {
        Err(error) if peer != Peer::EventPiper => {
            table.note(format!("one round without {peer}: {error:#}"));
            Ok(())
        }
        done => done.with_context(|| peer.to_string()),
    }
}

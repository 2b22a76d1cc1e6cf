//! The engine: reads the log, keeps what is recent, feeds every subscription.

pub mod follower;
pub mod frame;
pub mod recent;

use std::time::Duration;

use crate::order::Hold;

/// What an operator can turn on the engine.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long a hole may hold back the events behind it.
    pub hold: Hold,
    /// A quiet subscription hears a heartbeat this often.
    pub heartbeat: Duration,
    /// Bytes of recent events kept in memory.
    pub recent: usize,
    /// Connections used for replays, lookups and checks, beside the listening one.
    pub pool: usize,
}

//! Everything that talks to PostgreSQL. All SQL on the log is here.
//!
//! | modules | what they do |
//! |---|---|
//! | [`server`], [`listener`], [`reachable`], [`tls`] | connect, and set up each session |
//! | [`event_log`], [`history`], [`append`], [`doorbell`], [`restored`] | read and write the log |
//! | [`migrate`], [`prune`], [`erase`], [`maintenance`], [`doctor`], [`shape`] | maintain it |
//! | [`keys`], [`pumps`] | the other tables |
//! | [`error`] | shows an error with its causes |
//! | [`backoff`], [`turns`], [`crash`] | pauses between attempts, turns at the pool, and the end of a process
//! whose state is half changed |

use event_piper_core::{consumer, cursor, event, order, snapshot};

pub mod append;
pub mod backoff;
mod connection_string;
pub mod crash;
pub mod doctor;
pub mod doorbell;
pub mod erase;
pub mod error;
pub mod event_log;
pub mod history;
mod hosts;
pub mod keys;
pub mod listener;
pub mod maintenance;
pub mod migrate;
pub mod prune;
pub mod pumps;
pub mod reachable;
pub mod restored;
pub mod server;
mod session;
pub mod shape;
mod ssl_mode;
pub mod tls;
pub mod turns;

//! Everything that speaks to PostgreSQL: the only SQL of the log.

pub mod append;
mod connection_string;
pub mod doctor;
pub mod doorbell;
pub mod erase;
pub mod error;
pub mod event_log;
pub mod history;
mod hosts;
pub mod keys;
pub mod listener;
pub mod migrate;
pub mod prune;
pub mod pumps;
pub mod reachable;
pub mod restored;
pub mod server;
mod session;
pub mod shape;
mod tls;
pub(crate) mod turns;
pub mod upkeep;

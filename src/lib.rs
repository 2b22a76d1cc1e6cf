//! EventPiper delivers every new row of a PostgreSQL `events` table to every subscriber, exactly once.
//!
//! The modules in reading order, from the lowest layer up. A module imports only from lower layers
//! (`tests/layering.rs` rejects anything else):
//!
//! | layer | modules | responsibility |
//! |---|---|---|
//! | 0 | [`event`], [`consumer`], [`cursor`], [`snapshot`], [`order`], [`reader`], [`amendment`], [`sse`] of the crate `core` | the model and the rules, without a clock or I/O |
//! | 1 | [`store`], the crate of that name | the only SQL |
//! | 2 | [`item`] | what a stream sends to its client, independent of a protocol |
//! | 2 | [`access`] | authentication and authorization |
//! | 3 | [`read`], [`write`](mod@write) | read the table in strict order; write to it |
//! | 4 | [`tail`] | follows the log |
//! | 5 | [`live`] | keeps recent events in memory, and serves the subscriptions |
//! | 6 | [`gateway`] | starts these engines on one log |
//! | 7 | [`http`], [`pump`] | the HTTP interface; the delivery to sinks |
//! | 8 | [`cli`] | the composition of all parts; no module imports it |
//!
//! [`embedded`] is the crate that runs a private PostgreSQL; only the composition uses it.
//! [`config`], [`crash`], [`metrics`], [`nearest`], [`progress`], [`telemetry`] and [`web`] are outside the
//! layers.

// The print macros panic when the reader of the output has closed it: use `cli::output` instead.
#![cfg_attr(not(test), warn(clippy::print_stdout, clippy::print_stderr))]

pub use event_piper_core::{amendment, consumer, cursor, event, order, reader, snapshot, sse};
pub use event_piper_embedded_postgres as embedded;
pub use event_piper_store as store;
pub use event_piper_store::{backoff, tls};

pub mod access;
pub mod cli;
pub mod config;
pub mod crash;
pub mod gateway;
pub mod http;
pub mod item;
pub mod live;
pub mod metrics;
pub mod nearest;
pub mod progress;
pub mod pump;
pub mod read;
pub mod tail;
pub mod telemetry;
pub mod web;
pub mod write;

//! EventPiper: every new row of a PostgreSQL `events` table, to every subscriber, once.
//!
//! The modules in reading order, from the ground up; a module imports only from those below
//! it (`tests/layering.rs` refuses anything else):
//!
//! | layer | modules | what they know |
//! |---|---|---|
//! | 0 | [`event`], [`consumer`], [`cursor`], [`order`], [`reader`], [`amendment`], [`sse`] of the crate `core` | the words and the rules: no clock, no I/O |
//! | 1 | [`store`], the crate of that name | the only SQL |
//! | 2 | [`item`] | what a stream gives its client, in the words of no protocol |
//! | 2 | [`access`] | who may do what |
//! | 3 | [`read`], [`write`](mod@write) | the table in strict order; what is written to it |
//! | 4 | [`tail`] | follows the log |
//! | 5 | [`live`] | recent events in memory, and the subscriptions to them |
//! | 6 | [`gateway`] | starts these engines on one log |
//! | 7 | [`http`], [`pump`] | what users see on the wire; what aggregators are fed with |
//! | 8 | [`cli`] | composition: wires everything, nobody imports it |
//!
//! [`embedded`] is the crate that runs a private PostgreSQL; only what composes the program uses it.
//! [`config`], [`crash`], [`metrics`], [`nearest`], [`progress`], [`telemetry`] and [`web`]
//! stand beside the layers.

// A reader of the output that has gone away is no reason to panic: see `cli::output`.
#![cfg_attr(not(test), warn(clippy::print_stdout, clippy::print_stderr))]

pub use event_piper_core::{amendment, consumer, cursor, event, order, reader, sse};
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

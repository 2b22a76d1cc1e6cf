//! The items of a stream, independent of the protocol: events, encoded once for all clients, and signals of
//! the gateway itself.

pub mod frame;
pub mod output;
pub mod signal;

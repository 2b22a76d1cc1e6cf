//! What a stream gives its client, in the words of no protocol: events, encoded once for all clients, and
//! signals of the gateway itself.

pub mod frame;
pub mod output;
pub mod signal;

//! What EventPiper decides: which events are owed to whom, and in what order.
//!
//! Everything here is a function of its arguments. There is no I/O, no clock and no SQL, so that the random
//! schedules of the tests drive the very types that follow a PostgreSQL log.
//!
//! In reading order: [`event`] and [`consumer`] are the words; [`order`] says when a row may be delivered,
//! [`cursor`] what a client still has to get, [`reader`] what a reader of the log does next; [`amendment`] applies
//! corrections, and [`sse`] parses and writes the wire format.

pub mod amendment;
pub mod consumer;
pub mod cursor;
pub mod event;
pub mod order;
#[cfg(feature = "postgres")]
mod postgres;
pub mod reader;
pub mod sse;

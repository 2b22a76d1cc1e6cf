//! The decisions of EventPiper: which events each client gets, and in what order.
//!
//! Everything here is a function of its arguments. There is no I/O, no clock and no SQL, so the random
//! schedules of the tests drive the same types that follow a PostgreSQL log.
//!
//! In reading order: [`event`] and [`consumer`] define the terms; [`order`] decides when a row may be
//! delivered, [`cursor`] and [`snapshot`] what a client still has to get, and [`reader`] what a reader of the log does next;
//! [`amendment`] applies corrections, and [`sse`] parses the wire format.

pub mod amendment;
pub mod consumer;
pub mod cursor;
pub mod event;
pub mod order;
#[cfg(feature = "postgres")]
mod postgres;
pub mod reader;
pub mod snapshot;
pub mod sse;

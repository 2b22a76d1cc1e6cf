//! Where a pump delivers events: today an [aggregator](super::aggregator).
//!
//! A sink carries one request at a time. The pump decides what the sink gets, where it goes on after a
//! failure, and when the checkpoint moves: only after the sink has confirmed.

use std::{error::Error, time::Duration};

use bytes::Bytes;
use serde_json::Value;

/// Takes events in id order.
pub trait Sink: Send {
    /// Asks which event the sink has got last.
    ///
    /// # Errors
    /// The sink did not answer, or answered something else.
    fn latest(&mut self) -> impl Future<Output = Result<Latest, SinkError>> + Send;

    /// Gives the sink events, and waits until it has confirmed them. `id` is the same when the same events
    /// are given again.
    ///
    /// # Errors
    /// The sink did not confirm: it may have the events, or not. The pump asks for its
    /// [latest](Self::latest) event again before it goes on.
    ///
    /// # Cancel safety
    /// As after an error, it is not known whether the sink has the events.
    fn deliver(
        &mut self,
        id: &str,
        body: Bytes,
        form: Form,
    ) -> impl Future<Output = Result<(), SinkError>> + Send;

    /// Drops the connection: after a failure it is not known what still travels on it.
    fn disconnect(&mut self);
}

/// The form of what is delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// One event, a JSON object.
    Event,
    /// A JSON array of events. An empty one ends a bootstrap.
    Batch,
}

/// The event that a sink has got last.
#[derive(Debug)]
pub enum Latest {
    /// The sink has no event: it wants to be bootstrapped.
    Nothing,
    /// The sink needs no bootstrap, and does not say more.
    Unknown,
    /// This one; or another JSON value, which says nothing.
    Event(Value),
}

/// Why a sink did not confirm.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// The connection had ended before anything was sent. The sink may have been restarted, with or without
    /// its events.
    #[error("the connection has ended")]
    Closed,
    /// The sink refused.
    #[error(transparent)]
    Refused(Refused),
    /// Anything else.
    #[error(transparent)]
    Failed(Box<dyn Error + Send + Sync>),
}

/// The answer of a sink that refuses.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Refused {
    /// What was refused and why, in a sentence.
    pub message: String,
    /// Whether the sink refuses these events. Otherwise any other event would be refused as well.
    pub is_about_events: bool,
    /// When the sink wants to be tried again, if it says that.
    pub retry_after: Option<Duration>,
}

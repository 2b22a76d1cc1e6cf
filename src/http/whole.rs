//! A whole event as JSON.

use serde::Serialize;
use serde_json::value::RawValue;

use crate::{gateway::frame, postgres::history::WholeEvent};

/// An event as JSON. Payload and metadata pass through as they are, every digit of them.
#[derive(Serialize)]
pub(super) struct Whole<'a> {
    id: i64,
    #[serde(rename = "type")]
    kind: &'a str,
    timestamp: &'a str,
    subscriber: Option<&'a str>,
    stream: Option<&'a str>,
    version: Option<i64>,
    uid: Option<&'a str>,
    payload: Box<RawValue>,
    metadata: Option<Box<RawValue>>,
}

impl<'a> From<&'a WholeEvent> for Whole<'a> {
    fn from(event: &'a WholeEvent) -> Self {
        Self {
            id: event.id.get(),
            kind: &event.kind,
            timestamp: &event.timestamp,
            subscriber: event.subscriber.as_deref(),
            stream: event.stream.as_deref(),
            version: event.version,
            uid: event.uid.as_deref(),
            payload: raw(&event.payload),
            metadata: event.metadata.as_deref().map(raw),
        }
    }
}

/// JSON of the log, passed through without its blanks.
pub(super) fn raw(json: &str) -> Box<RawValue> {
    let null = || RawValue::from_string("null".into()).expect("null is JSON");
    RawValue::from_string(frame::compact(json)).unwrap_or_else(|_| null())
}

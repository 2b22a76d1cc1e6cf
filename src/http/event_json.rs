//! A full event as JSON.

use serde::Serialize;
use serde_json::value::RawValue;

use crate::{event::EventId, item::frame, read::amended::Correction, store::history::StoredEvent};

/// The JSON form of an event. Payload and metadata are passed through unchanged, with every digit.
#[derive(Serialize)]
pub(super) struct EventJson<'a> {
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
    /// The id of the event that this event amends.
    #[serde(skip_serializing_if = "Option::is_none")]
    amends: Option<i64>,
    /// The ids of the amendments of this event, if the client asked for amended events.
    #[serde(skip_serializing_if = "Option::is_none")]
    amendments: Option<Vec<i64>>,
    /// Why the payload is the original one although there are amendments.
    #[serde(skip_serializing_if = "Option::is_none")]
    unamended: Option<String>,
}

impl<'a> From<&'a StoredEvent> for EventJson<'a> {
    fn from(event: &'a StoredEvent) -> Self {
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
            amends: event.amends.map(EventId::get),
            amendments: None,
            unamended: None,
        }
    }
}

impl EventJson<'_> {
    /// Applies the correction by later events. `None`: the event has no amendments.
    pub(super) fn corrected(mut self, correction: Option<Correction>) -> Self {
        let Some(Correction { amendments, payload }) = correction else {
            self.amendments = Some(Vec::new());
            return self;
        };
        self.amendments = Some(amendments.into_iter().map(EventId::get).collect());
        match payload {
            Ok(payload) => self.payload = raw(&payload),
            Err(unamended) => self.unamended = Some(unamended.to_string()),
        }
        self
    }
}

/// JSON from the log, without its whitespace.
pub(super) fn raw(json: &str) -> Box<RawValue> {
    let null = || RawValue::from_string("null".into()).expect("null is JSON");
    RawValue::from_string(frame::compact(json)).unwrap_or_else(|_| null())
}

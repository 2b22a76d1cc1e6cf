//! An event that is about to be written.

use uuid::Uuid;

use super::{
    id::EventId,
    json::Json,
    name::{Kind, StreamName},
    timestamp::Timestamp,
};
use crate::consumer::ConsumerId;

/// The part of an event that its writer determines. The database adds the id, the transaction, the version,
/// and the time if the writer gives none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// The event's type.
    pub kind: Kind,
    /// The consumer that the event is for. `None`: the event belongs to a stream only.
    pub subscriber: Option<ConsumerId>,
    /// The payload: any JSON.
    pub payload: Json,
    /// When the event happened. `None`: now.
    pub timestamp: Option<Timestamp>,
    /// The writer's own id of the event. An event with the same `uid` is written only once.
    pub uid: Option<Uuid>,
    /// Whatever the writer notes about the event.
    pub metadata: Option<Json>,
    /// The stream that the event belongs to, if any.
    pub place: Option<Place>,
    /// The event whose payload this event amends, if any. Then the payload of this event is the patch.
    pub amends: Option<EventId>,
}

/// A place at the end of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The stream.
    pub stream: StreamName,
    /// What the writer expects of the stream.
    pub expected: Expected,
}

/// What a writer expects of a stream. If the expectation is not met, nothing is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Nothing: the event becomes the next version.
    Any,
    /// The stream has events: the event becomes the next version.
    Exists,
    /// The event becomes this version, so the preceding one is the stream's last. 1 means that the stream has
    /// no event yet.
    Version(i64),
}

impl Expected {
    /// Combines both expectations. Returns `None` if they contradict each other.
    #[must_use]
    pub fn and(self, other: Self) -> Option<Self> {
        match (self, other) {
            (Self::Any, one) | (one, Self::Any) => Some(one),
            (one, same) if one == same => Some(one),
            (Self::Exists, Self::Version(version)) | (Self::Version(version), Self::Exists) => {
                (version > 1).then_some(Self::Version(version))
            }
            _ => None,
        }
    }

    /// The expectation of the event that follows this one in the same request.
    #[must_use]
    pub fn following(self) -> Self {
        match self {
            Self::Any | Self::Exists => Self::Any,
            Self::Version(version) => Self::Version(version.saturating_add(1)),
        }
    }
}

impl Draft {
    /// The approximate size in memory, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let metadata = self.metadata.as_ref().map_or(0, |json| json.as_str().len());
        size_of::<Self>() + self.payload.as_str().len() + metadata
    }

    /// The approximate cost of writing and sending the event, in bytes.
    #[must_use]
    pub fn weight(&self) -> usize {
        size_of::<Self>().saturating_add(self.printed_len())
    }

    /// The bytes of payload and metadata as readers get them.
    #[must_use]
    pub fn printed_len(&self) -> usize {
        let metadata = self.metadata.as_ref().map_or(0, Json::printed_len);
        self.payload.printed_len().saturating_add(metadata)
    }

    /// The stream that the event belongs to, if any.
    #[must_use]
    pub fn stream(&self) -> Option<&StreamName> {
        self.place.as_ref().map(|place| &place.stream)
    }
}

//! An event that is about to be written.

use uuid::Uuid;

use super::{
    id::EventId,
    json::Json,
    name::{Kind, StreamName},
    timestamp::Timestamp,
};
use crate::consumer::ConsumerId;

/// All that a writer says of an event. The rest is given by the database: its id, its
/// transaction, its version, and the time where the writer names none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// What happened.
    pub kind: Kind,
    /// The consumer it is for; none: of a stream only.
    pub subscriber: Option<ConsumerId>,
    /// Any JSON.
    pub payload: Json,
    /// When it happened; none: now.
    pub timestamp: Option<Timestamp>,
    /// The writer's own id: written twice is written once.
    pub uid: Option<Uuid>,
    /// Whatever the writer notes.
    pub metadata: Option<Json>,
    /// The stream it is of, if it is of one.
    pub place: Option<Place>,
    /// The event whose payload it corrects, if it does: its own is the patch.
    pub amends: Option<EventId>,
}

/// A place at the end of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The stream.
    pub stream: StreamName,
    /// What the writer expects to find there.
    pub expected: Expected,
}

/// What a writer expects of a stream: if it is otherwise, nothing is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Whatever is there: the event becomes the next version.
    Any,
    /// Something is there: the event becomes the next version.
    Exists,
    /// The event becomes this version: the one before it is the stream's last. 1: the stream
    /// has no event yet.
    Version(i64),
}

impl Expected {
    /// What is expected by both; nothing when they contradict each other.
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

    /// What an event expects that follows one with this expectation in the same request.
    #[must_use]
    pub fn following(self) -> Self {
        match self {
            Self::Any | Self::Exists => Self::Any,
            Self::Version(version) => Self::Version(version.saturating_add(1)),
        }
    }
}

impl Draft {
    /// What it takes in memory, about.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let metadata = self.metadata.as_ref().map_or(0, |json| json.as_str().len());
        size_of::<Self>() + self.payload.as_str().len() + metadata
    }

    /// What it costs whoever writes and sends it, about.
    #[must_use]
    pub fn weight(&self) -> usize {
        size_of::<Self>().saturating_add(self.printed_len())
    }

    /// How many bytes its payload and metadata take as readers get them.
    #[must_use]
    pub fn printed_len(&self) -> usize {
        let metadata = self.metadata.as_ref().map_or(0, Json::printed_len);
        self.payload.printed_len().saturating_add(metadata)
    }

    /// The stream it is of.
    #[must_use]
    pub fn stream(&self) -> Option<&StreamName> {
        self.place.as_ref().map(|place| &place.stream)
    }
}

//! Events as the parameters of a statement: one array for each column.

use tokio_postgres::types::ToSql;
use uuid::Uuid;

use crate::{
    consumer::ConsumerId,
    event::{
        EventId,
        draft::{Draft, Expected},
        json::Json,
        name::StreamName,
        timestamp::Timestamp,
    },
};

/// The values of events, by column.
pub(super) struct Values<'a> {
    kinds: Vec<&'a str>,
    subscribers: Vec<Option<&'a str>>,
    payloads: Vec<&'a Json>,
    timestamps: Vec<Option<&'a str>>,
    uids: Vec<Option<Uuid>>,
    metadata: Vec<Option<&'a Json>>,
    amends: Vec<Option<EventId>>,
    streams: Vec<Option<&'a str>>,
    wanted: Vec<Option<i64>>,
    must_be_there: Vec<bool>,
}

type Value<'a> = &'a (dyn ToSql + Sync);

impl<'a> Values<'a> {
    pub(super) fn of(drafts: &[&'a Draft]) -> Self {
        let expected = |draft: &Draft| draft.place.as_ref().map(|place| place.expected);
        let wanted = |draft: &Draft| match expected(draft) {
            Some(Expected::Version(version)) => Some(version),
            _ => None,
        };
        Self {
            kinds: column(drafts, |draft| draft.kind.as_str()),
            subscribers: column(drafts, |draft| draft.subscriber.as_ref().map(ConsumerId::as_str)),
            payloads: column(drafts, |draft| &draft.payload),
            timestamps: column(drafts, |draft| draft.timestamp.as_ref().map(Timestamp::as_str)),
            uids: column(drafts, |draft| draft.uid),
            metadata: column(drafts, |draft| draft.metadata.as_ref()),
            amends: column(drafts, |draft| draft.amends),
            streams: column(drafts, |draft| draft.stream().map(StreamName::as_str)),
            wanted: column(drafts, wanted),
            must_be_there: column(drafts, |draft| expected(draft) == Some(Expected::Exists)),
        }
    }

    /// The values of the first event, without a stream.
    pub(super) fn lone(&self) -> [Value<'_>; 7] {
        [
            &self.kinds[0],
            &self.subscribers[0],
            &self.payloads[0],
            &self.timestamps[0],
            &self.uids[0],
            &self.metadata[0],
            &self.amends[0],
        ]
    }

    /// The values of events without a stream.
    pub(super) fn plain(&self) -> [Value<'_>; 7] {
        [
            &self.kinds,
            &self.subscribers,
            &self.payloads,
            &self.timestamps,
            &self.uids,
            &self.metadata,
            &self.amends,
        ]
    }

    /// The values of events that may have a stream.
    pub(super) fn placed(&self) -> [Value<'_>; 10] {
        let [kinds, subscribers, payloads, timestamps, uids, metadata, amends] = self.plain();
        let (streams, wanted): (Value, Value) = (&self.streams, &self.wanted);
        let must: Value = &self.must_be_there;
        [kinds, subscribers, payloads, timestamps, uids, metadata, amends, streams, wanted, must]
    }
}

fn column<'a, T>(drafts: &[&'a Draft], value: impl Fn(&'a Draft) -> T) -> Vec<T> {
    drafts.iter().map(|draft| value(draft)).collect()
}

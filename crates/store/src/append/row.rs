//! The result of one event in a statement.

use tokio_postgres::Row as DatabaseRow;
use uuid::Uuid;

use crate::event::{
    EventId,
    draft::{Draft, Expected, Place},
};

/// An event that was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// The event's id.
    pub id: EventId,
    /// The event's version in its stream, if it belongs to one.
    pub version: Option<i64>,
}

/// The result of one event in a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Row {
    /// The event was inserted as it was asked for.
    Written(Written),
    /// No row was returned: the event conflicts with an existing one, its stream is not as it was expected,
    /// or a trigger dropped the row.
    Missing,
    /// A trigger has changed a column that the answer to the writer is about.
    Changed {
        /// Where the event was inserted.
        written: Written,
        /// The name of the column.
        column: &'static str,
    },
}

impl Row {
    /// Where the event was inserted, if it was.
    #[must_use]
    pub fn written(&self) -> Option<Written> {
        match self {
            Self::Written(written) | Self::Changed { written, .. } => Some(*written),
            Self::Missing => None,
        }
    }
}

/// The result of each event, by its place in the statement.
pub(super) fn in_order(drafts: &[&Draft], rows: &[DatabaseRow]) -> Vec<Row> {
    let mut all = vec![Row::Missing; drafts.len()];
    for row in rows {
        let ordinal: i64 = row.get(0);
        let at = usize::try_from(ordinal - 1).expect("places count from 1");
        let written = Written { id: row.get(1), version: row.get(2) };
        let column = changed(drafts[at], &written, row.get(3), row.get(4));
        all[at] = column.map_or(Row::Written(written), |column| Row::Changed { written, column });
    }
    all
}

/// The first of those columns that identify the event to its writer and are not as they were asked for. A
/// column that was not asked for may have any value.
fn changed(
    draft: &Draft,
    written: &Written,
    uid: Option<Uuid>,
    stream: Option<&str>,
) -> Option<&'static str> {
    if draft.uid.is_some() && draft.uid != uid {
        return Some("uid");
    }
    let Place { stream: asked, expected } = draft.place.as_ref()?;
    if stream != Some(asked.as_str()) {
        return Some("stream");
    }
    let wanted = if let Expected::Version(version) = expected { Some(*version) } else { None };
    (written.version.is_none() || wanted.is_some() && wanted != written.version)
        .then_some("version")
}

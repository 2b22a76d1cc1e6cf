//! What became of one event in a statement.

use tokio_postgres::Row as DatabaseRow;
use uuid::Uuid;

use crate::event::{
    EventId,
    draft::{Draft, Expected, Place},
};

/// An event that was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Its place in the log.
    pub id: EventId,
    /// Its place in its stream.
    pub version: Option<i64>,
}

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Row {
    /// It was inserted as it was asked for.
    Written(Written),
    /// No row came back: it conflicts with one that is there, its stream is not where it is expected,
    /// or a trigger has swallowed it.
    Missing,
    /// A trigger has changed what the answer to the writer would say of it.
    Changed {
        /// Where it was inserted.
        written: Written,
        /// The column.
        column: &'static str,
    },
}

impl Row {
    /// Where it was inserted.
    #[must_use]
    pub fn written(&self) -> Option<Written> {
        match self {
            Self::Written(written) | Self::Changed { written, .. } => Some(*written),
            Self::Missing => None,
        }
    }
}

/// What came back, by the place of each event in the statement.
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

/// The first of those columns by which the writer finds the event again that is not what it was
/// asked to be. Where nothing was asked, anything is right.
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

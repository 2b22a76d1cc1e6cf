//! Removes duplicate events from a request: events with the same `uid`.

use std::collections::HashMap;

use uuid::Uuid;

use crate::{
    amendment::canonical,
    event::{draft::Draft, json::Json},
    http::error::Problem,
};

/// Keeps the first draft of each `uid`. Returns, for each draft before, the index of the one that was kept
/// for it.
///
/// # Errors
/// The index of a draft whose content differs from an earlier one with the same `uid`, and the problem.
pub(super) fn by_uid(drafts: &mut Vec<Draft>) -> Result<Vec<usize>, (usize, Problem)> {
    let mut kept: Vec<Draft> = Vec::with_capacity(drafts.len());
    let (mut kept_by_uid, mut indexes) = (HashMap::<Uuid, usize>::new(), Vec::new());
    let mut canonical_by_draft: HashMap<usize, CanonicalJson> = HashMap::new();
    for (at, draft) in drafts.drain(..).enumerate() {
        let next = kept.len();
        let index = draft.uid.map_or(next, |uid| *kept_by_uid.entry(uid).or_insert(next));
        if index == next {
            kept.push(draft);
        } else {
            let first =
                canonical_by_draft.entry(index).or_insert_with(|| CanonicalJson::of(&kept[index]));
            if !same_apart_from_json(&kept[index], &draft) || *first != CanonicalJson::of(&draft) {
                return Err((at, different_content(draft.uid.unwrap_or_default())));
            }
        }
        indexes.push(index);
    }
    *drafts = kept;
    Ok(indexes)
}

/// The payload and metadata in the form in which PostgreSQL compares them.
#[derive(PartialEq, Eq)]
struct CanonicalJson {
    payload: String,
    metadata: Option<String>,
}

impl CanonicalJson {
    fn of(draft: &Draft) -> Self {
        let canonical = |json: &Json| canonical(json.as_str());
        let metadata = draft.metadata.as_ref().map(canonical);
        Self { payload: canonical(&draft.payload), metadata }
    }
}

fn same_apart_from_json(one: &Draft, other: &Draft) -> bool {
    one.kind == other.kind
        && one.subscriber == other.subscriber
        && one.timestamp == other.timestamp
        && one.place == other.place
        && one.amends == other.amends
}

fn different_content(uid: Uuid) -> Problem {
    Problem::conflict(format!(
        "an earlier event of the request has the same uid, {uid}, and different content: a uid \
         identifies one event; nothing was written"
    ))
}

//! Events of one request that bear the same `uid` are one event that was said more than once.

use std::collections::HashMap;

use uuid::Uuid;

use crate::{
    amendment::canonical,
    event::{draft::Draft, json::Json},
    http::error::Problem,
};

/// Leaves each `uid` once among these, and answers which of those that are left each of them is.
/// Those that say different things are refused, with the place of the second.
pub(super) fn by_uid(drafts: &mut Vec<Draft>) -> Result<Vec<usize>, (usize, Problem)> {
    let mut kept: Vec<Draft> = Vec::with_capacity(drafts.len());
    let (mut kept_by_uid, mut places) = (HashMap::<Uuid, usize>::new(), Vec::new());
    let mut canonical_by_draft: HashMap<usize, CanonicalJson> = HashMap::new();
    for (at, draft) in drafts.drain(..).enumerate() {
        let next = kept.len();
        let place = draft.uid.map_or(next, |uid| *kept_by_uid.entry(uid).or_insert(next));
        if place == next {
            kept.push(draft);
        } else {
            let first =
                canonical_by_draft.entry(place).or_insert_with(|| CanonicalJson::of(&kept[place]));
            if !same_apart_from_json(&kept[place], &draft) || *first != CanonicalJson::of(&draft) {
                return Err((at, different_content(draft.uid.unwrap_or_default())));
            }
        }
        places.push(place);
    }
    *drafts = kept;
    Ok(places)
}

/// The payload and metadata as PostgreSQL compares them: each event is read for that once.
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
        "an event before it has the same uid, {uid}, and says something else: a uid is for one \
         event; nothing was written"
    ))
}

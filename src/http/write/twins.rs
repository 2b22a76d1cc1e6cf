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
pub(super) fn once(drafts: &mut Vec<Draft>) -> Result<Vec<usize>, (usize, Problem)> {
    let mut left: Vec<Draft> = Vec::with_capacity(drafts.len());
    let (mut known, mut places) = (HashMap::<Uuid, usize>::new(), Vec::new());
    let mut said: HashMap<usize, Said> = HashMap::new();
    for (at, draft) in drafts.drain(..).enumerate() {
        let next = left.len();
        let place = draft.uid.map_or(next, |uid| *known.entry(uid).or_insert(next));
        if place == next {
            left.push(draft);
        } else {
            let first = said.entry(place).or_insert_with(|| Said::by(&left[place]));
            if !same_but_for_json(&left[place], &draft) || *first != Said::by(&draft) {
                return Err((at, differs(draft.uid.unwrap_or_default())));
            }
        }
        places.push(place);
    }
    *drafts = left;
    Ok(places)
}

/// The payload and metadata as PostgreSQL compares them: each event is read for that once.
#[derive(PartialEq, Eq)]
struct Said {
    payload: String,
    metadata: Option<String>,
}

impl Said {
    fn by(draft: &Draft) -> Self {
        let canonical = |json: &Json| canonical(json.as_str());
        let metadata = draft.metadata.as_ref().map(canonical);
        Self { payload: canonical(&draft.payload), metadata }
    }
}

fn same_but_for_json(one: &Draft, other: &Draft) -> bool {
    one.kind == other.kind
        && one.subscriber == other.subscriber
        && one.timestamp == other.timestamp
        && one.place == other.place
        && one.amends == other.amends
}

fn differs(uid: Uuid) -> Problem {
    Problem::conflict(format!(
        "an event before it has the same uid, {uid}, and says something else: a uid is for one \
         event; nothing was written"
    ))
}

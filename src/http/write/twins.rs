//! Events of one request that bear the same `uid` are one event that was said more than once.

use std::collections::HashMap;

use uuid::Uuid;

use crate::{event::draft::Draft, http::error::Problem};

/// Leaves each `uid` once among these, and answers which of those that are left each of them is.
/// Those that say different things are refused, with the place of the second.
pub(super) fn once(drafts: &mut Vec<Draft>) -> Result<Vec<usize>, (usize, Problem)> {
    let mut left: Vec<Draft> = Vec::with_capacity(drafts.len());
    let (mut known, mut places) = (HashMap::<Uuid, usize>::new(), Vec::new());
    for (at, draft) in drafts.drain(..).enumerate() {
        let next = left.len();
        let place = draft.uid.map_or(next, |uid| *known.entry(uid).or_insert(next));
        if place == next {
            left.push(draft);
        } else if left[place] != draft {
            return Err((at, differs(draft.uid.unwrap_or_default())));
        }
        places.push(place);
    }
    *drafts = left;
    Ok(places)
}

fn differs(uid: Uuid) -> Problem {
    Problem::conflict(format!(
        "an event before it has the same uid, {uid}, and is not the same text: a uid is for one \
         event; nothing was written"
    ))
}

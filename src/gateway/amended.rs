//! Events as later ones correct them.

use std::{borrow::Cow, collections::HashMap};

use crate::{
    amendment::{Draft, Misfit, Unamended},
    event::EventId,
    postgres::{
        erase::TOMBSTONE,
        event_log::PageSize,
        history::{Amendment, History, HistoryError},
    },
};

/// What is known of those of some events that are amended.
pub type Corrections = HashMap<EventId, Correction>;

/// How one event is corrected.
#[derive(Clone, Debug)]
pub struct Correction {
    /// By which amendments, in the order in which they apply.
    pub amendments: Vec<EventId>,
    /// Its payload then, as compact JSON; or why it is shown as it was written.
    pub payload: Result<String, Unamended>,
}

/// A page of amendments: as much as is in memory at once, beside the payloads themselves.
const PAGE: PageSize = PageSize { rows: 500, bytes: 1 << 20 };

/// Looks up what amends these events, and applies it.
pub async fn corrections<'a>(
    history: &History,
    events: impl Iterator<Item = (EventId, &'a [u8])>,
) -> Result<Corrections, HistoryError> {
    let erased = |payload: &[u8]| payload == TOMBSTONE.as_bytes();
    let payloads: HashMap<EventId, &[u8]> = events.filter(|(_, it)| !erased(it)).collect();
    let ids: Vec<EventId> = payloads.keys().copied().collect();
    let mut drafts: HashMap<EventId, Working> = HashMap::new();
    let mut after = (EventId::ZERO, EventId::ZERO);
    while !ids.is_empty() {
        let page = history.amendments(&ids, after, PAGE).await?;
        let Some(last) = page.last() else { break };
        after = (last.target, last.id);
        // What was erased corrects nothing any more.
        for amendment in page.iter().filter(|it| !erased(it.patch.as_bytes())) {
            let payload = payloads.get(&amendment.target).copied().unwrap_or_default();
            let working = || Working::new(&String::from_utf8_lossy(payload));
            drafts.entry(amendment.target).or_insert_with(working).take(amendment);
        }
    }
    Ok(drafts.into_iter().map(|(event, working)| (event, working.finish())).collect())
}

/// What is shown of an event, and the amendment that does not apply, if there is one.
#[must_use]
pub fn shown<'a>(
    corrections: &'a Corrections,
    event: EventId,
    data: Cow<'a, [u8]>,
) -> (Cow<'a, [u8]>, Option<EventId>) {
    match corrections.get(&event).map(|correction| &correction.payload) {
        None => (data, None),
        Some(Ok(payload)) => (payload.as_bytes().into(), None),
        Some(Err(unamended)) => (data, Some(unamended.amendment)),
    }
}

/// One event's amendments, as they come.
struct Working {
    amendments: Vec<EventId>,
    draft: Result<Draft, Misfit>,
    failed: Option<EventId>,
}

impl Working {
    fn new(payload: &str) -> Self {
        Self { amendments: Vec::new(), draft: Draft::of(payload), failed: None }
    }

    fn take(&mut self, amendment: &Amendment) {
        self.amendments.push(amendment.id);
        if let Ok(draft) = &mut self.draft
            && let Err(misfit) = draft.apply(&amendment.patch)
        {
            self.draft = Err(misfit);
        }
        if self.draft.is_err() {
            self.failed.get_or_insert(amendment.id);
        }
    }

    fn finish(self) -> Correction {
        let amendment = self.failed.unwrap_or_default();
        let payload = self.draft.map(Draft::finish);
        let payload = payload.map_err(|misfit| Unamended { amendment, misfit });
        Correction { amendments: self.amendments, payload }
    }
}

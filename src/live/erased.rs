//! Evicts from memory the events of consumers whose events were erased, or changed in another way.

use std::collections::HashSet;

use tracing::info;

use super::hub::Hub;
use crate::store::event_log::Changed;

/// Evicts what is kept of the events of these consumers: their clients read it from the table.
pub(super) fn invalidate(hub: &Hub, Changed { whose, as_of }: Changed) {
    let mut state = hub.state();
    let whose: Option<HashSet<_>> = match whose {
        Some(whose) if whose.is_empty() => None,
        Some(whose) => Some(whose.into_iter().collect()),
        None => Some(state.recent.consumers()),
    };
    if let Some(whose) = whose {
        // Even if nothing is kept for them: history of theirs may be on its way into memory.
        let consumers = state.recent.invalidate(&whose);
        if consumers > 0 {
            info!(consumers, "events were changed: memory forgets those of their consumers");
        }
    }
    state.clean_as_of = as_of;
}

//! Invalidates recent events that were erased, or changed in another way, in the table.

use std::collections::HashSet;

use tracing::info;

use super::hub::Hub;
use crate::store::event_log::Changed;

/// Drops the recent events of the consumers that the change affects. Their clients read these events from
/// the table.
pub(super) fn invalidate(hub: &Hub, Changed { whose, as_of }: Changed) {
    let mut state = hub.state();
    let whose: Option<HashSet<_>> = match whose {
        Some(whose) if whose.is_empty() => None,
        Some(whose) => Some(whose.into_iter().collect()),
        None => Some(state.recent.consumers()),
    };
    if let Some(whose) = whose {
        // Needed even if memory has no events of these consumers: a page of their history may be about to
        // be loaded.
        let consumers = state.recent.invalidate(&whose);
        if consumers > 0 {
            info!(
                consumers,
                "events were changed in the table; dropped the recent events of their consumers from memory"
            );
        }
    }
    state.clean_as_of = as_of;
}

//! Lets go of what is kept in memory of events that were erased, or changed in another way.

use std::collections::HashSet;

use tracing::info;

use super::{Lost, Session, within};
use crate::store::event_log::Changed;

impl Session<'_> {
    /// Asks whose events were changed since this was asked last, and forgets what is kept of
    /// them: whoever comes for it reads it from the table.
    pub(super) async fn forget_erased(&mut self) -> Result<(), Lost> {
        let hub = &self.tailer.hub;
        let since = hub.state().clean_as_of.clone();
        let (log, client) = (&self.log, self.listener.client());
        let asked = within("asking what was erased", log.changed(client, &since)).await?;
        let Some(Changed { whose, as_of }) = asked else { return Ok(()) };
        let mut state = hub.state();
        let whose: Option<HashSet<_>> = match whose {
            Some(whose) if whose.is_empty() => None,
            Some(whose) => Some(whose.into_iter().collect()),
            None => Some(state.recent.consumers()),
        };
        if let Some(whose) = whose {
            // Even if nothing is kept for them: history of theirs may be on its way into memory.
            let consumers = state.recent.forget(&whose);
            if consumers > 0 {
                info!(consumers, "events were changed: memory forgets those of their consumers");
            }
        }
        state.clean_as_of = as_of;
        Ok(())
    }
}

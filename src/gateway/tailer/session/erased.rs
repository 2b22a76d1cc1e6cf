//! Lets go of what is kept in memory of events that were erased, or changed in another way.

use std::collections::HashSet;

use tracing::info;

use super::{Lost, Session, within};
use crate::postgres::event_log::Changed;

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
        let recent = &state.recent;
        let whose: HashSet<_> = match whose {
            Some(whose) => whose.into_iter().filter(|consumer| recent.keeps(consumer)).collect(),
            None => recent.consumers(),
        };
        if !whose.is_empty() {
            info!(
                consumers = whose.len(),
                "events were erased: letting go of what is kept of them"
            );
            state.recent.forget(&whose);
        }
        state.clean_as_of = as_of;
        Ok(())
    }
}

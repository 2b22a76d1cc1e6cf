//! Hands over what may go, and counts it.

use tracing::error;

use super::steps::Session;
use crate::{
    event::Logged,
    reader::{Origin, Publication},
    store::event_log::EventRow,
    tail::lost::{ConnectionLost, within},
};

impl Session<'_> {
    /// Publishes rows, and the position behind them. Nothing is awaited: what is published is never lost
    /// with the connection.
    pub(super) fn publish(&mut self, publication: &Publication<EventRow>) {
        self.count(publication);
        self.destination.publish(publication);
    }

    /// Asks whose events were changed since this was asked last, so that nothing is kept of them.
    pub(super) async fn check_erased(&mut self) -> Result<(), ConnectionLost> {
        let Some(since) = self.destination.clean_as_of() else { return Ok(()) };
        let (log, client) = (&self.log, self.listener.client());
        let changed = within("asking what was erased", log.changed(client, &since)).await?;
        if let Some(changed) = changed {
            self.destination.changed(changed);
        }
        Ok(())
    }

    fn count(&self, Publication { rows, position, origin }: &Publication<EventRow>) {
        let metrics = self.metrics;
        for age in rows.iter().filter_map(EventRow::age) {
            metrics.commit_to_delivery.observe(age.as_secs_f64());
        }
        match origin {
            Origin::Tail => {
                metrics.events_read.inc_by(rows.len() as u64);
            }
            Origin::Late => {}
            Origin::Unexpected => rows.iter().for_each(|row| self.say_found(row)),
        }
        metrics.head.set(position.head.get());
        metrics.late.set(position.late.len().try_into().unwrap_or(i64::MAX));
    }

    fn say_found(&self, row: &EventRow) {
        self.metrics.found_behind.inc();
        error!(
            id = %row.id(),
            "an event turned up behind the head: it was written past the trigger; \
             it is delivered to those who are connected, out of order. \
             `event-piper doctor` tells what to mend"
        );
    }
}

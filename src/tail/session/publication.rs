//! Publishes rows to the destination, and counts them.

use tracing::error;

use super::steps::Session;
use crate::{
    event::Logged,
    reader::{Origin, Publication},
    store::event_log::EventRow,
    tail::lost::{ConnectionLost, within},
};

impl Session<'_> {
    /// Publishes rows, and the position after them. This is not async, so that nothing that was published
    /// is lost with the connection.
    pub(super) fn publish(&mut self, publication: &Publication<EventRow>) {
        self.count(publication);
        self.destination.publish(publication);
    }

    /// Asks PostgreSQL which consumers' events were changed since the last time, and passes that to the
    /// destination.
    pub(super) async fn check_erased(&mut self) -> Result<(), ConnectionLost> {
        let Some(since) = self.destination.clean_as_of() else { return Ok(()) };
        let (log, client) = (&self.log, self.listener.client());
        let changed =
            within("querying which events were erased or changed", log.changed(client, &since))
                .await?;
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
            Origin::Unexpected => rows.iter().for_each(|row| self.report_found(row)),
        }
        metrics.head.set(position.head.get());
        metrics.late.set(position.late.len().try_into().unwrap_or(i64::MAX));
    }

    fn report_found(&self, row: &EventRow) {
        self.metrics.found_behind.inc();
        error!(
            id = %row.id(),
            "an event appeared behind the head of the log: it was written without the trigger. \
             It is delivered, out of order, to clients that are connected now; clients that reconnect \
             later may miss it. Run `event-piper doctor` to find the cause"
        );
    }
}

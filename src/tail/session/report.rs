//! Reports the reader's state to operators: by metrics, log lines, and the health check.

use std::time::{Duration, Instant};

use tracing::{error, warn};

use super::{hold::Held, steps::Session};
use crate::{
    event::{EventId, Xid},
    metrics::State,
    store::event_log::{EventLog, LogState},
    tail::lost::{ConnectionLost, within},
};

/// A hold that lasts longer than this is logged.
const LONG_HOLD: Duration = Duration::from_secs(1);

impl Session<'_> {
    /// A poll of the log is complete.
    pub(super) async fn looked(&mut self) -> Result<(), ConnectionLost> {
        self.note_hold().await?;
        self.health.moving(Instant::now());
        Ok(())
    }

    /// Reports which backends the start waits for, if it takes long.
    pub(super) async fn note_start(&self) -> Result<(), ConnectionLost> {
        let (None, Some(hole)) = (self.reader.position(), self.reader.waits_for()) else {
            return Ok(());
        };
        if hole.since.elapsed() > LONG_HOLD {
            let by = self.who_writes(&hole.open).await?;
            self.health.waiting(waiting_for(hole.open.len(), &by));
        }
        Ok(())
    }

    async fn note_hold(&mut self) -> Result<(), ConnectionLost> {
        let metrics = self.metrics;
        match (self.reader.waits_for(), &mut self.held) {
            (Some(hole), None) => {
                metrics.holds.inc();
                self.held = Some(Held { since: hole.since, logged: false });
            }
            (Some(hole), Some(held)) => {
                let lasted = held.since.elapsed();
                metrics.held.set(lasted.as_secs_f64());
                if lasted > LONG_HOLD && !held.logged {
                    held.logged = true;
                    let by = self.who_writes(&hole.open).await?.join(", ");
                    let open: Vec<_> = hole.open.iter().map(ToString::to_string).collect();
                    warn!(
                        transactions = open.join(", "),
                        backends = by,
                        "delivery is held by open transactions"
                    );
                }
            }
            (None, Some(held)) => {
                metrics.held_total.inc_by(held.since.elapsed().as_secs_f64());
                metrics.held.set(0.0);
                self.held = None;
            }
            (None, None) => {}
        }
        Ok(())
    }

    /// The backends of open transactions, in words for an operator.
    async fn who_writes(&self, open: &[Xid]) -> Result<Vec<String>, ConnectionLost> {
        let client = self.listener.client();
        let writers =
            within("querying the transactions that write events", self.log.writers(client)).await?;
        let open: Vec<_> = writers.iter().filter(|writer| open.contains(&writer.xid)).collect();
        within("querying the backends of open transactions", EventLog::backends(client, &open))
            .await
    }

    pub(super) fn note_state(&self, state: &LogState) {
        let metrics = self.metrics;
        metrics.notification_queue.set(state.notification_queue);
        if let (Some(drawn), Some(position)) = (state.drawn, self.reader.position()) {
            metrics.lag.set((drawn.get() - position.head.get()).max(0));
        }
    }

    pub(super) fn report_replaced(&self, head: EventId, origin: EventId) {
        error!(
            %head, %origin,
            "the log was replaced: the table was truncated, or restored from a backup. Clients are \
             sent `$gap` with the reason `reset`, and then the events after `origin`, up to which \
             the log is the same"
        );
        self.metrics.resets.inc();
    }

    pub(super) fn note_doorbell(&self) {
        let (keeper, asleep) = self.reader.doorbell();
        let states =
            [("asleep", keeper && asleep), ("awake", keeper && !asleep), ("following", !keeper)];
        for (state, holds) in states {
            self.metrics.doorbell.get_or_create(&State { state }).set(holds.into());
        }
    }
}

fn waiting_for(open: usize, backends: &[String]) -> String {
    let backends = backends.join(", ");
    format!(
        "starting: waiting for {open} open transactions that write events (backends {backends})"
    )
}

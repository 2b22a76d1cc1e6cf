//! Handles events that the aggregator refuses. A refused event is found in its batch and tried again
//! several times. Then it is stored as a dead letter, or the pump stops until an operator decides.

use std::time::Duration;

use tokio::time::sleep;
use tracing::{error, info, warn};

use super::{
    feed::Portion,
    lease::{self, Lease, LeaseError},
    settings::{OnRefusal, Settings},
    sink::{Form, Refused, Sink, SinkError},
    status::{State, Status},
};
use crate::{
    event::EventId,
    read::Read,
    store::{history::HistoryError, pumps::DeadLetterState},
};

/// How often a stopped pump checks whether an operator has decided.
const DECISION_POLL_INTERVAL: Duration = Duration::from_secs(1);

/// What to do after a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Post fewer events, or the same event after a pause.
    Retry,
    /// Continue after the event.
    Continue,
    /// Stop before the event.
    Stop,
}

/// Why dead letters could not be sent again.
#[derive(Debug, thiserror::Error)]
pub(super) enum ResendError {
    #[error(transparent)]
    Sink(#[from] SinkError),
    #[error(transparent)]
    Lease(#[from] LeaseError),
    #[error(transparent)]
    History(#[from] HistoryError),
}

/// Tracks the refusals of one aggregator while the lease is held.
pub(super) struct Refusals<'a> {
    settings: &'a Settings,
    status: &'a Status,
    lease: &'a Lease,
    /// The event that was refused last, and the number of its refusals.
    last: (EventId, u32),
    /// The number of events in the next batch. It is halved after a refusal, to find the refused event.
    max_events: usize,
}

impl<'a> Refusals<'a> {
    pub(super) fn new(settings: &'a Settings, status: &'a Status, lease: &'a Lease) -> Self {
        let max_events = settings.format.size.events;
        Self { settings, status, lease, last: (EventId::ZERO, 0), max_events }
    }

    /// The number of events that may be posted at once.
    pub(super) fn max_events(&self) -> usize {
        self.max_events
    }

    /// Notes that events were accepted, and deletes their dead letters.
    pub(super) async fn accepted(&mut self, portion: &Portion) -> Result<(), LeaseError> {
        self.max_events = self.max_events.saturating_mul(2).min(self.settings.format.size.events);
        if !self.lease.was_refused(portion.first) && self.last.0 != portion.first {
            return Ok(());
        }
        self.last = (EventId::ZERO, 0);
        let delete = self.lease.session().forget(portion.first, portion.last);
        lease::with_timeout("deleting a dead letter", delete).await
    }

    /// Decides what to do when the aggregator refuses at least one of these events.
    pub(super) async fn handle(
        &mut self,
        portion: &Portion,
        refusal: &Refused,
    ) -> Result<Verdict, LeaseError> {
        self.status.refused();
        if portion.count > 1 {
            // Halve the batch until the refused event is found.
            self.max_events = portion.count / 2;
            return Ok(Verdict::Retry);
        }
        let event = portion.first;
        if self.letter(event).await? == Some(DeadLetterState::Skipped) {
            return Ok(Verdict::Continue);
        }
        self.last = if self.last.0 == event { (event, self.last.1 + 1) } else { (event, 1) };
        if self.last.1 < self.settings.refusals {
            return Ok(Verdict::Retry);
        }
        self.last = (EventId::ZERO, 0);
        let (letter, verdict) = match self.settings.on_refusal {
            OnRefusal::SetAside => (DeadLetterState::SetAside, Verdict::Continue),
            OnRefusal::Stop => (DeadLetterState::Blocking, Verdict::Stop),
        };
        if !self.note(event, letter, &refusal.to_string()).await? {
            return Err(LeaseError::TakenOver);
        }
        if verdict == Verdict::Continue {
            warn!(
                aggregator = %self.settings.name, %event, %refusal,
                "the event is refused and set aside as a dead letter"
            );
        }
        Ok(verdict)
    }

    /// Waits until an operator decides about a refused event. Returns whether to continue after it.
    pub(super) async fn decision(
        &self,
        event: EventId,
        refusal: &Refused,
    ) -> Result<bool, LeaseError> {
        let name = &self.settings.name;
        self.status.enter(State::Stopped);
        error!(
            aggregator = %name, %event, %refusal,
            "the pump has stopped before a refused event. Run `event-piper pump retry` after the \
             aggregator is fixed, or `event-piper pump skip` to continue without the event"
        );
        loop {
            sleep(DECISION_POLL_INTERVAL).await;
            match self.letter(event).await? {
                Some(DeadLetterState::Blocking) => {}
                Some(DeadLetterState::Skipped) => {
                    info!(aggregator = %name, %event, "an operator has skipped the event");
                    return Ok(true);
                }
                Some(DeadLetterState::Retry | DeadLetterState::SetAside) | None => {
                    return Ok(false);
                }
            }
        }
    }

    /// Sends dead letters again. Events that the feed has not reached yet are left to the feed.
    pub(super) async fn resend(
        &self,
        events: Vec<EventId>,
        read: &Read,
        sink: &mut impl Sink,
    ) -> Result<(), ResendError> {
        let position = self.lease.checkpoint().position.unwrap_or_default();
        for event in events.into_iter().filter(|event| *event <= position) {
            let Some(whole) = read.event(event).await? else {
                self.keep_letter(event, "the event was pruned").await?;
                continue;
            };
            let mut body = Vec::new();
            self.settings.format.fields.put(&mut body, &whole);
            self.lease.ensure_held().await?;
            match sink.deliver(&event.to_string(), body.into(), Form::Event).await {
                Ok(()) => {
                    info!(aggregator = %self.settings.name, %event, "delivered a dead letter");
                    self.status.delivered(1, 0);
                    let delete = self.lease.session().forget(event, event);
                    lease::with_timeout("deleting a dead letter", delete).await?;
                }
                Err(SinkError::Refused(refusal)) if refusal.is_about_events => {
                    self.status.refused();
                    self.keep_letter(event, &refusal.to_string()).await?;
                }
                Err(failure) => return Err(failure.into()),
            }
        }
        Ok(())
    }

    async fn keep_letter(&self, event: EventId, reason: &str) -> Result<(), LeaseError> {
        warn!(aggregator = %self.settings.name, %event, reason, "the event remains a dead letter");
        self.note(event, DeadLetterState::SetAside, reason).await.map(drop)
    }

    async fn letter(&self, event: EventId) -> Result<Option<DeadLetterState>, LeaseError> {
        lease::with_timeout("reading a dead letter", self.lease.session().letter(event)).await
    }

    async fn note(
        &self,
        event: EventId,
        letter: DeadLetterState,
        says: &str,
    ) -> Result<bool, LeaseError> {
        lease::with_timeout("storing a dead letter", self.lease.session().note(event, letter, says))
            .await
    }
}

//! What becomes of events that the aggregator refuses: each is found in its batch, tried again
//! some times, and then set aside as a dead letter, or waited before until somebody decides.

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
    store::{history::HistoryError, pumps::Letter},
};

/// A stopped pump looks this often whether somebody has decided.
const DECIDED: Duration = Duration::from_secs(1);

/// What to do about a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Post fewer events, or after a pause the same one.
    Again,
    /// Go on behind the event.
    GoOn,
    /// Stop before it.
    Stop,
}

/// Why refused events could not be sent again.
#[derive(Debug, thiserror::Error)]
pub(super) enum ResendError {
    #[error(transparent)]
    Sink(#[from] SinkError),
    #[error(transparent)]
    Lease(#[from] LeaseError),
    #[error(transparent)]
    History(#[from] HistoryError),
}

/// The refusals of one aggregator, while the lease is held.
pub(super) struct Refusals<'a> {
    settings: &'a Settings,
    status: &'a Status,
    lease: &'a Lease,
    /// The event that was refused last, and how often.
    last: (EventId, u32),
    /// As many events go into the next batch: fewer after a refusal, to find the one.
    portion: usize,
}

impl<'a> Refusals<'a> {
    pub(super) fn new(settings: &'a Settings, status: &'a Status, lease: &'a Lease) -> Self {
        let portion = settings.shape.size.events;
        Self { settings, status, lease, last: (EventId::ZERO, 0), portion }
    }

    /// As many events may be posted at once.
    pub(super) fn portion(&self) -> usize {
        self.portion
    }

    /// These were taken: what was refused of them before is forgotten.
    pub(super) async fn taken(&mut self, portion: &Portion) -> Result<(), LeaseError> {
        self.portion = self.portion.saturating_mul(2).min(self.settings.shape.size.events);
        if !self.lease.was_refused(portion.first) && self.last.0 != portion.first {
            return Ok(());
        }
        self.last = (EventId::ZERO, 0);
        let forget = self.lease.seat().forget(portion.first, portion.last);
        lease::within("forgetting a dead letter", forget).await
    }

    /// The aggregator finds fault with one of these, at least.
    pub(super) async fn judge(
        &mut self,
        portion: &Portion,
        refusal: &Refused,
    ) -> Result<Verdict, LeaseError> {
        self.status.refused();
        if portion.count > 1 {
            // Somewhere in here: half of it at once, and half of that, until it is found.
            self.portion = portion.count / 2;
            return Ok(Verdict::Again);
        }
        let event = portion.first;
        if self.letter(event).await? == Some(Letter::Skipped) {
            return Ok(Verdict::GoOn);
        }
        self.last = if self.last.0 == event { (event, self.last.1 + 1) } else { (event, 1) };
        if self.last.1 < self.settings.refusals {
            return Ok(Verdict::Again);
        }
        self.last = (EventId::ZERO, 0);
        let (letter, verdict) = match self.settings.on_refusal {
            OnRefusal::SetAside => (Letter::SetAside, Verdict::GoOn),
            OnRefusal::Stop => (Letter::Blocking, Verdict::Stop),
        };
        if !self.note(event, letter, &refusal.to_string()).await? {
            return Err(LeaseError::TakenOver);
        }
        if verdict == Verdict::GoOn {
            warn!(aggregator = %self.settings.name, %event, %refusal, "set aside");
        }
        Ok(verdict)
    }

    /// Waits until somebody decides about the event that the aggregator refuses: whether the
    /// pump shall go on behind it.
    pub(super) async fn decision(
        &self,
        event: EventId,
        refusal: &Refused,
    ) -> Result<bool, LeaseError> {
        let name = &self.settings.name;
        self.status.enter(State::Stopped);
        error!(
            aggregator = %name, %event, %refusal,
            "stopped before this event: `event-piper pump retry` when the aggregator is mended, \
             or `event-piper pump skip`, go on"
        );
        loop {
            sleep(DECIDED).await;
            match self.letter(event).await? {
                Some(Letter::Blocking) => {}
                Some(Letter::Skipped) => {
                    info!(aggregator = %name, %event, "skipped");
                    return Ok(true);
                }
                Some(Letter::Retry | Letter::SetAside) | None => return Ok(false),
            }
        }
    }

    /// Sends events again that were set aside. Those that the feed has yet to reach come with it.
    pub(super) async fn resend(
        &self,
        events: Vec<EventId>,
        read: &Read,
        sink: &mut impl Sink,
    ) -> Result<(), ResendError> {
        let position = self.lease.checkpoint().position.unwrap_or_default();
        for event in events.into_iter().filter(|event| *event <= position) {
            let Some(whole) = read.event(event).await? else {
                self.give_back(event, "the event was pruned").await?;
                continue;
            };
            let mut body = Vec::new();
            self.settings.shape.fields.put(&mut body, &whole);
            self.lease.assure().await?;
            match sink.deliver(&event.to_string(), body.into(), Form::Event).await {
                Ok(()) => {
                    info!(aggregator = %self.settings.name, %event, "delivered after all");
                    self.status.delivered(1, 0);
                    let forget = self.lease.seat().forget(event, event);
                    lease::within("forgetting a dead letter", forget).await?;
                }
                Err(SinkError::Refused(refusal)) if refusal.is_about_events => {
                    self.status.refused();
                    self.give_back(event, &refusal.to_string()).await?;
                }
                Err(failure) => return Err(failure.into()),
            }
        }
        Ok(())
    }

    async fn give_back(&self, event: EventId, reason: &str) -> Result<(), LeaseError> {
        warn!(aggregator = %self.settings.name, %event, reason, "stays set aside");
        self.note(event, Letter::SetAside, reason).await.map(drop)
    }

    async fn letter(&self, event: EventId) -> Result<Option<Letter>, LeaseError> {
        lease::within("reading a dead letter", self.lease.seat().letter(event)).await
    }

    async fn note(&self, event: EventId, letter: Letter, says: &str) -> Result<bool, LeaseError> {
        lease::within("noting a dead letter", self.lease.seat().note(event, letter, says)).await
    }
}

//! Delivers events to a sink while the lease is held.
//!
//! Delivery starts with asking the sink for its latest event. It asks again whenever the answer may
//! have changed: after a failure, after a connection has ended, and after an idle time. So nothing has
//! to be concluded from a request without a response.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::{
    feed::{Feed, Portion, ReadError},
    fields::Comparison,
    lease::{self, Lease, LeaseError},
    progress::Progress,
    refusals::{Refusals, ResendError, Verdict},
    resume::{Seen, Start, resume},
    settings::{CatchUp, Settings},
    sink::{Form, Latest, Refused, Sink, SinkError},
    status::{State, Status},
};
use crate::{
    backoff::{Backoff, Policy},
    cursor::Cursor,
    event::EventId,
    read::Read,
    store::{error::ErrorChain, history::HistoryError, pumps::Checkpoint},
};

/// How often an idle aggregator is asked for its latest event.
const IDLE_CHECK_INTERVAL: Duration = Duration::from_secs(10);
/// After this idle time the aggregator is asked before the next event is posted. Behind a proxy that
/// keeps the connection, it may have been replaced.
const REVALIDATE_AFTER_IDLE: Duration = Duration::from_secs(1);
/// The pauses between attempts. A setting limits the longest one.
const RETRY_BACKOFF: Policy = Policy::new(Duration::from_millis(200), Duration::from_secs(30));

/// Why delivery is interrupted.
#[derive(Debug, thiserror::Error)]
enum DeliveryError {
    /// The aggregator must be asked for its latest event again. This is not a failure.
    #[error("the aggregator must be asked for its latest event again")]
    AskAgain,
    #[error(transparent)]
    Sink(#[from] SinkError),
    #[error(transparent)]
    Reading(#[from] ReadError),
    #[error(transparent)]
    Lease(#[from] LeaseError),
    #[error(transparent)]
    History(#[from] HistoryError),
    /// The latest event of the aggregator contradicts the log.
    #[error(
        "the aggregator's latest event is {0}, and the log has another event or none with this id: \
         the log was restored from a backup, or is another log. Empty the aggregator, so that it is \
         bootstrapped again, or restore the log"
    )]
    Diverged(EventId),
    /// The program is shutting down.
    #[error("the program is shutting down")]
    ShuttingDown,
}

impl From<ResendError> for DeliveryError {
    fn from(error: ResendError) -> Self {
        match error {
            ResendError::Sink(error) => error.into(),
            ResendError::Lease(error) => error.into(),
            ResendError::History(error) => error.into(),
        }
    }
}

/// Delivery to one sink, under a lease.
pub(super) struct Delivery<'a, S> {
    read: &'a Arc<Read>,
    settings: &'a Settings,
    status: &'a Status,
    lease: &'a Lease,
    leaving: &'a CancellationToken,
    sink: S,
    feed: Option<Feed>,
    backoff: Backoff,
    retries: watch::Receiver<Vec<EventId>>,
    refusals: Refusals<'a>,
    progress: Option<Progress>,
}

impl<'a, S: Sink> Delivery<'a, S> {
    pub(super) fn new(
        sink: S,
        read: &'a Arc<Read>,
        settings: &'a Settings,
        status: &'a Status,
        lease: &'a Lease,
        leaving: &'a CancellationToken,
    ) -> Self {
        Self {
            read,
            settings,
            status,
            lease,
            leaving,
            sink,
            feed: None,
            backoff: RETRY_BACKOFF.up_to(settings.longest_pause).start(),
            retries: lease.retries(),
            refusals: Refusals::new(settings, status, lease),
            progress: None,
        }
    }

    /// Delivers events until the lease is lost or the program shuts down.
    pub(super) async fn run(mut self) {
        let Err(error) = self.run_until_lost().await else { return };
        warn!(aggregator = %self.settings.name, error = %ErrorChain(&error),
            "delivery ends without the lease");
    }

    async fn run_until_lost(&mut self) -> Result<(), LeaseError> {
        loop {
            let Err(interrupt) = self.synchronize().await;
            match interrupt {
                DeliveryError::AskAgain | DeliveryError::Sink(SinkError::Closed) => {
                    let name = &self.settings.name;
                    debug!(aggregator = %name, why = %interrupt, "asking for the latest event again");
                }
                DeliveryError::ShuttingDown => return Ok(()),
                DeliveryError::Lease(error) => return Err(error),
                failure => {
                    // The checkpoint in the database shows where delivery has stopped.
                    self.lease.save().await?;
                    let pause = self.failed(&failure);
                    if self.leaving.run_until_cancelled(sleep(pause)).await.is_none() {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Counts and logs a failure, and returns the pause before the next attempt.
    fn failed(&mut self, interrupt: &DeliveryError) -> Duration {
        self.status.failed();
        self.sink.disconnect();
        let (state, asked, pause) = match interrupt {
            DeliveryError::Diverged(_) | DeliveryError::Reading(ReadError::WentBack { .. }) => {
                (State::Stopped, None, Some(self.settings.longest_pause))
            }
            DeliveryError::Sink(SinkError::Refused(refused)) => {
                (State::BackingOff, refused.retry_after, None)
            }
            _ => (State::BackingOff, None, None),
        };
        if matches!(interrupt, DeliveryError::Reading(_)) {
            self.feed = None;
        }
        let drawn = self.backoff.pause();
        let pause = pause.unwrap_or_else(|| asked.unwrap_or_default().max(drawn));
        self.status.enter(state);
        let (name, failures) = (&self.settings.name, self.backoff.failures());
        if state == State::Stopped {
            error!(aggregator = %name, error = %ErrorChain(interrupt), "delivery has stopped");
        } else {
            warn!(aggregator = %name, error = %ErrorChain(interrupt), failures,
                "delivery failed; retrying in {pause:?}");
        }
        pause
    }

    /// Asks the aggregator for its latest event, and delivers the events after it.
    async fn synchronize(&mut self) -> Result<std::convert::Infallible, DeliveryError> {
        if self.leaving.is_cancelled() {
            return Err(DeliveryError::ShuttingDown);
        }
        if self.feed.is_none() {
            self.status.enter(State::Asking);
        }
        let latest = self.sink.latest().await?;
        let seen = self.seen(latest).await?;
        let known = self.lease.checkpoint();
        let newest =
            lease::with_timeout("finding the end of the log", self.lease.session().end_of_log());
        let newest = newest.await?;
        let start = self.start(&known).await?;
        let checkpoint = resume(seen, known.clone(), start);
        let position = checkpoint.position.unwrap_or_default();
        if checkpoint != known {
            info!(aggregator = %self.settings.name, %seen, %known, %checkpoint, "resuming delivery");
            self.lease.set_checkpoint(checkpoint.clone());
            self.lease.save().await?;
        }
        if checkpoint.delivered > known.delivered {
            // The aggregator has processed a request whose response was lost.
            self.backoff.succeeded();
        }
        let is_in_batch = self.feed.as_mut().is_some_and(|feed| feed.seek(position));
        if !is_in_batch {
            self.feed = Some(Feed::open(self.read, self.settings.format.clone(), &checkpoint));
        }
        if checkpoint.booted {
            self.progress = None;
        } else if self.progress.is_none() || !is_in_batch {
            let (bars, name) = (self.status.bars(), &self.settings.name);
            self.progress = Some(Progress::new(bars, name, position, newest));
        }
        self.status.enter(self.delivering_state());
        self.deliver().await
    }

    /// Where to start if neither the aggregator nor the checkpoint tells.
    async fn start(&self, known: &Checkpoint) -> Result<Cursor, DeliveryError> {
        if known.position.is_some() || self.settings.start == Start::Beginning {
            return Ok(Cursor::default());
        }
        let now = self.leaving.run_until_cancelled(self.read.now()).await;
        now.flatten().ok_or(DeliveryError::ShuttingDown)
    }

    fn delivering_state(&self) -> State {
        if self.lease.checkpoint().booted { State::Live } else { State::Bootstrapping }
    }

    /// Interprets the aggregator's answer by the log.
    async fn seen(&self, latest: Latest) -> Result<Seen, DeliveryError> {
        let answer = match latest {
            Latest::Nothing => return Ok(Seen::Nothing),
            Latest::Unknown => return Ok(Seen::Unknown),
            Latest::Event(answer) => answer,
        };
        let fields = &self.settings.format.fields;
        let Some(id) = fields.id_of(&answer) else { return Ok(Seen::Unknown) };
        if let Some(event) = self.read.event(id).await? {
            return match fields.compare(&event, &answer) {
                Comparison::Same => Ok(Seen::Event(id)),
                Comparison::Contradicts if fields.has_all_fields(&answer) => {
                    Err(DeliveryError::Diverged(id))
                }
                Comparison::Contradicts => Ok(Seen::Unknown),
            };
        }
        if !fields.has_all_fields(&answer) {
            return Ok(Seen::Unknown);
        }
        // The answer has all fields that a pump sends. The event was pruned, or was never in this log.
        let end = self.lease.session().end_of_log();
        let end = lease::with_timeout("finding the end of the log", end).await?;
        if id <= end { Ok(Seen::Event(id)) } else { Err(DeliveryError::Diverged(id)) }
    }

    async fn deliver(&mut self) -> Result<std::convert::Infallible, DeliveryError> {
        loop {
            self.wait().await?;
            match self.portion() {
                Some(portion) => self.post(portion).await?,
                None => self.confirm(0, None),
            }
            let finished = self.feed.as_ref().is_some_and(Feed::is_idle);
            if finished && !self.lease.checkpoint().booted {
                self.finish_bootstrap().await?;
            }
        }
    }

    /// Waits for events to post, and sends dead letters again.
    async fn wait(&mut self) -> Result<(), DeliveryError> {
        let Some(feed) = &mut self.feed else { return Err(DeliveryError::AskAgain) };
        let (booted, begun) = (self.lease.checkpoint().booted, Instant::now());
        tokio::select! {
            biased;
            () = self.leaving.cancelled() => Err(DeliveryError::ShuttingDown),
            Ok(()) = self.retries.changed(), if booted => self.resend().await,
            ready = timeout(IDLE_CHECK_INTERVAL, feed.ready()) => match ready {
                Err(_) => Err(DeliveryError::AskAgain),
                Ok(Err(error)) => Err(error.into()),
                Ok(Ok(())) if begun.elapsed() > REVALIDATE_AFTER_IDLE && feed.available() > 0 => {
                    Err(DeliveryError::AskAgain)
                }
                Ok(Ok(())) => Ok(()),
            },
        }
    }

    async fn resend(&mut self) -> Result<(), DeliveryError> {
        let events = self.retries.borrow_and_update().clone();
        Ok(self.refusals.resend(events, self.read, &mut self.sink).await?)
    }

    /// The events to post next: a batch, or one event after the bootstrap.
    fn portion(&self) -> Option<Portion> {
        let feed = self.feed.as_ref()?;
        let booted = self.lease.checkpoint().booted;
        let one_by_one = booted && self.settings.catch_up == CatchUp::Events;
        let max_events = if one_by_one { 1 } else { self.refusals.max_events() };
        let alone = booted && feed.available().min(max_events) == 1;
        if alone { feed.single() } else { feed.array(max_events) }
    }

    async fn post(&mut self, portion: Portion) -> Result<(), DeliveryError> {
        self.lease.ensure_held().await?;
        let (id, body) = (portion.id(), portion.body.clone());
        match self.sink.deliver(&id, body, portion.form()).await {
            Ok(()) => {
                self.backoff.succeeded();
                self.status.delivered(portion.count, u64::from(!portion.alone));
                self.refusals.accepted(&portion).await?;
                self.confirm(portion.count, Some(portion.last));
                Ok(())
            }
            Err(SinkError::Refused(refused)) if refused.is_about_events => {
                self.refuse(&portion, refused).await
            }
            Err(failure) => Err(failure.into()),
        }
    }

    async fn refuse(&mut self, portion: &Portion, refusal: Refused) -> Result<(), DeliveryError> {
        match self.refusals.handle(portion, &refusal).await? {
            Verdict::Retry if portion.count > 1 => {}
            Verdict::Retry => return Err(SinkError::Refused(refusal).into()),
            Verdict::Continue => self.confirm(portion.count, None),
            Verdict::Stop => {
                self.lease.save().await?;
                let decision = self.refusals.decision(portion.first, &refusal);
                let decision = self.leaving.run_until_cancelled(decision).await;
                if decision.ok_or(DeliveryError::ShuttingDown)?? {
                    self.confirm(portion.count, None);
                }
                return Err(DeliveryError::AskAgain);
            }
        }
        Ok(())
    }

    fn confirm(&mut self, count: usize, delivered: Option<EventId>) {
        if let Some(feed) = &mut self.feed {
            feed.confirm(count);
        }
        self.move_checkpoint(delivered);
        if let (Some(progress), Some(upto)) = (&mut self.progress, delivered) {
            progress.confirmed(count, upto);
        }
    }

    /// Sets the checkpoint to the position of the feed and the last delivered event.
    fn move_checkpoint(&self, delivered: Option<EventId>) {
        let Some(feed) = &self.feed else { return };
        let known = self.lease.checkpoint();
        let delivered = delivered.unwrap_or(known.delivered);
        let (position, owed) = (Some(feed.position()), known.owed);
        let checkpoint = Checkpoint { position, delivered, booted: known.booted, owed: None };
        self.lease.set_checkpoint(checkpoint.owing(owed));
    }

    /// Tells the aggregator that the bootstrap is complete, by an empty array.
    async fn finish_bootstrap(&mut self) -> Result<(), DeliveryError> {
        let position = self.lease.checkpoint().position.unwrap_or_default();
        let id = format!("booted-{position}");
        self.lease.ensure_held().await?;
        self.sink.deliver(&id, Bytes::from_static(b"[]"), Form::Batch).await?;
        self.backoff.succeeded();
        self.lease.set_checkpoint(Checkpoint { booted: true, ..self.lease.checkpoint() });
        self.lease.save().await?;
        if let Some(progress) = self.progress.take() {
            progress.done();
        }
        self.status.delivered(0, 1);
        self.status.enter(State::Live);
        Ok(())
    }
}

//! Gives an aggregator its events, for as long as the lease is held.
//!
//! It begins by asking the aggregator what it has, and does so again whenever it cannot be sure:
//! after every failure, when a connection has ended, and when it has been quiet for a while.
//! Therefore nothing has to be concluded from a request without an answer.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::{
    OnRefusal, Settings,
    aggregator::{Aggregator, Failure, Latest, Refusal},
    feed::{Feed, Portion, ReadError},
    fields::Likeness,
    lease::{self, Lease, LeaseError},
    progress::Progress,
    resume::{Seen, resume},
    retry::Backoff,
    status::{State, Status},
};
use crate::{
    event::EventId,
    gateway::Gateway,
    postgres::{
        error::Chain,
        history::HistoryError,
        pumps::{Checkpoint, Letter},
    },
};

/// A quiet aggregator is asked this often whether it still has what it had.
const QUIET: Duration = Duration::from_secs(10);
/// A stopped pump looks this often whether somebody has decided.
const DECIDED: Duration = Duration::from_secs(1);

/// Why delivery does not go on for now.
#[derive(Debug, thiserror::Error)]
enum Interrupt {
    /// The aggregator has to be asked again, that is all.
    #[error("asking again")]
    AskAgain,
    #[error(transparent)]
    Aggregator(#[from] Failure),
    #[error(transparent)]
    Reading(#[from] ReadError),
    #[error(transparent)]
    Lease(#[from] LeaseError),
    #[error(transparent)]
    History(#[from] HistoryError),
    /// The aggregator has events that contradict the log.
    #[error(
        "the aggregator's latest event is {0}, and the log has another one or none there: it was \
         restored from a backup, or is another log. Empty the aggregator, so that it is \
         bootstrapped anew, or restore the log"
    )]
    Diverged(EventId),
    /// The program is about to leave.
    #[error("leaving")]
    Leaving,
}

/// One pump with the lease of its aggregator.
pub(super) struct Delivery<'a> {
    gateway: &'a Arc<Gateway>,
    settings: &'a Settings,
    status: &'a Status,
    lease: &'a Lease,
    leaving: &'a CancellationToken,
    aggregator: Aggregator,
    feed: Option<Feed>,
    backoff: Backoff,
    retries: watch::Receiver<Vec<EventId>>,
    /// The event that was refused last, and how often.
    refused: (EventId, u32),
    /// As many events go into the next batch: fewer after a refusal, to find the one.
    portion: usize,
    progress: Option<Progress>,
}

impl<'a> Delivery<'a> {
    pub(super) fn new(
        gateway: &'a Arc<Gateway>,
        settings: &'a Settings,
        status: &'a Status,
        lease: &'a Lease,
        leaving: &'a CancellationToken,
    ) -> Self {
        Self {
            gateway,
            settings,
            status,
            lease,
            leaving,
            aggregator: Aggregator::new(settings.target.clone()),
            feed: None,
            backoff: Backoff::new(settings.longest_pause),
            retries: lease.retries(),
            refused: (EventId::ZERO, 0),
            portion: settings.shape.size.events,
            progress: None,
        }
    }

    /// Delivers until the lease is lost, or the program leaves.
    pub(super) async fn run(mut self) {
        let Err(error) = self.go_on().await else { return };
        warn!(aggregator = %self.settings.name, error = %Chain(&error),
            "cannot go on without the lease");
    }

    async fn go_on(&mut self) -> Result<(), LeaseError> {
        loop {
            let Err(interrupt) = self.engage().await;
            match interrupt {
                Interrupt::AskAgain | Interrupt::Aggregator(Failure::Closed) => {
                    debug!(aggregator = %self.settings.name, why = %interrupt, "asks again");
                }
                Interrupt::Leaving => return Ok(()),
                Interrupt::Lease(error) => return Err(error),
                failure => {
                    // Where it rests, whoever looks shall find it.
                    self.lease.save().await?;
                    let pause = self.failed(&failure);
                    if self.leaving.run_until_cancelled(sleep(pause)).await.is_none() {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Notes a failure, and answers how long to wait.
    fn failed(&mut self, interrupt: &Interrupt) -> Duration {
        self.status.failed();
        self.aggregator.hang_up();
        let (state, asked, pause) = match interrupt {
            Interrupt::Diverged(_) | Interrupt::Reading(ReadError::WentBack { .. }) => {
                (State::Stopped, None, Some(self.settings.longest_pause))
            }
            Interrupt::Aggregator(Failure::Answered(refusal)) => {
                (State::BackingOff, refusal.retry_after, None)
            }
            _ => (State::BackingOff, None, None),
        };
        if matches!(interrupt, Interrupt::Reading(_)) {
            self.feed = None;
        }
        let drawn = self.backoff.pause(asked);
        let pause = pause.unwrap_or(drawn);
        self.status.enter(state);
        let (name, failures) = (&self.settings.name, self.backoff.failures());
        if state == State::Stopped {
            error!(aggregator = %name, error = %Chain(interrupt), "stopped");
        } else {
            warn!(aggregator = %name, error = %Chain(interrupt), failures, ?pause,
                "delivery failed, and will be tried again");
        }
        pause
    }

    /// Asks the aggregator what it has, and goes on from there.
    async fn engage(&mut self) -> Result<std::convert::Infallible, Interrupt> {
        if self.leaving.is_cancelled() {
            return Err(Interrupt::Leaving);
        }
        if self.feed.is_none() {
            self.status.enter(State::Asking);
        }
        let latest = self.aggregator.latest().await?;
        let seen = self.seen(latest).await?;
        let known = self.lease.checkpoint();
        let newest = lease::within("finding the end of the log", self.lease.seat().end_of_log());
        let newest = newest.await?;
        let checkpoint = resume(seen, known, self.settings.start, newest);
        let position = checkpoint.position.unwrap_or_default();
        if checkpoint != known {
            info!(aggregator = %self.settings.name, ?seen, ?known, ?checkpoint, "goes on from here");
            self.lease.note(checkpoint, None);
            self.lease.save().await?;
        }
        let at_hand = self.feed.as_mut().is_some_and(|feed| feed.seek(position));
        if !at_hand {
            self.feed = Some(Feed::open(self.gateway, self.settings.shape.clone(), position));
        }
        if checkpoint.booted {
            self.progress = None;
        } else if self.progress.is_none() || !at_hand {
            self.progress = Some(Progress::new(&self.settings.name, position, newest));
        }
        self.status.enter(self.moving());
        self.deliver().await
    }

    fn moving(&self) -> State {
        if self.lease.checkpoint().booted { State::Live } else { State::Bootstrapping }
    }

    /// What the aggregator's answer means, by the log.
    async fn seen(&self, latest: Latest) -> Result<Seen, Interrupt> {
        let answer = match latest {
            Latest::Nothing => return Ok(Seen::Nothing),
            Latest::Unsaid => return Ok(Seen::Unsaid),
            Latest::Event(answer) => answer,
        };
        let fields = &self.settings.shape.fields;
        let Some(id) = fields.id_of(&answer) else { return Ok(Seen::Unsaid) };
        if let Some(event) = self.gateway.event(id).await? {
            return match fields.compare(&event, &answer) {
                Likeness::Same => Ok(Seen::Ours(id)),
                Likeness::Contradicts if fields.made(&answer) => Err(Interrupt::Diverged(id)),
                Likeness::Contradicts => Ok(Seen::Unsaid),
            };
        }
        if !fields.made(&answer) {
            return Ok(Seen::Unsaid);
        }
        // It keeps what it was given, and was given this: pruned since, or never here.
        let end = self.lease.seat().end_of_log();
        let end = lease::within("finding the end of the log", end).await?;
        if id <= end { Ok(Seen::Ours(id)) } else { Err(Interrupt::Diverged(id)) }
    }

    async fn deliver(&mut self) -> Result<std::convert::Infallible, Interrupt> {
        loop {
            self.wait().await?;
            let checkpoint = self.lease.checkpoint();
            let Some(feed) = &mut self.feed else { return Err(Interrupt::AskAgain) };
            let portion = if checkpoint.booted { feed.single() } else { feed.array(self.portion) };
            match portion {
                Some(portion) if checkpoint.booted => self.post_single(portion).await?,
                Some(portion) => self.post_array(portion).await?,
                None => {
                    feed.confirm(0);
                    self.moved(None);
                }
            }
            let finished = self.feed.as_ref().is_some_and(Feed::is_idle);
            if finished && !self.lease.checkpoint().booted {
                self.finish_bootstrap().await?;
            }
        }
    }

    /// Waits for something to post.
    async fn wait(&mut self) -> Result<(), Interrupt> {
        let Some(feed) = &mut self.feed else { return Err(Interrupt::AskAgain) };
        let booted = self.lease.checkpoint().booted;
        tokio::select! {
            biased;
            () = self.leaving.cancelled() => Err(Interrupt::Leaving),
            Ok(()) = self.retries.changed(), if booted => self.resend().await,
            ready = timeout(QUIET, feed.ready()) => match ready {
                Ok(ready) => Ok(ready?),
                Err(_) => Err(Interrupt::AskAgain),
            },
        }
    }

    async fn post_array(&mut self, portion: Portion) -> Result<(), Interrupt> {
        let id = format!("{}-{}", portion.first, portion.last);
        let posted = self.aggregator.post_batch(&id, portion.body.clone()).await;
        match posted {
            Err(Failure::Answered(refusal))
                if portion.count > 1 && refusal.is_about_the_events() =>
            {
                // Somewhere in here: half of it at once, and half of that, until it is found.
                self.status.refused();
                self.portion = (portion.count / 2).max(1);
                Ok(())
            }
            posted => {
                self.settle(posted, &portion, 1).await?;
                let most = self.settings.shape.size.events;
                self.portion = self.portion.saturating_mul(2).min(most);
                Ok(())
            }
        }
    }

    async fn post_single(&mut self, portion: Portion) -> Result<(), Interrupt> {
        let id = portion.first.to_string();
        let posted = self.aggregator.post_event(&id, portion.body.clone()).await;
        self.settle(posted, &portion, 0).await
    }

    /// Draws the conclusion from a post.
    async fn settle(
        &mut self,
        posted: Result<(), Failure>,
        portion: &Portion,
        batches: u64,
    ) -> Result<(), Interrupt> {
        match posted {
            Ok(()) => {
                self.backoff.succeeded();
                self.status.delivered(portion.count, batches);
                if self.lease.was_refused(portion.first) || self.refused.0 == portion.first {
                    self.refused = (EventId::ZERO, 0);
                    let forget = self.lease.seat().forget(portion.first, portion.last);
                    lease::within("forgetting a dead letter", forget).await?;
                }
                self.confirm(portion.count, Some(portion.last));
                Ok(())
            }
            Err(Failure::Answered(refusal)) if refusal.is_about_the_events() => {
                self.refuse(portion, refusal).await
            }
            Err(failure) => Err(failure.into()),
        }
    }

    fn confirm(&mut self, count: usize, delivered: Option<EventId>) {
        if let Some(feed) = &mut self.feed {
            feed.confirm(count);
        }
        self.moved(delivered);
        if let (Some(progress), Some(upto)) = (&mut self.progress, delivered) {
            progress.confirmed(count, upto);
        }
    }

    /// Notes where the feed is, and what was delivered last.
    fn moved(&self, delivered: Option<EventId>) {
        let Some(feed) = &self.feed else { return };
        let known = self.lease.checkpoint();
        let delivered = delivered.unwrap_or(known.delivered);
        let checkpoint = Checkpoint { position: Some(feed.position()), delivered, ..known };
        self.lease.note(checkpoint, feed.waits_since());
    }

    /// An empty array: that was all.
    async fn finish_bootstrap(&mut self) -> Result<(), Interrupt> {
        let position = self.lease.checkpoint().position.unwrap_or_default();
        let id = format!("booted-{position}");
        self.aggregator.post_batch(&id, bytes::Bytes::from_static(b"[]")).await?;
        self.backoff.succeeded();
        self.lease.note(Checkpoint { booted: true, ..self.lease.checkpoint() }, None);
        self.lease.save().await?;
        if let Some(progress) = self.progress.take() {
            progress.done();
        }
        self.status.delivered(0, 1);
        self.status.enter(State::Live);
        Ok(())
    }

    /// The aggregator finds fault with one event: tries it again some times, then does what
    /// the settings say.
    async fn refuse(&mut self, portion: &Portion, refusal: Refusal) -> Result<(), Interrupt> {
        self.status.refused();
        let event = portion.first;
        let letter = lease::within("reading a dead letter", self.lease.seat().letter(event));
        if letter.await? == Some(Letter::Skipped) {
            self.confirm(portion.count, None);
            return Ok(());
        }
        self.refused =
            if self.refused.0 == event { (event, self.refused.1 + 1) } else { (event, 1) };
        if self.refused.1 < self.settings.refusals {
            return Err(Failure::from(refusal).into());
        }
        self.refused = (EventId::ZERO, 0);
        match self.settings.on_refusal {
            OnRefusal::SetAside => {
                self.put_aside(event, Letter::SetAside, &refusal).await?;
                warn!(aggregator = %self.settings.name, %event, %refusal, "set aside");
                self.confirm(portion.count, None);
                Ok(())
            }
            OnRefusal::Stop => {
                self.put_aside(event, Letter::Blocking, &refusal).await?;
                self.stop(portion, &refusal).await
            }
        }
    }

    async fn put_aside(
        &self,
        event: EventId,
        letter: Letter,
        refusal: &Refusal,
    ) -> Result<(), LeaseError> {
        let reason = refusal.to_string();
        let noted = self.lease.seat().note(event, letter, &reason);
        let noted = lease::within("noting a dead letter", noted).await?;
        if noted { Ok(()) } else { Err(LeaseError::TakenOver) }
    }

    /// Waits until somebody decides about the event that the aggregator refuses.
    async fn stop(&mut self, portion: &Portion, refusal: &Refusal) -> Result<(), Interrupt> {
        let (event, name) = (portion.first, &self.settings.name);
        self.lease.save().await?;
        self.status.enter(State::Stopped);
        error!(
            aggregator = %name, %event, %refusal,
            "stopped before this event: `event-piper pump retry` when the aggregator is mended, \
             or `event-piper pump skip`, go on"
        );
        loop {
            if self.leaving.run_until_cancelled(sleep(DECIDED)).await.is_none() {
                return Err(Interrupt::Leaving);
            }
            let letter = lease::within("reading a dead letter", self.lease.seat().letter(event));
            match letter.await? {
                Some(Letter::Blocking) => {}
                Some(Letter::Skipped) => {
                    info!(aggregator = %name, %event, "skipped");
                    self.confirm(portion.count, None);
                    return Err(Interrupt::AskAgain);
                }
                Some(Letter::Retry | Letter::SetAside) | None => return Err(Interrupt::AskAgain),
            }
        }
    }

    /// Sends events again that were set aside.
    async fn resend(&mut self) -> Result<(), Interrupt> {
        let events = self.retries.borrow_and_update().clone();
        let position = self.lease.checkpoint().position.unwrap_or_default();
        for event in events.into_iter().filter(|event| *event <= position) {
            let Some(whole) = self.gateway.event(event).await? else {
                self.give_back(event, "the event was pruned").await?;
                continue;
            };
            let mut body = Vec::new();
            self.settings.shape.fields.put(&mut body, &whole);
            let id = event.to_string();
            match self.aggregator.post_event(&id, body.into()).await {
                Ok(()) => {
                    info!(aggregator = %self.settings.name, %event, "delivered after all");
                    self.status.delivered(1, 0);
                    let forget = self.lease.seat().forget(event, event);
                    lease::within("forgetting a dead letter", forget).await?;
                }
                Err(Failure::Answered(refusal)) if refusal.is_about_the_events() => {
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
        let noted = self.lease.seat().note(event, Letter::SetAside, reason);
        lease::within("noting a dead letter", noted).await.map(drop)
    }
}

//! Gives a sink its events, for as long as the lease is held.
//!
//! It begins by asking the sink what it has, and does so again whenever it cannot be sure:
//! after every failure, when a connection has ended, and when it has been quiet for a while.
//! Therefore nothing has to be concluded from a request without an answer.

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
    fields::Likeness,
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
    store::{error::Chain, history::HistoryError, pumps::Checkpoint},
};

/// A quiet aggregator is asked this often whether it still has what it had.
const QUIET: Duration = Duration::from_secs(10);
/// Who has got nothing for so long is asked before it gets something: it may be another one
/// meanwhile, behind a proxy that has kept the connection.
const A_WHILE: Duration = Duration::from_secs(1);
/// Between attempts; the longest one is a setting.
const PAUSES: Policy = Policy::new(Duration::from_millis(200), Duration::from_secs(30));

/// Why delivery does not go on for now.
#[derive(Debug, thiserror::Error)]
enum Interrupt {
    /// The aggregator has to be asked again, that is all.
    #[error("asking again")]
    AskAgain,
    #[error(transparent)]
    Sink(#[from] SinkError),
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

impl From<ResendError> for Interrupt {
    fn from(error: ResendError) -> Self {
        match error {
            ResendError::Sink(error) => error.into(),
            ResendError::Lease(error) => error.into(),
            ResendError::History(error) => error.into(),
        }
    }
}

/// One pump with the lease of its aggregator.
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
            backoff: PAUSES.up_to(settings.longest_pause).start(),
            retries: lease.retries(),
            refusals: Refusals::new(settings, status, lease),
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
                Interrupt::AskAgain | Interrupt::Sink(SinkError::Closed) => {
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
        self.sink.disconnect();
        let (state, asked, pause) = match interrupt {
            Interrupt::Diverged(_) | Interrupt::Reading(ReadError::WentBack { .. }) => {
                (State::Stopped, None, Some(self.settings.longest_pause))
            }
            Interrupt::Sink(SinkError::Refused(refused)) => {
                (State::BackingOff, refused.retry_after, None)
            }
            _ => (State::BackingOff, None, None),
        };
        if matches!(interrupt, Interrupt::Reading(_)) {
            self.feed = None;
        }
        let drawn = self.backoff.pause();
        let pause = pause.unwrap_or_else(|| asked.unwrap_or_default().max(drawn));
        self.status.enter(state);
        let (name, failures) = (&self.settings.name, self.backoff.failures());
        if state == State::Stopped {
            error!(aggregator = %name, error = %Chain(interrupt), "stopped");
        } else {
            warn!(aggregator = %name, error = %Chain(interrupt), failures,
                "delivery failed; retrying in {pause:?}");
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
        let latest = self.sink.latest().await?;
        let seen = self.seen(latest).await?;
        let known = self.lease.checkpoint();
        let newest = lease::within("finding the end of the log", self.lease.seat().end_of_log());
        let newest = newest.await?;
        let start = self.start(&known).await?;
        let checkpoint = resume(seen, known.clone(), start);
        let position = checkpoint.position.unwrap_or_default();
        if checkpoint != known {
            info!(aggregator = %self.settings.name, %seen, %known, %checkpoint, "goes on from here");
            self.lease.note(checkpoint.clone());
            self.lease.save().await?;
        }
        if checkpoint.delivered > known.delivered {
            // It did what its answer did not say.
            self.backoff.succeeded();
        }
        let at_hand = self.feed.as_mut().is_some_and(|feed| feed.seek(position));
        if !at_hand {
            self.feed = Some(Feed::open(self.read, self.settings.shape.clone(), &checkpoint));
        }
        if checkpoint.booted {
            self.progress = None;
        } else if self.progress.is_none() || !at_hand {
            let (bars, name) = (self.status.bars(), &self.settings.name);
            self.progress = Some(Progress::new(bars, name, position, newest));
        }
        self.status.enter(self.moving());
        self.deliver().await
    }

    /// Where to begin if nothing is known.
    async fn start(&self, known: &Checkpoint) -> Result<Cursor, Interrupt> {
        if known.position.is_some() || self.settings.start == Start::Beginning {
            return Ok(Cursor::default());
        }
        let now = self.leaving.run_until_cancelled(self.read.now()).await;
        now.flatten().ok_or(Interrupt::Leaving)
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
        if let Some(event) = self.read.event(id).await? {
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

    /// Waits for something to post.
    async fn wait(&mut self) -> Result<(), Interrupt> {
        let Some(feed) = &mut self.feed else { return Err(Interrupt::AskAgain) };
        let (booted, begun) = (self.lease.checkpoint().booted, Instant::now());
        tokio::select! {
            biased;
            () = self.leaving.cancelled() => Err(Interrupt::Leaving),
            Ok(()) = self.retries.changed(), if booted => self.resend().await,
            ready = timeout(QUIET, feed.ready()) => match ready {
                Err(_) => Err(Interrupt::AskAgain),
                Ok(Err(error)) => Err(error.into()),
                Ok(Ok(())) if begun.elapsed() > A_WHILE && feed.at_hand() > 0 => {
                    Err(Interrupt::AskAgain)
                }
                Ok(Ok(())) => Ok(()),
            },
        }
    }

    async fn resend(&mut self) -> Result<(), Interrupt> {
        let events = self.retries.borrow_and_update().clone();
        Ok(self.refusals.resend(events, self.read, &mut self.sink).await?)
    }

    /// What is posted next: a batch, or one event to an aggregator that is booted.
    fn portion(&self) -> Option<Portion> {
        let feed = self.feed.as_ref()?;
        let booted = self.lease.checkpoint().booted;
        let one_by_one = booted && self.settings.catch_up == CatchUp::Events;
        let most = if one_by_one { 1 } else { self.refusals.portion() };
        if booted && feed.at_hand().min(most) == 1 { feed.single() } else { feed.array(most) }
    }

    async fn post(&mut self, portion: Portion) -> Result<(), Interrupt> {
        self.lease.assure().await?;
        let (id, body) = (portion.id(), portion.body.clone());
        match self.sink.deliver(&id, body, portion.form()).await {
            Ok(()) => {
                self.backoff.succeeded();
                self.status.delivered(portion.count, u64::from(!portion.alone));
                self.refusals.taken(&portion).await?;
                self.confirm(portion.count, Some(portion.last));
                Ok(())
            }
            Err(SinkError::Refused(refused)) if refused.is_about_events => {
                self.refuse(&portion, refused).await
            }
            Err(failure) => Err(failure.into()),
        }
    }

    async fn refuse(&mut self, portion: &Portion, refusal: Refused) -> Result<(), Interrupt> {
        match self.refusals.judge(portion, &refusal).await? {
            Verdict::Again if portion.count > 1 => {}
            Verdict::Again => return Err(SinkError::Refused(refusal).into()),
            Verdict::GoOn => self.confirm(portion.count, None),
            Verdict::Stop => {
                self.lease.save().await?;
                let decision = self.refusals.decision(portion.first, &refusal);
                let decision = self.leaving.run_until_cancelled(decision).await;
                if decision.ok_or(Interrupt::Leaving)?? {
                    self.confirm(portion.count, None);
                }
                return Err(Interrupt::AskAgain);
            }
        }
        Ok(())
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
        let (position, owed) = (Some(feed.position()), known.owed);
        let checkpoint = Checkpoint { position, delivered, booted: known.booted, owed: None };
        self.lease.note(checkpoint.owing(owed));
    }

    /// An empty array: that was all.
    async fn finish_bootstrap(&mut self) -> Result<(), Interrupt> {
        let position = self.lease.checkpoint().position.unwrap_or_default();
        let id = format!("booted-{position}");
        self.lease.assure().await?;
        self.sink.deliver(&id, Bytes::from_static(b"[]"), Form::Batch).await?;
        self.backoff.succeeded();
        self.lease.note(Checkpoint { booted: true, ..self.lease.checkpoint() });
        self.lease.save().await?;
        if let Some(progress) = self.progress.take() {
            progress.done();
        }
        self.status.delivered(0, 1);
        self.status.enter(State::Live);
        Ok(())
    }
}

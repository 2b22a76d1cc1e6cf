//! The lease: one pump for each aggregator, and its checkpoint.
//!
//! The lease is an advisory lock on a connection of its own, which is asked for a sign of life
//! every second: where that does not come, the pump stops, and PostgreSQL, which has lost the
//! connection, too, gives the lock to another one. It does the same when it is not asked for five
//! seconds, as by a pump that is frozen; whoever has not asked for three posts nothing. Should both believe for a moment that they
//! hold it, the checkpoint obeys only the younger; and whatever both post is in order, and
//! nothing is left out, since each goes on behind what the aggregator has.

use std::{
    sync::{Arc, MutexGuard},
    time::{Duration, Instant},
};

use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::status::{State, Status};
use crate::{
    backoff::{self, Policy},
    crash::{Lock, vital},
    event::EventId,
    store::{
        error::Chain,
        pumps::{Candidate, Checkpoint, Seat},
        server::Server,
    },
};

/// No answer for so long, and the connection is given up: others may hold the lease.
pub(super) const DEADLINE: Duration = Duration::from_secs(3);
/// A sign of life is asked for this often, and a standby tries this often.
const BEAT: Duration = Duration::from_secs(1);
/// What was confirmed is noted this soon.
const NOTED_WITHIN: Duration = Duration::from_millis(250);
/// Between attempts to reach PostgreSQL.
const PAUSES: Policy = Policy::new(Duration::from_millis(200), Duration::from_secs(2));

/// Why a lease has ended.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// A query failed.
    #[error("{doing}")]
    Query {
        /// What was being done.
        doing: &'static str,
        /// Why it failed.
        source: tokio_postgres::Error,
    },
    /// PostgreSQL did not answer in time.
    #[error("{doing}: PostgreSQL did not answer within {} s", DEADLINE.as_secs())]
    Silent {
        /// What was being done.
        doing: &'static str,
    },
    /// Somebody else has it.
    #[error("another pump has taken over")]
    TakenOver,
}

/// A lease that is held. It ends with the value.
#[derive(Debug)]
pub struct Lease {
    seat: Arc<Seat>,
    shared: Arc<Shared>,
    keeping: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    notes: Lock<Notes>,
    /// What the database has. Whoever saves holds it: an older note never overtakes a newer one.
    saved: tokio::sync::Mutex<Checkpoint>,
    news: Notify,
    lost: CancellationToken,
    retries: watch::Sender<Vec<EventId>>,
    status: Status,
}

#[derive(Debug)]
struct Notes {
    checkpoint: Checkpoint,
    /// When it was asked last whether the lease is held, and it was.
    held: Instant,
    last_letter: EventId,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.keeping.abort();
    }
}

/// Waits for the lease, however long another pump has it.
pub(super) async fn acquire(server: &Server, name: &str, status: &Status) -> Lease {
    let mut backoff = PAUSES.start();
    loop {
        match try_acquire(server, name, status).await {
            Ok(lease) => return lease,
            Err(error) => {
                warn!(aggregator = name, error = %Chain(&error), "cannot ask for the lease");
                backoff.wait().await;
            }
        }
    }
}

async fn try_acquire(server: &Server, name: &str, status: &Status) -> Result<Lease, LeaseError> {
    let connecting = Candidate::connect(server, name);
    let candidate = within("connecting for the lease", connecting).await?;
    let mut said = false;
    while !within("asking for the lease", candidate.try_lock()).await? {
        if !said {
            info!(aggregator = name, "another pump is at it: standing by");
            status.enter(State::Standby);
            said = true;
        }
        sleep(backoff::drawn(BEAT)).await;
    }
    let (seat, checkpoint) = within("taking over", candidate.take_over()).await?;
    info!(aggregator = name, epoch = seat.epoch(), %checkpoint, "has the lease");
    status.took_over();
    Ok(Lease::keep(seat, checkpoint, status.clone()))
}

impl Lease {
    fn keep(seat: Seat, checkpoint: Checkpoint, status: Status) -> Self {
        let saved = checkpoint.clone().into();
        let notes = Notes { checkpoint, held: Instant::now(), last_letter: EventId::ZERO };
        let shared = Arc::new(Shared {
            notes: Lock::new(notes),
            saved,
            news: Notify::new(),
            lost: CancellationToken::new(),
            retries: watch::Sender::new(Vec::new()),
            status,
        });
        let seat = Arc::new(seat);
        let keeping = keep(Arc::clone(&seat), Arc::clone(&shared));
        let keeping = tokio::spawn(vital("nothing keeps the lease any more", keeping));
        Self { seat, shared, keeping }
    }

    /// Ends when the lease is lost.
    pub(super) async fn lost(&self) {
        self.shared.lost.cancelled().await;
    }

    /// The connection that holds it.
    pub(super) fn seat(&self) -> &Seat {
        &self.seat
    }

    /// How far the aggregator has been fed.
    pub(super) fn checkpoint(&self) -> Checkpoint {
        self.shared.notes().checkpoint.clone()
    }

    /// This event, or one behind it, was refused once.
    pub(super) fn was_refused(&self, event: EventId) -> bool {
        self.shared.notes().last_letter >= event
    }

    /// Makes sure that nobody else has it: a pump that was frozen does not know how long.
    pub(super) async fn assure(&self) -> Result<(), LeaseError> {
        if self.shared.notes().held.elapsed() < DEADLINE {
            return Ok(());
        }
        beat(&self.seat, &self.shared).await
    }

    /// Moves the checkpoint, in the database within a moment.
    pub(super) fn note(&self, checkpoint: Checkpoint) {
        self.shared.notes().checkpoint = checkpoint;
        self.shared.news.notify_one();
    }

    /// Moves the checkpoint in the database at once.
    pub(super) async fn save(&self) -> Result<(), LeaseError> {
        save(&self.seat, &self.shared).await
    }

    /// Those events of the refused that shall be sent again.
    pub(super) fn retries(&self) -> watch::Receiver<Vec<EventId>> {
        self.shared.retries.subscribe()
    }

    /// Gives it up in good order.
    pub(super) async fn release(self) {
        if let Err(error) = self.save().await {
            warn!(error = %Chain(&error), "the last checkpoint is not noted");
        }
    }
}

impl Shared {
    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock()
    }
}

async fn keep(seat: Arc<Seat>, shared: Arc<Shared>) {
    let Err(error) = keep_on(&seat, &shared).await;
    warn!(error = %Chain(&error), "lost the lease");
    shared.lost.cancel();
}

async fn keep_on(seat: &Seat, shared: &Shared) -> Result<std::convert::Infallible, LeaseError> {
    let mut next_beat = Instant::now();
    loop {
        if Instant::now() >= next_beat {
            next_beat = Instant::now() + BEAT;
            beat(seat, shared).await?;
        }
        let until = next_beat.saturating_duration_since(Instant::now());
        if timeout(until, shared.news.notified()).await.is_ok() {
            save(seat, shared).await?;
            sleep(NOTED_WITHIN).await;
        }
    }
}

async fn beat(seat: &Seat, shared: &Shared) -> Result<(), LeaseError> {
    let asked = Instant::now();
    let position = shared.notes().checkpoint.cursor().head();
    let beat = within("looking after the lease", seat.beat(position)).await?;
    if !beat.held {
        return Err(LeaseError::TakenOver);
    }
    let mut notes = shared.notes();
    notes.held = asked;
    notes.last_letter = beat.last_letter;
    drop(notes);
    shared.status.lag(position, beat.newest, beat.age);
    shared.status.dead_letters(beat.letters);
    shared.retries.send_if_modified(|known| {
        let news = !beat.retries.is_empty();
        *known = beat.retries;
        news
    });
    Ok(())
}

async fn save(seat: &Seat, shared: &Shared) -> Result<(), LeaseError> {
    let mut saved = shared.saved.lock().await;
    let checkpoint = shared.notes().checkpoint.clone();
    if checkpoint == *saved {
        return Ok(());
    }
    if !within("moving the checkpoint", seat.save(&checkpoint)).await? {
        return Err(LeaseError::TakenOver);
    }
    *saved = checkpoint;
    Ok(())
}

pub(super) async fn within<T>(
    doing: &'static str,
    query: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, LeaseError> {
    match timeout(DEADLINE, query).await {
        Ok(answer) => answer.map_err(|source| LeaseError::Query { doing, source }),
        Err(_) => Err(LeaseError::Silent { doing }),
    }
}

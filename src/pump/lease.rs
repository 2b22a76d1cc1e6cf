//! The lease of an aggregator, so that one pump at a time delivers to it, and the checkpoint.
//!
//! The lease is an advisory lock on a connection of its own. Its holder sends a heartbeat query every
//! second. If a heartbeat fails, the pump stops, and PostgreSQL, which has also lost the connection,
//! grants the lock to another pump. PostgreSQL also ends the connection if there is no heartbeat for five
//! seconds, as when the pump is frozen. A pump whose last heartbeat is three seconds old posts nothing.
//! If two pumps still believe for a moment that they hold the lease, only the newer one can move the
//! checkpoint. Both post events in order and without omissions, since each continues after the
//! aggregator's latest event.

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
        error::ErrorChain,
        pumps::{Candidate, Checkpoint, LeaseSession},
        server::Server,
    },
};

/// How long a query may take. After that the connection is given up, since another pump may hold the
/// lease.
pub(super) const QUERY_TIMEOUT: Duration = Duration::from_secs(3);
/// The interval of heartbeats, and of the attempts of a standby.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);
/// The minimum interval between writes of the checkpoint.
const SAVE_INTERVAL: Duration = Duration::from_millis(250);
/// The pauses between attempts to connect to PostgreSQL.
const CONNECT_BACKOFF: Policy = Policy::new(Duration::from_millis(200), Duration::from_secs(2));

/// Why a lease has ended.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// A query failed.
    #[error("{doing}")]
    Query {
        /// What was being done.
        doing: &'static str,
        /// The cause.
        source: tokio_postgres::Error,
    },
    /// PostgreSQL did not answer in time.
    #[error("{doing}: PostgreSQL did not answer within {} s", QUERY_TIMEOUT.as_secs())]
    Silent {
        /// What was being done.
        doing: &'static str,
    },
    /// Another pump holds the lease.
    #[error("another pump has taken over")]
    TakenOver,
}

/// A lease that is held. Dropping it gives the lease up.
#[derive(Debug)]
pub struct Lease {
    session: Arc<LeaseSession>,
    shared: Arc<Shared>,
    keeping: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    state: Lock<LeaseState>,
    /// The checkpoint in the database. It is locked during a write, so that writes stay in order.
    saved: tokio::sync::Mutex<Checkpoint>,
    changed: Notify,
    lost: CancellationToken,
    retries: watch::Sender<Vec<EventId>>,
    status: Status,
}

#[derive(Debug)]
struct LeaseState {
    checkpoint: Checkpoint,
    /// The start of the last heartbeat that found the lease held.
    held: Instant,
    /// The greatest id among the dead letters.
    last_letter: EventId,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.keeping.abort();
    }
}

/// Acquires the lease, and waits while another pump holds it.
pub(super) async fn acquire(server: &Server, name: &str, status: &Status) -> Lease {
    let mut backoff = CONNECT_BACKOFF.start();
    loop {
        match try_acquire(server, name, status).await {
            Ok(lease) => return lease,
            Err(error) => {
                warn!(aggregator = name, error = %ErrorChain(&error), "cannot acquire the lease; retrying");
                backoff.wait().await;
            }
        }
    }
}

async fn try_acquire(server: &Server, name: &str, status: &Status) -> Result<Lease, LeaseError> {
    let connecting = Candidate::connect(server, name);
    let candidate = with_timeout("connecting to acquire the lease", connecting).await?;
    let mut logged = false;
    while !with_timeout("acquiring the lease", candidate.try_lock()).await? {
        if !logged {
            info!(aggregator = name, "another pump holds the lease: standing by");
            status.enter(State::Standby);
            logged = true;
        }
        sleep(backoff::drawn(HEARTBEAT_INTERVAL)).await;
    }
    let (session, checkpoint) =
        with_timeout("taking over the lease", candidate.take_over()).await?;
    info!(aggregator = name, epoch = session.epoch(), %checkpoint, "acquired the lease");
    status.took_over();
    Ok(Lease::hold(session, checkpoint, status.clone()))
}

impl Lease {
    fn hold(session: LeaseSession, checkpoint: Checkpoint, status: Status) -> Self {
        let saved = checkpoint.clone().into();
        let state = LeaseState { checkpoint, held: Instant::now(), last_letter: EventId::ZERO };
        let shared = Arc::new(Shared {
            state: Lock::new(state),
            saved,
            changed: Notify::new(),
            lost: CancellationToken::new(),
            retries: watch::Sender::new(Vec::new()),
            status,
        });
        let session = Arc::new(session);
        let keeping = maintain(Arc::clone(&session), Arc::clone(&shared));
        let keeping = tokio::spawn(vital("the lease is no longer maintained", keeping));
        Self { session, shared, keeping }
    }

    /// Completes when the lease is lost.
    pub(super) async fn lost(&self) {
        self.shared.lost.cancelled().await;
    }

    /// The session that holds the lease.
    pub(super) fn session(&self) -> &LeaseSession {
        &self.session
    }

    /// The current checkpoint, which may be newer than the one in the database.
    pub(super) fn checkpoint(&self) -> Checkpoint {
        self.shared.state().checkpoint.clone()
    }

    /// Whether a dead letter exists for this event or a later one.
    pub(super) fn was_refused(&self, event: EventId) -> bool {
        self.shared.state().last_letter >= event
    }

    /// Makes sure that the lease is still held. A pump that was frozen may have lost it.
    pub(super) async fn ensure_held(&self) -> Result<(), LeaseError> {
        if self.shared.state().held.elapsed() < QUERY_TIMEOUT {
            return Ok(());
        }
        heartbeat(&self.session, &self.shared).await
    }

    /// Sets the checkpoint. It is written to the database in the background.
    pub(super) fn set_checkpoint(&self, checkpoint: Checkpoint) {
        self.shared.state().checkpoint = checkpoint;
        self.shared.changed.notify_one();
    }

    /// Writes the checkpoint to the database.
    pub(super) async fn save(&self) -> Result<(), LeaseError> {
        save(&self.session, &self.shared).await
    }

    /// The dead letters that must be sent again.
    pub(super) fn retries(&self) -> watch::Receiver<Vec<EventId>> {
        self.shared.retries.subscribe()
    }

    /// Writes the checkpoint, and gives the lease up.
    pub(super) async fn release(self) {
        if let Err(error) = self.save().await {
            warn!(error = %ErrorChain(&error), "cannot write the last checkpoint");
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, LeaseState> {
        self.state.lock()
    }
}

async fn maintain(session: Arc<LeaseSession>, shared: Arc<Shared>) {
    let Err(error) = maintain_until_lost(&session, &shared).await;
    warn!(error = %ErrorChain(&error), "lost the lease");
    shared.lost.cancel();
}

async fn maintain_until_lost(
    session: &LeaseSession,
    shared: &Shared,
) -> Result<std::convert::Infallible, LeaseError> {
    let mut next_heartbeat = Instant::now();
    loop {
        if Instant::now() >= next_heartbeat {
            next_heartbeat = Instant::now() + HEARTBEAT_INTERVAL;
            heartbeat(session, shared).await?;
        }
        let until = next_heartbeat.saturating_duration_since(Instant::now());
        if timeout(until, shared.changed.notified()).await.is_ok() {
            save(session, shared).await?;
            sleep(SAVE_INTERVAL).await;
        }
    }
}

async fn heartbeat(session: &LeaseSession, shared: &Shared) -> Result<(), LeaseError> {
    let asked = Instant::now();
    let position = shared.state().checkpoint.cursor().head();
    let beat =
        with_timeout("sending the heartbeat of the lease", session.heartbeat(position)).await?;
    if !beat.held {
        return Err(LeaseError::TakenOver);
    }
    let mut state = shared.state();
    state.held = asked;
    state.last_letter = beat.last_letter;
    drop(state);
    shared.status.lag(position, beat.newest, beat.age);
    shared.status.dead_letters(beat.letters);
    shared.retries.send_if_modified(|known| {
        let any = !beat.retries.is_empty();
        *known = beat.retries;
        any
    });
    Ok(())
}

async fn save(session: &LeaseSession, shared: &Shared) -> Result<(), LeaseError> {
    let mut saved = shared.saved.lock().await;
    let checkpoint = shared.state().checkpoint.clone();
    if checkpoint == *saved {
        return Ok(());
    }
    if !with_timeout("writing the checkpoint", session.save(&checkpoint)).await? {
        return Err(LeaseError::TakenOver);
    }
    *saved = checkpoint;
    Ok(())
}

pub(super) async fn with_timeout<T>(
    doing: &'static str,
    query: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, LeaseError> {
    match timeout(QUERY_TIMEOUT, query).await {
        Ok(answer) => answer.map_err(|source| LeaseError::Query { doing, source }),
        Err(_) => Err(LeaseError::Silent { doing }),
    }
}

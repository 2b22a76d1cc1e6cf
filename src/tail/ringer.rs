//! Rings for the other readers: notifies them of new events, from a connection of its own.
//!
//! Several readers may follow one log, but writers notify only while the *keeper* sleeps: the one reader that
//! holds the bell (see [`doorbell`]). While the keeper is awake, it rings for the others. A notification may
//! have to wait at its commit for the notification of any other session in any database of the cluster.
//! Delivery must not wait for that, hence the connection of its own.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI32, Ordering},
    },
    time::Duration,
};

use tokio::{spawn, sync::Notify, time::sleep};
use tokio_util::task::AbortOnDropHandle;
use tracing::debug;

use crate::{
    crash::vital,
    store::{doorbell, error::ErrorChain, server::Server},
};

/// Sends notifications, one at a time. Any number of requests during one are merged into one more.
#[derive(Debug)]
pub(super) struct Ringer {
    server: Server,
    /// The process id of the ringing session, whose notifications the listening connection ignores.
    own: Arc<AtomicI32>,
    due: Arc<Notify>,
    /// The task that rings. It is started, and connects, with the first ring: a gateway without other
    /// readers beside it never does.
    task: Option<AbortOnDropHandle<()>>,
}

/// The pause after a failure.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

impl Ringer {
    pub(super) fn new(server: Server, own: Arc<AtomicI32>) -> Self {
        Self { server, own, due: Arc::default(), task: None }
    }

    /// Requests a notification, and does not wait for it.
    pub(super) fn ring(&mut self) {
        self.due.notify_one();
        self.task.get_or_insert_with(|| {
            let (server, own) = (self.server.clone(), Arc::clone(&self.own));
            let ringing = keep_ringing(server, own, Arc::clone(&self.due));
            AbortOnDropHandle::new(spawn(vital(
                "nothing wakes the other readers any more",
                ringing,
            )))
        });
    }
}

async fn keep_ringing(server: Server, own: Arc<AtomicI32>, due: Arc<Notify>) {
    loop {
        let Err(error) = ring_when_due(&server, &own, &due).await;
        debug!(error = %ErrorChain(&error), "cannot wake the other readers");
        sleep(RETRY_PAUSE).await;
        due.notify_one();
    }
}

async fn ring_when_due(
    server: &Server,
    own: &AtomicI32,
    due: &Notify,
) -> Result<std::convert::Infallible, tokio_postgres::Error> {
    let (client, connection) = server.connect().await?;
    let _connection = AbortOnDropHandle::new(spawn(connection));
    own.store(doorbell::prepare_to_ring(&client).await?, Ordering::Relaxed);
    loop {
        due.notified().await;
        doorbell::ring(&client).await?;
    }
}

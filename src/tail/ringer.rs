//! Wakes the other readers, from a connection of its own.
//!
//! A notification may have to wait at its commit for another one, of anybody in any database of the
//! cluster. Delivery does not wait with it.

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
    store::{doorbell, error::Chain, server::Server},
};

/// One notification is under way at most; all that is asked for meanwhile is one more.
#[derive(Debug)]
pub(super) struct Ringer {
    server: Server,
    /// Where the listening connection looks for whom not to hear.
    own: Arc<AtomicI32>,
    due: Arc<Notify>,
    /// It opens its connection when it has to ring: a gateway that is alone never does.
    task: Option<AbortOnDropHandle<()>>,
}

/// Between attempts.
const PAUSE: Duration = Duration::from_millis(500);

impl Ringer {
    pub(super) fn new(server: Server, own: Arc<AtomicI32>) -> Self {
        Self { server, own, due: Arc::default(), task: None }
    }

    /// Rings soon.
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
        debug!(error = %Chain(&error), "cannot wake the other readers");
        sleep(PAUSE).await;
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

//! The one connection that listens: it hears the bell, and it reads the tail of the log.

use std::{
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicI32, Ordering},
    },
};

use tokio::{sync::mpsc, task::JoinHandle};
use tokio_postgres::{AsyncMessage, Client};
use tracing::debug;

use crate::{
    doorbell::{CHANNEL, LOCKS, READER},
    server::Server,
    session::{self, Purpose},
};

/// An open listening connection. Dropping it closes the connection.
#[derive(Debug)]
pub struct Listener {
    client: Client,
    bell: mpsc::Receiver<()>,
    /// The session's process id, once that is known.
    own: Arc<AtomicI32>,
    /// The process id of the session that rings on behalf of this one.
    ringer: Arc<AtomicI32>,
    connection: JoinHandle<()>,
}

/// Settings of this session alone: its notifications need no flush, and the queries on the tail are too
/// short for parallel workers to pay.
const SETTINGS: &str = "set synchronous_commit = off; set max_parallel_workers_per_gather = 0";

impl Listener {
    /// Connects. Nothing is heard before it is [introduced](Self::introduce).
    pub async fn connect(server: &Server) -> Result<Self, tokio_postgres::Error> {
        let (client, mut connection) = server.connect().await?;
        let (ring, bell) = mpsc::channel(1);
        let own = Arc::new(AtomicI32::new(0));
        let ringer = Arc::new(AtomicI32::new(0));
        let ours = [Arc::clone(&own), Arc::clone(&ringer)];
        let connection = tokio::spawn(async move {
            while let Some(message) = poll_fn(|cx| connection.poll_message(cx)).await {
                match message {
                    Ok(AsyncMessage::Notification(heard)) => {
                        let by = heard.process_id();
                        if !ours.iter().any(|our| by == our.load(Ordering::Relaxed)) {
                            let _ = ring.try_send(());
                        }
                    }
                    Ok(AsyncMessage::Notice(notice)) => debug!(%notice, "PostgreSQL says"),
                    Ok(_) => {}
                    Err(error) => {
                        debug!(%error, "the listening connection has ended");
                        break;
                    }
                }
            }
        });
        Ok(Self { client, bell, own, ringer, connection })
    }

    /// Sets the session up, says to the other readers that it is there, and listens, all in one
    /// round trip. Notes its process id: notifications of its own wake nobody.
    ///
    /// # Errors
    /// A standby refuses LISTEN, so the server is a primary when this succeeds.
    pub async fn introduce(&self) -> Result<(), tokio_postgres::Error> {
        let settings = session::settings(Purpose::Read);
        let hello = format!(
            "{settings} {SETTINGS}; select pg_advisory_lock_shared({LOCKS}, {READER}); \
             listen {CHANNEL}; {}",
            session::HELLO
        );
        let settled = session::settled(&self.client.simple_query(&hello).await?);
        self.own.store(settled.pid, Ordering::Relaxed);
        Ok(())
    }

    /// Where to note the process id of a session whose notifications are not to be heard here.
    #[must_use]
    pub fn ringer(&self) -> Arc<AtomicI32> {
        Arc::clone(&self.ringer)
    }

    /// The connection, for queries.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Waits for the bell; `false` when the connection has ended.
    pub async fn heard(&mut self) -> bool {
        self.bell.recv().await.is_some()
    }

    /// Forgets what was heard so far: who looks now need not be woken for it. Answers whether
    /// anything was heard.
    pub fn forget(&mut self) -> bool {
        let mut heard = false;
        while self.bell.try_recv().is_ok() {
            heard = true;
        }
        heard
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

//! The one listening connection of a reader: it receives the rings of the doorbell, and reads the tail of the
//! log.

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
    /// The process id of this session's backend, once it is known.
    own: Arc<AtomicI32>,
    /// The process id of the session that rings for this reader.
    ringer: Arc<AtomicI32>,
    connection: JoinHandle<()>,
}

/// Settings of this session only. Its notifications need no flush, and the queries on the tail are too short
/// for parallel workers to pay.
const SESSION_SETTINGS: &str =
    "set synchronous_commit = off; set max_parallel_workers_per_gather = 0";

impl Listener {
    /// Connects. No ring is received before the connection is [introduced](Self::introduce).
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
                    Ok(AsyncMessage::Notice(notice)) => debug!(%notice, "notice from PostgreSQL"),
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

    /// Sets up the session, registers it as a reader, and listens, in one round trip. Also records its
    /// process id, so that its own notifications are ignored.
    ///
    /// # Errors
    /// A standby refuses LISTEN. So if this succeeds, the server is a primary.
    pub async fn introduce(&self) -> Result<(), tokio_postgres::Error> {
        let settings = session::settings(Purpose::Read);
        let hello = format!(
            "{settings} {SESSION_SETTINGS}; select pg_advisory_lock_shared({LOCKS}, {READER}); \
             listen {CHANNEL}; {}",
            session::HELLO
        );
        let settled = session::settled(&self.client.simple_query(&hello).await?);
        self.own.store(settled.pid, Ordering::Relaxed);
        Ok(())
    }

    /// Where to store the process id of another session whose notifications are to be ignored.
    #[must_use]
    pub fn ringer(&self) -> Arc<AtomicI32> {
        Arc::clone(&self.ringer)
    }

    /// The connection, for queries.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Waits for a ring. Returns `false` if the connection has ended.
    ///
    /// # Cancel safety
    /// No ring is lost if the future is dropped.
    pub async fn heard(&mut self) -> bool {
        self.bell.recv().await.is_some()
    }

    /// Discards the rings so far, since the log is about to be read. Returns whether there were any.
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

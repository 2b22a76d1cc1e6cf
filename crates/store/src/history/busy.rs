//! A connection while it is asked something, and what becomes of a query that nobody waits for any more.

use std::{
    fmt::{self, Debug, Formatter},
    time::Duration,
};

use deadpool_postgres::Object;
use tokio::{runtime::Handle, time::timeout};
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{server::Server, turns::Turn};

/// An answer that nobody waits for has so long to come by itself. Then the query is cancelled. The turn is
/// its caller's until then; to cancel costs the server a new process for the request and another one for
/// the connection that takes the place of this one, which is more than most pages cost.
const CANCEL_AFTER: Duration = Duration::from_secs(1);

/// A server that does not end a query by then is left alone.
const END_WITHIN: Duration = Duration::from_secs(10);

/// Sends the server requests to cancel.
#[derive(Clone)]
pub(super) struct Canceller {
    tls: MakeRustlsConnect,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

impl Debug for Canceller {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("Canceller")
    }
}

impl Canceller {
    /// For queries on connections to this server; the requests are sent by tasks of this tracker, until
    /// `shutdown`.
    pub(super) fn new(server: &Server, tasks: &TaskTracker, shutdown: &CancellationToken) -> Self {
        let (tls, tasks, shutdown) = (server.tls().clone(), tasks.clone(), shutdown.clone());
        Self { tls, tasks, shutdown }
    }
}

/// A connection at work, and the turn at it. Where nobody waits for the answer any more, both are kept
/// until PostgreSQL has ended the query: callers that ask and leave would have more than their turns.
pub(super) struct Busy {
    at_work: Option<(Object, Turn)>,
    canceller: Option<Canceller>,
}

impl Busy {
    pub(super) fn new(client: Object, turn: Turn, canceller: Option<Canceller>) -> Self {
        Self { at_work: Some((client, turn)), canceller }
    }

    pub(super) fn client(&self) -> &Object {
        let (client, _) = self.at_work.as_ref().expect("it is taken at the end only");
        client
    }

    /// After an answer: another one may use the connection.
    pub(super) fn give_back(mut self) {
        self.at_work = None;
    }

    /// After an error of the connection.
    pub(super) fn close(mut self) {
        self.at_work.take().into_iter().for_each(close);
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let (Some(at_work), canceller) = (self.at_work.take(), self.canceller.take()) else {
            return;
        };
        let ending = end(at_work, canceller.as_ref().map(|it| it.tls.clone()));
        match (canceller, Handle::try_current()) {
            // At the shutdown nobody waits for a server that does not answer.
            (Some(Canceller { tasks, shutdown, .. }), Ok(_)) => {
                drop(tasks.spawn(shutdown.run_until_cancelled_owned(ending)));
            }
            (None, Ok(runtime)) => drop(runtime.spawn(ending)),
            // Without a runtime nothing can be awaited: the connection ends with the future.
            (_, Err(_)) => drop(ending),
        }
    }
}

/// Waits until the query has ended, and cancels it where that takes long. A request to cancel may reach the
/// server late, so the connection is not used again behind one.
async fn end((client, turn): (Object, Turn), tls: Option<MakeRustlsConnect>) {
    // It is answered behind what was asked before.
    let mut answered = Box::pin(client.batch_execute(""));
    match timeout(CANCEL_AFTER, &mut answered).await {
        Ok(Ok(())) => return drop((answered, turn)),
        Ok(Err(_)) => {}
        Err(_) => {
            if let Some(tls) = tls {
                let _ = timeout(END_WITHIN, client.cancel_token().cancel_query(tls)).await;
            }
            let _ = timeout(END_WITHIN, &mut answered).await;
        }
    }
    drop(answered);
    close((client, turn));
}

fn close((client, turn): (Object, Turn)) {
    drop(Object::take(client));
    drop(turn);
}

//! A connection that runs a query, and what happens to a query whose caller has gone.

use std::{
    fmt::{self, Debug, Formatter},
    time::Duration,
};

use deadpool_postgres::Object;
use tokio::{runtime::Handle, time::timeout};
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{server::Server, turns::Turn};

/// A query whose caller has gone has this much time to finish. Then it is cancelled. Its caller keeps the
/// turn until then. Cancelling costs the server a new process for the request, and another one for the
/// connection that replaces this one, which is more than most pages cost.
const CANCEL_AFTER: Duration = Duration::from_secs(1);

/// A query that has not ended by then is abandoned.
const ABANDON_AFTER: Duration = Duration::from_secs(10);

/// Sends cancel requests to the server.
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
    /// Cancels queries on connections to this server. Tasks of this tracker send the requests, until
    /// `shutdown`.
    pub(super) fn new(server: &Server, tasks: &TaskTracker, shutdown: &CancellationToken) -> Self {
        let (tls, tasks, shutdown) = (server.tls().clone(), tasks.clone(), shutdown.clone());
        Self { tls, tasks, shutdown }
    }
}

/// A connection that runs a query, and its turn. If the caller goes, both are kept until PostgreSQL has ended
/// the query. Otherwise, callers that ask and go away would use more than their turns.
pub(super) struct ActiveQuery {
    at_work: Option<(Object, Turn)>,
    canceller: Option<Canceller>,
}

impl ActiveQuery {
    pub(super) fn new(client: Object, turn: Turn, canceller: Option<Canceller>) -> Self {
        Self { at_work: Some((client, turn)), canceller }
    }

    pub(super) fn client(&self) -> &Object {
        let (client, _) = self.at_work.as_ref().expect("it is taken only at the end");
        client
    }

    /// Ends the use after an answer: the connection may be used again.
    pub(super) fn give_back(mut self) {
        self.at_work = None;
    }

    /// Ends the use after an error of the connection.
    pub(super) fn close(mut self) {
        self.at_work.take().into_iter().for_each(close);
    }
}

impl Drop for ActiveQuery {
    fn drop(&mut self) {
        let (Some(at_work), canceller) = (self.at_work.take(), self.canceller.take()) else {
            return;
        };
        let ending = end(at_work, canceller.as_ref().map(|it| it.tls.clone()));
        match (canceller, Handle::try_current()) {
            // At shutdown, a server that does not answer is not waited for.
            (Some(Canceller { tasks, shutdown, .. }), Ok(_)) => {
                drop(tasks.spawn(shutdown.run_until_cancelled_owned(ending)));
            }
            (None, Ok(runtime)) => drop(runtime.spawn(ending)),
            // Without a runtime nothing can be awaited: dropping the future closes the connection.
            (_, Err(_)) => drop(ending),
        }
    }
}

/// Waits until the query has ended, and cancels it if that takes long. A cancel request may reach the server
/// late, so the connection is not used again after one.
async fn end((client, turn): (Object, Turn), tls: Option<MakeRustlsConnect>) {
    // The empty statement is answered after the query.
    let mut answered = Box::pin(client.batch_execute(""));
    match timeout(CANCEL_AFTER, &mut answered).await {
        Ok(Ok(())) => return drop((answered, turn)),
        Ok(Err(_)) => {}
        Err(_) => {
            if let Some(tls) = tls {
                let _ = timeout(ABANDON_AFTER, client.cancel_token().cancel_query(tls)).await;
            }
            let _ = timeout(ABANDON_AFTER, &mut answered).await;
        }
    }
    drop(answered);
    close((client, turn));
}

fn close((client, turn): (Object, Turn)) {
    drop(Object::take(client));
    drop(turn);
}

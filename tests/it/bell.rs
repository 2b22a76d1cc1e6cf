//! A notification of a stranger's that hangs in its commit stops neither clients nor writers.

use std::time::Duration;

use tokio::time::timeout;

use crate::support::{
    app::App,
    eventually,
    postgres::{Database, TestServer},
};

const INSERT: &str = "insert into events (type, subscriber, payload) values ('t', 'toto', '1')";

/// Whoever waits for a standby that is not there waits with the lock that every notification needs.
const SETTINGS: &str = "synchronous_standby_names = 'nobody'\nsynchronous_commit = local\n";

#[tokio::test]
async fn a_notification_that_hangs_stops_neither_clients_nor_writers() {
    let server = TestServer::start_own(SETTINGS).await;
    let database = Database::create_on_own(&server).await;
    let (one, other) = (App::start(&database.url()).await, App::start(&database.url()).await);
    let mut streams =
        [one.follow("toto").await.joined().await, other.follow("toto").await.joined().await];
    let (stranger, witness) = (database.connect().await, database.connect().await);
    let hanging = tokio::spawn(async move {
        // Only who has written something waits for the standby.
        stranger.batch_execute("set synchronous_commit = on").await?;
        stranger.batch_execute("create table elsewhere (); notify elsewhere").await
    });
    let hangs = "select exists (select from pg_stat_activity where wait_event = 'SyncRep')";
    let hangs = async || witness.query_one(hangs, &[]).await.ok()?.get::<_, bool>(0).then_some(());
    eventually("the notification hangs", hangs).await;
    let writes = async || {
        // Who rang before the bell was given back waits with the stranger.
        let writer = database.connect().await;
        timeout(Duration::from_secs(2), writer.batch_execute(INSERT)).await.ok()?.ok()
    };
    eventually("a writer is not held up", writes).await;
    for stream in &mut streams {
        stream.event().await;
    }
    assert!(!hanging.is_finished(), "it hangs all the while");
    hanging.abort();
}

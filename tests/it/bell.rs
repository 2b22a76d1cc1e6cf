//! A foreign notification that hangs in its commit stops neither clients nor writers.

use std::time::Duration;

use event_piper::order::Hold;
use tokio::time::timeout;

use crate::{
    support::{
        app::{App, Settings},
        eventually,
        postgres::{Database, TestServer},
    },
    wakeups::Witness,
};

const INSERT: &str = "insert into events (type, subscriber, payload) values ('t', 'toto', '1')";

/// A session that waits for a missing standby waits with the lock that every notification needs.
const SETTINGS: &str = "synchronous_standby_names = 'nobody'\nsynchronous_commit = local\n";

#[tokio::test]
async fn a_hanging_notification_stops_no_client_or_writer() {
    let server = TestServer::start_own(SETTINGS).await;
    let database = Database::create_on_own(&server).await;
    let (one, other) = (App::start(&database.url()).await, App::start(&database.url()).await);
    let mut streams =
        [one.follow("toto").await.joined().await, other.follow("toto").await.joined().await];
    let (stranger, witness) = (database.connect().await, database.connect().await);
    let hanging = tokio::spawn(async move {
        // Only a session that has written something waits for the standby.
        stranger.batch_execute("set synchronous_commit = on").await?;
        stranger.batch_execute("create table elsewhere (); notify elsewhere").await
    });
    let hangs = "select exists (select from pg_stat_activity where wait_event = 'SyncRep')";
    let hangs = async || witness.query_one(hangs, &[]).await.ok()?.get::<_, bool>(0).then_some(());
    eventually("the notification hangs", hangs).await;
    let writes = async || {
        // A writer that rang before the bell was given back waits with the foreign session.
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

/// The keeper waits for transactions that other readers have passed over. When one ends, its rows are new to
/// them, and only the keeper can announce them.
#[tokio::test]
async fn the_keeper_announces_transactions_that_it_waited_for() {
    let database = Database::create().await;
    let mut settings = Settings::default();
    settings.gateway.log.hold = Hold::Unlimited;
    let keeper = App::start_with(&database.url(), settings).await;
    let other = App::start(&database.url()).await;
    let mut its = keeper.follow("toto").await.joined().await;
    let mut others = other.follow("toto").await.joined().await;
    let witness = Witness::of(&database).await;
    let rung = async |times: u64| {
        let rung = async || (witness.heard().await == times).then_some(());
        eventually("the keeper rings", rung).await;
    };
    // None of the notifications comes from a writer.
    let insert = format!("set event_piper.bell = 'off'; begin; {INSERT}");
    let (one, two, three) =
        (database.connect().await, database.connect().await, database.connect().await);
    for writer in [&one, &two, &three] {
        writer.batch_execute(&insert).await.unwrap();
    }
    three.batch_execute("commit").await.unwrap();
    assert_eq!(others.rows(1).await, [3], "the other passes over what the keeper waits for");
    rung(1).await;
    two.batch_execute("commit").await.unwrap();
    rung(2).await;
    assert_eq!(others.rows(1).await, [2]);
    one.batch_execute("commit").await.unwrap();
    rung(3).await;
    assert_eq!((its.rows(3).await, others.rows(1).await), (vec![1, 2, 3], vec![1]));
}

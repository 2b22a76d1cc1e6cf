//! Gateways with many open transactions, and with large ones.

use std::{collections::BTreeSet, time::Duration};

use event_piper::order::Late;
use tokio_postgres::Client;

use crate::support::{
    app::{App, Settings},
    eventually,
    postgres::Database,
    sse_client::Stream,
};

const INSERT: &str = "insert into events (type, subscriber, payload) values ('t', 'toto', '1')";

/// This many transactions that have each written one event and stay open.
async fn open_transactions(database: &Database, count: usize) -> Vec<Client> {
    let mut open = Vec::new();
    for _ in 0..count {
        let client = database.connect().await;
        client.batch_execute(&format!("begin; {INSERT}")).await.unwrap();
        open.push(client);
    }
    open
}

/// With more open transactions than can be late, the gateway waits, and asks PostgreSQL less and less often.
#[tokio::test]
async fn a_lasting_hole_is_polled_less_and_less_often() {
    /// An awake reader polls a thousand times a second, with several queries each.
    const MAX_TRANSACTIONS: i64 = 60;
    let database = Database::create().await;
    let app = App::start(&database.url()).await;
    let mut toto = app.follow("toto").await.joined().await;
    let open = open_transactions(&database, Late::MAX + 1).await;
    let witness = database.connect().await;
    witness.batch_execute(INSERT).await.unwrap();
    let held = async || (app.metric("holds_total").await > 0).then_some(());
    eventually("delivery is held", held).await;
    // Wait until the pauses have grown, and until what was counted before is reported.
    let seldom = async || {
        let before = transactions(&witness).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        (transactions(&witness).await - before <= MAX_TRANSACTIONS).then_some(())
    };
    eventually("PostgreSQL is asked seldom", seldom).await;
    drop(open);
    assert_eq!(toto.rows(1).await, [18]);
}

/// The number of transactions that have ended in this database. Each query of a gateway is one.
async fn transactions(client: &Client) -> i64 {
    let sql = "select xact_commit + xact_rollback from pg_stat_database
               where datname = current_database()";
    client.query_one(sql, &[]).await.unwrap().get(0)
}

/// Clients of history before the open transactions need not wait for them.
#[tokio::test]
async fn starts_beside_many_open_transactions_and_serves_history() {
    let database = Database::create().await;
    let writer = database.connect().await;
    writer.batch_execute(&format!("{INSERT}; {INSERT}")).await.unwrap();
    let open = open_transactions(&database, Late::MAX + 1).await;
    writer.batch_execute(INSERT).await.unwrap();
    let app = App::start(&database.url()).await;
    let mut toto = app.resume("toto", "0").await;
    assert_eq!(toto.rows(3).await, [1, 2, 20]);
    for transaction in &open {
        transaction.batch_execute("commit").await.unwrap();
    }
    let late: BTreeSet<i64> = toto.rows(17).await.into_iter().collect();
    assert!(late.into_iter().eq(3..=19), "each of them once");
}

/// There are more open transactions than a gateway starts with: the reason says so, with their number.
#[tokio::test]
async fn reports_how_many_transactions_its_start_waits_for() {
    let database = Database::create().await;
    let mut open = open_transactions(&database, Late::MAX_AT_START + 1).await;
    let app = App::launch(&database.url(), Settings::default()).await;
    let expected = format!("waiting for {} open transactions", open.len());
    let reason = async || app.gateway.ready().err().filter(|why| why.contains(&expected));
    eventually("the reason is true", reason).await;
    drop(open.pop());
    app.ready().await;
}

/// Each row of the transaction is delivered once, in order, and another consumer gets events that are written
/// in the meantime.
#[tokio::test]
async fn a_late_bulk_insert_delays_no_other_event() {
    const ROWS: i64 = 20_000;
    let database = Database::create().await;
    let app = App::start(&database.url()).await;
    let mut toto = app.follow("toto").await.joined().await;
    let mut titi = app.follow("titi").await.joined().await;
    let (bulk, writer) = (database.connect().await, database.connect().await);
    bulk.batch_execute(&format!(
        "begin; insert into events (type, subscriber, payload)
         select 't', 'toto', '1' from generate_series(1, {ROWS})"
    ))
    .await
    .unwrap();
    let titis = "insert into events (type, subscriber, payload) values ('t', 'titi', '1')";
    writer.batch_execute(titis).await.unwrap();
    assert_eq!(titi.rows(1).await, [ROWS + 1]);
    bulk.batch_execute("commit").await.unwrap();
    writer.batch_execute(titis).await.unwrap();
    assert_eq!(titi.rows(1).await, [ROWS + 2]);
    let came = toto.rows(usize::try_from(ROWS).unwrap()).await;
    assert!(came.into_iter().eq(1..=ROWS), "each row once, in order");
}

/// A client without a cursor gets the transaction's events, and no event that was visible before.
#[tokio::test]
async fn following_all_from_now_on_gets_no_history() {
    let database = Database::create().await;
    let writer = database.connect().await;
    writer.batch_execute(&format!("{INSERT}; {INSERT}")).await.unwrap();
    let open = open_transactions(&database, 1).await;
    writer.batch_execute(INSERT).await.unwrap();
    let app = App::start(&database.url()).await;
    let mut all = Stream::open(app.address, "/all", &[]).await;
    let here = all.signal("$caught-up").await.id.unwrap();
    assert!(here.starts_with("4~"), "{here} says that a transaction is late");
    let resume = format!("/all?lastEventId={here}");
    let mut resumed = Stream::open(app.address, &resume, &[]).await;
    writer.batch_execute(INSERT).await.unwrap();
    open[0].batch_execute(&format!("{INSERT}; commit")).await.unwrap();
    writer.batch_execute(INSERT).await.unwrap();
    assert_eq!(all.rows(4).await, [3, 5, 6, 7]);
    assert_eq!(resumed.rows(4).await, [3, 5, 6, 7], "what was greeted with is enough to resume");
    let mut later = Stream::open(app.address, &resume, &[]).await;
    assert_eq!(later.rows(4).await, [3, 5, 6, 7], "after the transaction has ended, too");
}

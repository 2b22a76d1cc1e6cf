//! PostgreSQL's primary dies, and its standby is promoted: with synchronous replication nothing
//! that was delivered is undone, and nothing is lost or comes twice on the other side.

use std::net::{Ipv4Addr, SocketAddr};

use crate::support::{
    chaos_proxy::ChaosProxy,
    postgres::{Database, Stop, TestServer, connect, try_connect},
    process::Process,
    sse_client::Stream,
};

const INSERT: &str = "insert into events (type, subscriber, payload) values ('t', 'toto', '1')";

/// Where a server is, for a proxy.
fn place(server: &TestServer) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, server.port()).into()
}

async fn rows(server: &TestServer, database: &Database) -> Vec<i64> {
    let client = connect(&server.url(database.name())).await;
    let rows = client.query("select id from events order by id", &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_takes_over_and_streams_go_on() {
    let primary = TestServer::start_own("synchronous_commit = on\n").await;
    let database = Database::create_on_own(&primary).await;
    let standby = primary.standby().await;
    let proxy = ChaosProxy::start(place(&primary)).await;
    let url =
        format!("postgresql://postgres@127.0.0.1:{}/{}", proxy.address().port(), database.name());
    let gateway = Process::launch(&url, &["--heartbeat", "400ms"]);
    gateway.ready().await;
    let toto = [("X-Consumer-Id", "toto")];
    let mut steady = Stream::open(gateway.address(), "/events", &toto).await.joined().await;

    // One writer commits until the primary is gone; another is open then, and was passed over.
    let late = database.connect().await;
    late.batch_execute("begin").await.unwrap();
    late.batch_execute(INSERT).await.unwrap();
    let url = database.url();
    let writing = tokio::spawn(async move {
        let writer = connect(&url).await;
        while writer.batch_execute(INSERT).await.is_ok() {}
    });
    let before = steady.rows(100).await;
    let cursor = steady.last_id.clone();
    assert!(cursor.contains('~'), "{cursor} does not name the open transaction");
    primary.stop(Stop::Kill).await;
    writing.await.unwrap();
    standby.promote().await;
    proxy.lead_to(place(&standby));
    gateway.ready().await;

    let writer = connect(&standby.url(database.name())).await;
    for _ in 0..50 {
        writer.batch_execute(INSERT).await.unwrap();
    }
    let truth = rows(&standby, &database).await;
    let owed = truth.len() - before.len();
    let after = steady.rows(owed).await;
    assert_eq!([before, after].concat(), truth, "who stayed connected");

    let headers = [toto[0], ("Last-Event-ID", cursor.as_str())];
    let mut back = Stream::open(gateway.address(), "/events", &headers).await;
    assert_eq!(back.rows(owed).await, truth[truth.len() - owed..], "who comes back");
    writer.batch_execute(INSERT).await.unwrap();
    let last = *rows(&standby, &database).await.last().unwrap();
    assert_eq!(steady.rows(1).await, [last]);
    assert_eq!(back.rows(1).await, [last]);
    assert!(try_connect(&database.url()).await.is_err(), "the primary stays down");
}

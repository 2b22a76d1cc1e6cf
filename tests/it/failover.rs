//! The primary PostgreSQL fails, and its standby is promoted. With synchronous replication, no delivered
//! event is undone, and none is lost or repeated afterwards.

use std::net::{Ipv4Addr, SocketAddr};

use crate::support::{
    app::{App, Settings},
    chaos_proxy::ChaosProxy,
    eventually,
    postgres::{Database, Stop, TestServer, connect, try_connect},
    process::Process,
    sse_client::Stream,
};

const INSERT: &str = "insert into events (type, subscriber, payload) values ('t', 'toto', '1')";

/// The address of a server, for a proxy.
fn place(server: &TestServer) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, server.port()).into()
}

async fn rows(server: &TestServer, database: &Database) -> Vec<i64> {
    let client = connect(&server.url(database.name())).await;
    let rows = client.query("select id from events order by id", &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_continue_after_a_failover() {
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

    // One writer commits until the primary fails. Another writer's transaction is open, and the gateway has
    // passed over it.
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
    assert_eq!([before, after].concat(), truth, "a client that stayed connected");

    let headers = [toto[0], ("Last-Event-ID", cursor.as_str())];
    let mut back = Stream::open(gateway.address(), "/events", &headers).await;
    assert_eq!(back.rows(owed).await, truth[truth.len() - owed..], "a client that reconnects");
    writer.batch_execute(INSERT).await.unwrap();
    let last = *rows(&standby, &database).await.last().unwrap();
    assert_eq!(steady.rows(1).await, [last]);
    assert_eq!(back.rows(1).await, [last]);
    assert!(try_connect(&database.url()).await.is_err(), "the primary stays down");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lagging_standby_serves_no_replay() {
    let primary = TestServer::start_own("synchronous_commit = on\n").await;
    let database = Database::create_on_own(&primary).await;
    let standby = primary.standby().await;
    let url = format!(
        "postgresql://postgres@127.0.0.1:{},127.0.0.1:{}/{}",
        primary.port(),
        standby.port(),
        database.name()
    );
    // Without recent events in memory, so that each replay reads the table.
    let mut settings = Settings::default();
    settings.gateway.recent = 0;
    let app = App::start_with(&url, settings).await;
    let mut live = app.follow("toto").await.joined().await;
    let writer = database.connect().await;
    for _ in 0..3 {
        writer.batch_execute(INSERT).await.unwrap();
    }
    let on_standby = connect(&standby.url(database.name())).await;
    eventually("the standby has the first events", async || {
        let rows = on_standby.query("select id from events", &[]).await.unwrap();
        (rows.len() == 3).then_some(())
    })
    .await;
    let behind = "alter system set recovery_min_apply_delay = '1h'";
    on_standby.batch_execute(behind).await.unwrap();
    on_standby.batch_execute("select pg_reload_conf()").await.unwrap();
    eventually("the standby waits from now on", async || {
        let row = on_standby.query_one("show recovery_min_apply_delay", &[]).await.unwrap();
        (row.get::<_, &str>(0) == "1h").then_some(())
    })
    .await;
    for _ in 0..3 {
        writer.batch_execute(INSERT).await.unwrap();
    }
    let truth = rows(&primary, &database).await;
    assert_eq!(live.rows(6).await, truth);

    // All connections end. While the primary is down, only the standby accepts connections.
    primary.stop(Stop::Fast).await;
    let mut back = app.resume("toto", "0").await.joined().await;
    let single = app.get("/events/6", &[("X-Consumer-Id", "toto")]).await;
    assert_eq!(single.status, 503, "the standby does not know: {single:?}");
    primary.start().await;
    assert_eq!(back.rows(6).await, truth, "a client that reconnects in between");
    app.ready().await;
    assert_eq!(
        app.resume("toto", "0").await.rows(6).await,
        truth,
        "a client that connects afterwards"
    );
    assert_eq!(app.get("/events/6", &[("X-Consumer-Id", "toto")]).await.status, 200);
}

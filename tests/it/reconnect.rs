//! PostgreSQL becomes unavailable, and is available again.

use crate::support::{
    app::{App, Settings},
    eventually,
    postgres::{Database, Stop, TestServer},
};

const INSERT: &str = "insert into events (type, subscriber, payload) values ('t', 'toto', '1')";

#[tokio::test]
async fn a_restart_of_postgresql_loses_no_event() {
    let server = TestServer::start_own("").await;
    let database = Database::create_on_own(&server).await;
    let app = App::start(&database.tcp_url()).await;
    let mut toto = app.follow("toto").await.joined().await;
    let mut ids = 0..;
    for how in [Stop::Fast, Stop::Immediate, Stop::Kill] {
        database.connect().await.batch_execute(INSERT).await.unwrap();
        server.restart(how).await;
        database.connect().await.batch_execute(INSERT).await.unwrap();
        app.ready().await;
        let rows = toto.rows(2).await;
        assert!(rows.is_sorted() && rows[0] >= ids.next().unwrap(), "{rows:?}");
        ids = *rows.last().unwrap()..;
    }
    let mut again = app.resume("toto", "0").await;
    assert_eq!(again.rows(6).await.len(), 6);
}

#[tokio::test]
async fn a_reconnected_listener_delivers_what_it_missed() {
    let database = Database::create().await;
    let app = App::start(&database.url()).await;
    let mut toto = app.follow("toto").await.joined().await;
    let writer = database.connect().await;
    for round in 0..5 {
        let cut = "select count(pg_terminate_backend(pid)) from pg_stat_activity
                   where datname = current_database() and application_name = 'event-piper listener'";
        let cut = writer.query_one(cut, &[]).await.unwrap().get::<_, i64>(0);
        assert!(round > 0 || cut == 1, "the listener has its own connection");
        writer.batch_execute(INSERT).await.unwrap();
        assert_eq!(toto.rows(1).await, [round + 1]);
    }
    assert!(app.metric("listener_reconnects_total").await >= 1);
}

#[tokio::test]
async fn a_gateway_waits_for_postgresql_at_startup() {
    let server = TestServer::start_own("").await;
    let database = Database::create_on_own(&server).await;
    let url = database.tcp_url();
    server.stop(Stop::Fast).await;
    let app = App::launch(&url, Settings::default()).await;
    let mut toto = app.resume("toto", "0").await;
    assert!(app.gateway.ready().is_err());
    server.start().await;
    app.ready().await;
    eventually("a writer can connect", async || {
        database.connect().await.batch_execute(INSERT).await.ok()
    })
    .await;
    assert_eq!(toto.rows(1).await, [1]);
}

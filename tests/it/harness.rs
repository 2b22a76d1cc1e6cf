//! The PostgreSQL servers for tests behave as the other tests expect.

use crate::support::{
    eventually,
    postgres::{Database, Stop, TestServer, connect},
};

#[tokio::test]
async fn databases_on_the_shared_server_are_independent() {
    let (one, two) = (Database::create().await, Database::create_empty().await);
    one.connect().await.batch_execute("create table secret ()").await.unwrap();
    let row = two.connect().await.query_one("select to_regclass('secret')::text", &[]).await;
    assert_eq!(row.unwrap().get::<_, Option<String>>(0), None);
    assert_ne!(one.name(), two.name());
}

#[tokio::test]
async fn a_database_is_reachable_over_tcp_too() {
    let database = Database::create_empty().await;
    let client = connect(&database.tcp_url()).await;
    let row = client.query_one("select current_database()::text", &[]).await.unwrap();
    assert_eq!(row.get::<_, String>(0), database.name());
}

#[tokio::test]
async fn an_own_server_restarts_on_its_port() {
    let server = TestServer::start_own("work_mem = '7MB'\n").await;
    let database = Database::create_on_own(&server).await;
    database.connect().await.batch_execute("create table kept ()").await.unwrap();
    let port = server.port();
    for how in [Stop::Fast, Stop::Immediate, Stop::Kill] {
        server.restart(how).await;
        let client = database.connect().await;
        let row = client.query_one("select to_regclass('kept')::text, current_setting('work_mem'), current_setting('port')", &[]);
        let row = row.await.unwrap();
        assert_eq!(row.get::<_, Option<String>>(0).as_deref(), Some("kept"), "{how:?}");
        assert_eq!(row.get::<_, String>(1), "7MB");
        assert_eq!(row.get::<_, String>(2), port.to_string());
    }
}

#[tokio::test]
async fn an_own_server_leaves_nothing_behind() {
    let server = TestServer::start_own("").await;
    server.write("note", "for the server only");
    let data = server.data();
    assert!(data.join("note").exists());
    drop(server);
    eventually("its folder is gone", async || (!data.exists()).then_some(())).await;
}

//! A log that logical replication writes to: rows arrive, are found, and are delivered.

use crate::support::{
    app::App,
    postgres::{Database, TestServer},
};

#[tokio::test]
async fn rows_of_logical_replication_are_delivered() {
    let server = TestServer::start_own("wal_level = logical\n").await;
    let there = Database::create_on_own(&server).await;
    let here = Database::create_on_own(&server).await;
    let (publisher, subscriber) = (there.connect().await, here.connect().await);
    let publish =
        "create publication log for table events (id, type, \"timestamp\", subscriber, payload,
        stream, version, uid, metadata, xid, amends)";
    // Before PostgreSQL 15 there are no column lists; the list has all columns anyway.
    if publisher.batch_execute(publish).await.is_err() {
        publisher.batch_execute("create publication log for table events").await.unwrap();
    }
    let app = App::start(&here.url()).await;
    let mut toto = app.follow("toto").await.joined().await;
    // Both databases are on one server, where creating the slot with the subscription would wait for itself.
    let slot = format!("slot_{}", here.name());
    let create = "select pg_create_logical_replication_slot($1, 'pgoutput')";
    publisher.execute(create, &[&slot]).await.unwrap();
    let subscribe = format!(
        "create subscription log connection '{}' publication log
         with (create_slot = false, slot_name = '{slot}', copy_data = false)",
        there.url()
    );
    subscriber.batch_execute(&subscribe).await.unwrap();

    let write = "insert into events (type, subscriber, payload) values ('t', 'toto', '{\"a\": 1}')";
    publisher.batch_execute(write).await.unwrap();
    assert_eq!(toto.rows(1).await, [1]);
    let more = "insert into events (type, subscriber, payload, amends) values ('t', 'toto', '{\"a\": 2}', 1);
        insert into events (type, stream, version, payload) values ('t', 's', 1, '1');
        insert into events (type, subscriber, payload) select 't', 'toto', to_jsonb(n) from generate_series(1, 7) n";
    publisher.batch_execute(more).await.unwrap();
    assert_eq!(toto.rows(8).await, [2, 4, 5, 6, 7, 8, 9, 10]);
    let shown = app.get("/events/1?consumer=toto&amended=true", &[]).await.json();
    assert_eq!(shown["payload"], serde_json::json!({"a": 2}));
    let foreign =
        "select count(*) from events where pg_xact_status(xid) is distinct from 'committed'";
    assert_eq!(subscriber.query_one(foreign, &[]).await.unwrap().get::<_, i64>(0), 0);
    let end = "alter subscription log disable; alter subscription log set (slot_name = none);
        drop subscription log";
    for statement in end.split(';') {
        subscriber.batch_execute(statement).await.unwrap();
    }
    app.stop().await;
}

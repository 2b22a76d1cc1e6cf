//! A PostgreSQL snapshot as a cursor: a client reads its state, and then the stream from exactly that state
//! on.

use std::collections::BTreeSet;

use serde_json::json;
use tokio_postgres::Client;

use crate::support::{
    app::{App, Settings},
    eventually,
    postgres::Database,
    sse_client::{Stream, ask},
};

const INSERT: &str = "insert into events (type, subscriber, payload) values ('t', 'toto', '1')";

/// Reads the state and its snapshot, as a client does.
async fn read_state(client: &Client) -> (BTreeSet<i64>, String) {
    client.batch_execute("begin isolation level repeatable read").await.unwrap();
    let rows = client.query("select id from events where subscriber = 'toto'", &[]).await.unwrap();
    let snapshot = client.query_one("select pg_current_snapshot()::text", &[]).await.unwrap();
    client.batch_execute("commit").await.unwrap();
    (rows.iter().map(|row| row.get(0)).collect(), snapshot.get(0))
}

async fn open_transaction(database: &Database) -> Client {
    let client = database.connect().await;
    client.batch_execute(&format!("begin; {INSERT}")).await.unwrap();
    client
}

#[tokio::test]
async fn state_and_stream_together_are_the_whole_table() {
    let database = Database::create().await;
    let app = App::start(&database.url()).await;
    let (writer, reader) = (database.connect().await, database.connect().await);
    writer.batch_execute(INSERT).await.unwrap();
    let early = open_transaction(&database).await; // 2
    let rolled_back = open_transaction(&database).await; // 3
    writer.batch_execute(INSERT).await.unwrap(); // 4
    let (state, snapshot) = read_state(&reader).await;
    assert_eq!(state, [1, 4].into());
    assert!(snapshot.split(':').next_back().unwrap().split(',').count() >= 2, "{snapshot}");

    let later = open_transaction(&database).await; // 5
    writer.batch_execute(INSERT).await.unwrap(); // 6
    early.batch_execute("commit").await.unwrap();
    rolled_back.batch_execute("rollback").await.unwrap();
    let mut toto = app.resume("toto", &snapshot).await;
    let mut got: BTreeSet<i64> = toto.rows(2).await.into_iter().collect();
    assert_eq!(got, [2, 6].into(), "no event of the state is repeated");
    later.batch_execute("commit").await.unwrap();
    got.extend(toto.rows(1).await);
    assert_eq!(got, [2, 5, 6].into());
    writer.batch_execute(INSERT).await.unwrap();
    assert_eq!(toto.event().await.id.as_deref(), Some("7"), "a plain cursor is sufficient by now");
}

#[tokio::test]
async fn a_snapshot_survives_reconnects_to_any_gateway() {
    let database = Database::create().await;
    let (here, there) = (App::start(&database.url()).await, App::start(&database.tcp_url()).await);
    let (writer, reader) = (database.connect().await, database.connect().await);
    let mut open = Vec::new();
    for _ in 0..4 {
        writer.batch_execute(INSERT).await.unwrap();
        open.push(open_transaction(&database).await);
    }
    let (state, snapshot) = read_state(&reader).await;
    writer.batch_execute(&format!("{INSERT}; {INSERT}")).await.unwrap();
    for transaction in open.drain(..2) {
        transaction.batch_execute("commit").await.unwrap();
    }
    let owed: BTreeSet<i64> = [2, 4, 6, 8, 9, 10].into();
    let (mut got, mut cursor) = (Vec::new(), snapshot);
    for turn in 0..6 {
        if turn == 4 {
            for transaction in open.drain(..) {
                transaction.batch_execute("commit").await.unwrap();
            }
        }
        let app = if turn % 2 == 0 { &here } else { &there };
        let mut toto = app.resume("toto", &cursor).await;
        got.extend(toto.rows(1).await);
        cursor = toto.last_id.clone();
    }
    let all: BTreeSet<i64> = got.iter().copied().collect();
    assert_eq!((got.len(), &all), (owed.len(), &owed), "each event once: {got:?}");
    assert!(state.is_disjoint(&all));
}

#[tokio::test]
async fn strict_order_begins_at_a_snapshot() {
    let database = Database::create().await;
    let app = App::start(&database.url()).await;
    let (writer, reader) = (database.connect().await, database.connect().await);
    writer.batch_execute(INSERT).await.unwrap();
    let early = open_transaction(&database).await; // 2
    writer.batch_execute(INSERT).await.unwrap(); // 3
    let (_, snapshot) = read_state(&reader).await;
    writer.batch_execute(&format!("{INSERT}; {INSERT}")).await.unwrap(); // 4, 5
    early.batch_execute("commit").await.unwrap();
    let (mut cursor, mut got) = (snapshot, Vec::new());
    for _ in 0..3 {
        let headers = [("Last-Event-ID", &*cursor)];
        let mut all = Stream::open(app.address, "/all", &headers).await;
        got.extend(all.rows(1).await);
        cursor = all.last_id.clone();
    }
    assert_eq!(got, [2, 4, 5], "each event once, in strict order");
    let headers = [("Last-Event-ID", &*cursor)];
    let mut all = Stream::open(app.address, "/all", &headers).await;
    writer.batch_execute(INSERT).await.unwrap();
    assert_eq!(all.rows(1).await, [6]);
    writer.batch_execute(INSERT).await.unwrap();
    assert_eq!(all.event().await.id.as_deref(), Some("7"), "a plain id is sufficient by now");
}

#[tokio::test]
async fn an_unusable_snapshot_is_rejected_with_advice() {
    let database = Database::create().await;
    let app = App::start(&database.url()).await;
    let list = (1..=1001).map(|xid| xid.to_string()).collect::<Vec<_>>().join(",");
    for (cursor, says) in [
        (format!("1:5000:{list}"), "read the state again when fewer"),
        ("5:2:".into(), "out of order"),
        ("1:9:4,3".into(), "out of order"),
        ("1:2:x".into(), "xmin:xmax:xip"),
        ("7!1:2:x".into(), "xmin:xmax:xip"),
        ("1:4000000000000:".into(), "read the state again"),
        ("1:18446744073709551615:".into(), "read the state again"),
    ] {
        for path in ["/events", "/all"] {
            let headers = [("X-Consumer-Id", "toto"), ("Last-Event-ID", &*cursor)];
            let answer = ask(app.address, "GET", path, &headers).await;
            assert_eq!(answer.status, 400, "{path} {cursor}");
            assert!(answer.body.contains(says), "{cursor}: {}", answer.body);
        }
    }
}

#[tokio::test]
async fn events_pruned_after_the_snapshot_are_a_gap() {
    let database = Database::create().await;
    let mut settings = Settings::default();
    settings.gateway.recent = 0;
    let app = App::start_with(&database.url(), settings).await;
    let (writer, reader) = (database.connect().await, database.connect().await);
    let prune = "begin; set local event_piper.prune = 'on';
                 with gone as (delete from events where id <= 2 returning id)
                 insert into events_pruned (subscriber, upto) select 'toto', max(id) from gone; commit";
    writer.batch_execute(&format!("{INSERT}; {INSERT}; {INSERT}")).await.unwrap();
    let (_, before) = read_state(&reader).await;
    writer.batch_execute(prune).await.unwrap();
    let (state, behind) = read_state(&reader).await;
    assert_eq!(state, [3].into());
    writer.batch_execute(INSERT).await.unwrap();

    let mut toto = app.resume("toto", &before).await;
    assert_eq!(toto.signal("$gap").await.data, r#"{"from":0,"to":2,"reason":"pruned"}"#);
    assert_eq!(toto.rows(1).await, [4]);
    let mut toto = app.resume("toto", &behind).await;
    let mut frames = Vec::new();
    while frames.last().is_none_or(|frame: &String| frame != "$caught-up") {
        frames.push(toto.next().await.unwrap().event);
    }
    assert!(!frames.iter().any(|event| event == "$gap"), "{frames:?}");
}

/// What is visible when the reader asks how far the snapshot reaches is not all that there will be.
#[tokio::test]
async fn all_events_after_a_snapshot_include_those_that_commit_later() {
    let database = Database::create().await;
    let app = App::start(&database.url()).await;
    let (writer, reader) = (database.connect().await, database.connect().await);
    for committed_later in [false, true] {
        writer.batch_execute(INSERT).await.unwrap();
        let (state, snapshot) = read_state(&reader).await;
        let open = open_transaction(&database).await;
        if committed_later {
            writer.batch_execute(INSERT).await.unwrap();
        }
        let headers = [("Last-Event-ID", &*snapshot)];
        let mut all = Stream::open(app.address, "/all", &headers).await;
        all.signal("$caught-up").await;
        writer.batch_execute(INSERT).await.unwrap();
        open.batch_execute("commit").await.unwrap();
        let newest: i64 = writer.query_one("select max(id) from events", &[]).await.unwrap().get(0);
        let expected: Vec<i64> = (state.last().unwrap() + 1..=newest).collect();
        assert_eq!(all.rows(expected.len()).await, expected);
    }
}

#[tokio::test]
async fn the_gateways_position_is_a_cursor() {
    let database = Database::create().await;
    let app = App::start(&database.url()).await;
    let (writer, slow) = (database.connect().await, open_transaction(&database).await);
    writer.batch_execute(INSERT).await.unwrap();
    let position = async || {
        let answer = app.get("/cursor", &[]).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        let cursor = answer.json()["cursor"].as_str().unwrap().to_owned();
        cursor.starts_with("2~").then_some(cursor)
    };
    let cursor = eventually("the gateway has passed the open transaction", position).await;
    writer.batch_execute(INSERT).await.unwrap();
    slow.batch_execute("commit").await.unwrap();
    let mut got = app.resume("toto", &cursor).await.rows(2).await;
    got.sort_unstable();
    assert_eq!(got, [1, 3]);
    assert_eq!(app.get("/cursor?x=1", &[]).await.status, 400);

    let mut settings = Settings::default();
    settings.access.modes =
        event_piper::access::Modes { keys: true, ..event_piper::access::Modes::OPEN };
    let guarded = App::start_with(&database.url(), settings).await;
    let refused = ask(guarded.address, "GET", "/cursor", &[]).await;
    assert_eq!((refused.status, &refused.json()["status"]), (401, &json!(401)));
}

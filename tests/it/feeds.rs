//! `GET /all`, and following one stream.

use serde_json::{Value, json};

use crate::support::{
    app::App,
    eventually,
    postgres::Database,
    sse_client::{Frame, Stream},
};

async fn app() -> (Database, App) {
    let database = Database::create().await;
    let app = App::start(&database.url()).await;
    (database, app)
}

async fn append(app: &App, stream: &str, count: usize) {
    for n in 0..count {
        let body = json!({ "type": "t", "data": { "n": n } }).to_string();
        assert_eq!(app.post(&format!("/streams/{stream}"), &body).await.status, 200);
    }
}

async fn follow(app: &App, stream: &str, after: &str) -> Stream {
    let headers = [("Accept", "text/event-stream"), ("Last-Event-ID", after)];
    Stream::open(app.address, &format!("/streams/{stream}"), &headers).await
}

fn whole(frame: &Frame) -> Value {
    serde_json::from_str(&frame.data).unwrap()
}

#[tokio::test]
async fn follows_a_stream_from_its_history_to_live_events() {
    let (database, app) = app().await;
    append(&app, "s", 3).await;
    append(&app, "t", 2).await;
    let mut s = follow(&app, "s", "").await;
    assert_eq!(s.rows(3).await, [1, 2, 3], "the id is the version");
    assert_eq!(s.signal("$caught-up").await.id.as_deref(), Some("3"));
    append(&app, "t", 1).await;
    append(&app, "s", 1).await;
    let live = s.event().await;
    assert_eq!((live.row(), live.event.as_str()), (4, "t"));
    let event = whole(&live);
    assert_eq!((&event["stream"], &event["version"]), (&json!("s"), &json!(4)));
    assert_eq!((&event["id"], &event["payload"]), (&json!(7), &json!({ "n": 0 })));

    let mut back = follow(&app, "s", "2").await;
    assert_eq!(back.rows(2).await, [3, 4]);
    let client = database.connect().await;
    let sql = "insert into events (type, payload, stream, version) values ('sql', '1', 's', 5)";
    client.batch_execute(sql).await.unwrap();
    assert_eq!((s.rows(1).await, back.rows(1).await), (vec![5], vec![5]));
}

#[tokio::test]
async fn a_stream_waits_only_for_missing_versions() {
    let (database, app) = app().await;
    append(&app, "s", 1).await;
    let mut s = follow(&app, "s", "1").await;
    s.signal("$caught-up").await;
    let slow = database.connect().await;
    slow.batch_execute("begin").await.unwrap();
    let slow_writes = "insert into events (type, subscriber, payload) values ('t', 'toto', '1')";
    slow.batch_execute(slow_writes).await.unwrap();
    append(&app, "s", 2).await;
    assert_eq!(s.rows(2).await, [2, 3], "no version can be missing between these");
    let client = database.connect().await;
    let sql = "insert into events (type, payload, stream, version) values ('sql', '1', 's', 9)";
    client.batch_execute(sql).await.unwrap();
    slow.batch_execute("commit").await.unwrap();
    assert_eq!(s.signal("$gap").await.data, r#"{"from":3,"to":8,"reason":"pruned"}"#);
    assert_eq!(s.rows(1).await, [9]);
    let mut ahead = follow(&app, "s", "50").await;
    assert_eq!(ahead.signal("$gap").await.data, r#"{"from":50,"to":9,"reason":"reset"}"#);
    append(&app, "s", 1).await;
    assert_eq!(ahead.rows(1).await, [10]);
}

/// A version is missing only once no open transaction can still write it.
#[tokio::test]
async fn waits_for_a_version_while_its_transaction_is_open() {
    let (database, app) = app().await;
    append(&app, "s", 3).await;
    let mut s = follow(&app, "s", "3").await;
    s.signal("$caught-up").await;
    let write = |version: u32| {
        format!(
            "insert into events (type, payload, stream, version) values ('t', '1', 's', {version})"
        )
    };
    let (slow, quick) = (database.connect().await, database.connect().await);
    slow.batch_execute(&format!("begin; {}", write(4))).await.unwrap();
    quick.batch_execute(&write(5)).await.unwrap();
    let passed = async || (app.metric("head").await == 5).then_some(());
    eventually("the reader has passed both", passed).await;
    // By the second heartbeat the follower has polled at least twice.
    s.signal("heartbeat").await;
    s.signal("heartbeat").await;
    slow.batch_execute("commit").await.unwrap();
    let (fourth, fifth) = (s.event().await, s.event().await);
    assert_eq!((fourth.row(), fifth.row()), (4, 5));
}

#[tokio::test]
async fn follows_the_whole_log_in_strict_order() {
    let (database, app) = app().await;
    append(&app, "s", 2).await;
    eventually("the reader has read both", async || (app.metric("head").await == 2).then_some(()))
        .await;
    let mut now = Stream::open(app.address, "/all", &[]).await;
    now.signal("$caught-up").await;
    let mut all = Stream::open(app.address, "/all?lastEventId=0", &[]).await;
    assert_eq!(all.rows(2).await, [1, 2]);
    all.signal("$caught-up").await;
    let (slow, quick) = (database.connect().await, database.connect().await);
    slow.batch_execute("begin").await.unwrap();
    let insert = "insert into events (type, subscriber, payload) values ('t', 'toto', '1')";
    slow.batch_execute(insert).await.unwrap();
    quick.batch_execute(insert).await.unwrap();
    let mut toto = app.resume("toto", "0").await;
    assert_eq!(toto.rows(1).await, [4], "a consumer's stream does not wait");
    let mut during = Stream::open(app.address, "/all", &[]).await;
    during.signal("$caught-up").await;
    slow.batch_execute("commit").await.unwrap();
    assert_eq!(now.rows(2).await, [3, 4]);
    quick.batch_execute(insert).await.unwrap();
    assert_eq!(during.rows(2).await, [3, 5], "events of transactions that were open at its start");
    let third = all.event().await;
    assert_eq!((third.row(), whole(&third)["subscriber"].as_str()), (3, Some("toto")));
    assert_eq!(all.rows(2).await, [4, 5]);
    let wrong = app.get("/all?lastEventId=7~9", &[]).await;
    assert_eq!(wrong.status, 400, "{}", wrong.body);
}

/// A client that is disconnected after the first heartbeat resumes with its cursor, so that must not be 0.
#[tokio::test]
async fn following_the_log_from_now_does_not_start_at_0() {
    let (_database, app) = app().await;
    append(&app, "s", 2).await;
    eventually("the reader has read both", async || (app.metric("head").await == 2).then_some(()))
        .await;
    let mut now = Stream::open(app.address, "/all", &[]).await;
    let greeting = now.signal("heartbeat").await;
    assert!(greeting.id.is_none_or(|id| id == "2"), "the stream begins at the end of the log");
    assert_eq!(now.signal("$caught-up").await.id.as_deref(), Some("2"));
}

#[tokio::test]
async fn a_quiet_feed_sends_heartbeats_and_closing() {
    let (_database, app) = app().await;
    append(&app, "s", 1).await;
    let mut all = Stream::open(app.address, "/all?lastEventId=0", &[]).await;
    let mut s = follow(&app, "s", "").await;
    for feed in [&mut all, &mut s] {
        feed.event().await;
        assert_eq!(feed.signal("heartbeat").await.id.as_deref(), Some("1"));
    }
    let stopped = tokio::spawn(app.stop());
    for feed in [&mut all, &mut s] {
        assert_eq!(feed.signal("$closing").await.id.as_deref(), Some("1"));
        assert!(feed.next().await.is_none());
    }
    stopped.await.unwrap();
}

/// A late transaction whose events do not fit into one page.
#[tokio::test]
async fn follows_a_large_late_transaction() {
    let (database, app) = app().await;
    let mut s = follow(&app, "s", "").await;
    s.signal("$caught-up").await;
    let mut other = follow(&app, "other", "").await;
    let late = database.connect().await;
    let much = "begin; insert into events (type, payload, stream, version)
                select 't', to_jsonb(repeat('x', 100000)), 's', version
                from generate_series(1, 100) version";
    late.batch_execute(much).await.unwrap();
    append(&app, "other", 1).await;
    assert_eq!(other.rows(1).await, [1]);
    eventually("the transaction is late", async || {
        (app.metric("late_transactions").await == 1).then_some(())
    })
    .await;
    late.batch_execute("commit").await.unwrap();
    assert!(s.rows(100).await.into_iter().eq(1..=100));
}

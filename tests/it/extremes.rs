//! Numbers at the ends of their range: each event is delivered once, and every read ends.

use serde_json::json;

use crate::support::{app::App, postgres::Database, sse_client::Stream};

const LAST: i64 = i64::MAX;

/// A stream that contains the greatest version.
async fn with_last_version() -> (Database, App) {
    let database = Database::create().await;
    let insert = format!(
        "insert into events (type, stream, version, payload)
         values ('v', 's', 1, '1'), ('v', 's', {}, '2'), ('v', 's', {LAST}, '3')",
        LAST - 1
    );
    database.connect().await.batch_execute(&insert).await.unwrap();
    let app = App::start(&database.url()).await;
    (database, app)
}

#[tokio::test]
async fn the_last_version_is_delivered_once() {
    let (database, app) = with_last_version().await;
    let events = [("Accept", "text/event-stream")];
    for (after, owed) in [
        ("lastEventId=0", vec![1, LAST - 1, LAST]),
        (&*format!("lastEventId={}", LAST - 1), vec![LAST]),
        (&format!("lastEventId={LAST}"), vec![]),
        (&format!("offset={LAST}"), vec![LAST]),
        (&format!("offset={}", LAST.unsigned_abs() + 1), vec![]),
    ] {
        let mut stream = Stream::open(app.address, &format!("/streams/s?{after}"), &events).await;
        let mut got = Vec::new();
        while let Some(frame) = stream.next().await
            && frame.event != "$caught-up"
        {
            got.extend(frame.is_logged().then(|| frame.row()));
        }
        assert_eq!(got, owed, "after {after}");
        // The next item is a heartbeat and not the same event again.
        let insert = "insert into events (type, subscriber, payload) values ('t', 'toto', '1')";
        database.connect().await.batch_execute(insert).await.unwrap();
        assert_eq!(stream.next().await.unwrap().event, "heartbeat");
    }
}

#[tokio::test]
async fn pages_end_after_the_last_version() {
    let (_database, app) = with_last_version().await;
    let (mut offset, mut versions) = (json!(1), Vec::new());
    for _ in 0..4 {
        let page = app.get(&format!("/streams/s?limit=1&offset={offset}"), &[]).await.json();
        versions.extend(page["events"][0]["version"].as_i64());
        offset = page["nextOffset"].clone();
    }
    assert_eq!((versions, offset), (vec![1, LAST - 1, LAST], json!(LAST.unsigned_abs() + 1)));
    let down = format!("/streams/s?direction=backward&limit=1&offset={}", LAST.unsigned_abs() + 1);
    assert_eq!(app.get(&down, &[]).await.json()["events"][0]["version"], json!(LAST));
    for wrong in ["9223372036854775809", "-1", "1e3", "18446744073709551616"] {
        assert_eq!(
            app.get(&format!("/streams/s?offset={wrong}"), &[]).await.status,
            400,
            "{wrong}"
        );
    }
    let next = app.post("/streams/s", r#"{"type":"v","data":{}}"#).await;
    assert!((400..500).contains(&next.status), "{} {}", next.status, next.body);
}

#[tokio::test]
async fn the_last_id_is_delivered_once_live_and_from_memory() {
    let database = Database::create().await;
    let insert = |id: i64| {
        format!(
            "insert into events (id, type, subscriber, payload) overriding system value
             values ({id}, 't', 'toto', '1');
             select setval(pg_get_serial_sequence('events', 'id'), {id})"
        )
    };
    let client = database.connect().await;
    client.batch_execute(&insert(LAST - 2)).await.unwrap();
    let app = App::start(&database.url()).await;
    let mut toto = app.follow("toto").await.joined().await;
    client.batch_execute(&insert(LAST)).await.unwrap();
    assert_eq!(toto.rows(1).await, [LAST]);
    app.stop().await;

    let app = App::start(&database.url()).await;
    for (cursor, owed) in [
        ("0", vec![LAST - 2, LAST]),
        (&*(LAST - 1).to_string(), vec![LAST]),
        (&LAST.to_string(), vec![]),
    ] {
        let mut toto = app.resume("toto", cursor).await;
        let mut got = Vec::new();
        while let Some(frame) = toto.next().await
            && frame.event != "$caught-up"
        {
            got.extend(frame.is_logged().then(|| frame.row()));
        }
        assert_eq!(got, owed, "after {cursor}");
    }
    let mut all = Stream::open(app.address, "/all?lastEventId=0", &[]).await;
    assert_eq!(all.rows(2).await, [LAST - 2, LAST]);
}

/// Cursors that no client was ever sent are handled as well.
#[tokio::test]
async fn cursors_at_the_ends_of_their_range_work() {
    let database = Database::create().await;
    let insert = "insert into events (type, subscriber, payload) values ('t', 'toto', '1')";
    database.connect().await.batch_execute(insert).await.unwrap();
    let app = App::start(&database.url()).await;
    let (xid, half) = (u64::MAX, 1_u64 << 63);
    for cursor in [
        format!("{LAST}"),
        format!("{LAST}@{LAST}"),
        format!("0~{xid}:0"),
        format!("1~{half}:0"),
        format!("1~{xid}:{LAST}"),
        format!("{LAST}~{xid}:{LAST}~{half}:0~0:0"),
    ] {
        app.resume("toto", &cursor).await.signal("$caught-up").await;
        app.resume("nobody", &cursor).await.signal("$caught-up").await;
    }
}

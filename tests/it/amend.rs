//! Amendments: events that correct earlier ones. What the database accepts, and what readers receive.

use serde_json::json;
use tokio_postgres::Client;

use crate::support::{
    app::App,
    postgres::Database,
    program::run,
    sse_client::{Frame, Stream},
};
use event_piper::store::error::ErrorChain;

async fn log() -> (Database, Client) {
    let database = Database::create().await;
    let client = database.connect().await;
    (database, client)
}

/// Writes an event for toto, and returns its id.
async fn write(client: &Client, payload: &str, amends: Option<i64>) -> i64 {
    let insert = "insert into events (type, subscriber, payload, amends)
        values ('t', 'toto', $1::text::jsonb, $2) returning id";
    client.query_one(insert, &[&payload, &amends]).await.unwrap().get(0)
}

/// The stream of toto's events with amendments applied, after this cursor.
async fn amended(app: &App, cursor: &str) -> Stream {
    let headers = [("X-Consumer-Id", "toto"), ("Last-Event-ID", cursor)];
    Stream::open(app.address, "/events?amended=true", &headers).await
}

/// The ids and the data of the next events.
async fn told(stream: &mut Stream, count: usize) -> Vec<(i64, String)> {
    let mut told = Vec::new();
    while told.len() < count {
        let event = stream.event().await;
        told.push((event.row(), event.data));
    }
    told
}

fn expected(told: &[(i64, &str)]) -> Vec<(i64, String)> {
    told.iter().map(|(id, data)| (*id, (*data).to_owned())).collect()
}

#[tokio::test]
async fn rejects_amendments_without_a_valid_target() {
    let (_database, client) = log().await;
    let fill = "insert into events (type, subscriber, stream, version, payload) values
        ('t', 'toto', 's', 1, '{}'), ('t', 'titi', null, null, '{}');
        insert into events (type, subscriber, payload, amends) values ('t', 'titi', '{}', 2)";
    client.batch_execute(fill).await.unwrap();
    for (subscriber, stream, amends, payload, reason) in [
        ("'toto'", "null", 77, "{}", "there is no earlier event 77"),
        ("'toto'", "null", 4, "{}", "there is no earlier event 4"),
        ("'titi'", "null", 3, "{}", "event 3 is an amendment itself: amend 2"),
        ("'toto'", "null", 2, "{}", "event 2 is of another subscriber and another stream"),
        ("'titi'", "'other'", 1, "{}", "event 1 is of another subscriber and another stream"),
        ("'titi'", "null", 2, "[1]", "no JSON Patch"),
        ("'titi'", "null", 2, r#"[{"op": "dance", "path": ""}]"#, "no JSON Patch"),
        ("'titi'", "null", 2, r#"[{"op": "remove", "path": "a"}]"#, "no JSON Patch"),
        ("'titi'", "null", 2, r#"[{"op": "remove"}]"#, "no JSON Patch"),
        ("'titi'", "null", 2, r#"[{"op": "add", "path": "/a"}]"#, "no JSON Patch"),
        ("'titi'", "null", 2, r#"[{"op": "move", "path": "/a"}]"#, "no JSON Patch"),
    ] {
        let insert = format!(
            "insert into events (type, subscriber, stream, version, payload, amends) values
             ('t', {subscriber}, {stream}, case when {stream} is not null then 9 end,
              '{payload}', {amends})"
        );
        let refused = client.batch_execute(&insert).await.unwrap_err();
        assert!(
            ErrorChain(&refused).to_string().contains(reason),
            "{insert}: {}",
            ErrorChain(&refused)
        );
        assert_eq!(refused.as_db_error().unwrap().constraint(), Some("events_amends_an_event"));
        // The rejected event has drawn an id. The next one must draw the same.
        let back = "select setval('events_id_seq', 3)";
        client.batch_execute(back).await.unwrap();
    }
    for (version, step) in (2..).zip([
        r#""op": "add", "path": "/a", "value": null"#,
        r#""op": "remove", "path": "/a""#,
        r#""op": "replace", "path": "", "value": 1"#,
        r#""op": "move", "path": "/a", "from": "/b""#,
        r#""op": "copy", "path": "/a", "from": """#,
        r#""op": "test", "path": "/a", "value": 1"#,
    ]) {
        let fits = format!(
            "insert into events (type, subscriber, stream, version, payload, amends) values
             ('t', 'titi', 's', {version}, '[{{{step}}}]', 1)"
        );
        client.batch_execute(&fits).await.unwrap();
    }
}

/// The target of an amendment may be gone when the amendment itself is changed, for instance by an erasure.
#[tokio::test]
async fn an_amendment_is_checked_only_when_it_is_written() {
    let (_database, client) = log().await;
    write(&client, "{}", None).await;
    write(&client, r#"{"name": "Jon"}"#, Some(1)).await;
    let erase = "begin; set local event_piper.prune = 'on'; delete from events where id = 1;
        update events set payload = 'null' where id = 2; commit";
    client.batch_execute(erase).await.unwrap();
}

#[tokio::test]
async fn an_event_is_available_with_and_without_amendments() {
    let (database, client) = log().await;
    let app = App::start(&database.url()).await;
    write(&client, r#"{"n": 12345678901234567890.10, "name": "Jon"}"#, None).await;
    write(&client, r#"[{"op": "replace", "path": "/name", "value": "John"}]"#, Some(1)).await;
    write(&client, r#"{"m": 0.30, "gone": null}"#, Some(1)).await;
    let path = "/events/1?consumer=toto";
    let written = app.get(path, &[]).await.json();
    assert_eq!((&written["payload"]["name"], &written["amends"]), (&json!("Jon"), &json!(null)));
    assert!(written.get("amendments").is_none());

    let corrected = app.get(&format!("{path}&amended=true"), &[]).await;
    let payload = r#""payload":{"m":0.30,"n":12345678901234567890.10,"name":"John"}"#;
    assert!(corrected.body.contains(payload), "{}", corrected.body);
    assert_eq!(corrected.json()["amendments"], json!([2, 3]));

    let amendment = app.get("/events/2?consumer=toto&amended=true", &[]).await.json();
    assert_eq!((&amendment["amends"], &amendment["amendments"]), (&json!(1), &json!([])));
    assert_eq!(app.get(&format!("{path}&amended=perhaps"), &[]).await.status, 400);
}

#[tokio::test]
async fn an_amendment_is_delivered_with_its_target() {
    let (database, client) = log().await;
    let app = App::start(&database.url()).await;
    let mut live = app.follow("toto").await.joined().await;
    write(&client, r#"{"a": 1}"#, None).await;
    write(&client, r#"{"a": [2, "x y"]}"#, Some(1)).await;
    let all = expected(&[(1, r#"{"a":1}"#), (2, r#"{"amends":1,"patch":{"a":[2,"x y"]}}"#)]);
    assert_eq!(told(&mut live, 2).await, all);
    app.stop().await;
    let app = App::start(&database.url()).await;
    assert_eq!(
        told(&mut app.resume("toto", "0").await, 2).await,
        all,
        "from memory or from the table"
    );
    let mut settings = crate::support::app::Settings::default();
    settings.gateway.recent = 0;
    let app = App::start_with(&database.url(), settings).await;
    assert_eq!(told(&mut app.resume("toto", "0").await, 2).await, all, "from the table");
}

#[tokio::test]
async fn replays_and_live_events_have_amendments_applied() {
    let (database, client) = log().await;
    for n in 1..=1500 {
        assert_eq!(write(&client, &format!(r#"{{"n": {n}}}"#), None).await, n);
    }
    let amend = "insert into events (type, subscriber, payload, amends)
        select 't', 'toto', jsonb_build_object('m', -id), id from events where id % 3 = 0";
    client.batch_execute(amend).await.unwrap();
    let app = App::start(&database.url()).await;
    let mut stream = amended(&app, "0").await;
    for (id, data) in told(&mut stream, 2000).await {
        let payload = match id {
            1..=1500 if id % 3 == 0 => format!(r#"{{"m":-{id},"n":{id}}}"#),
            1..=1500 => format!(r#"{{"n":{id}}}"#),
            _ => format!(r#"{{"amends":{0},"patch":{{"m":-{0}}}}}"#, (id - 1500) * 3),
        };
        assert_eq!(data, payload, "event {id}");
    }
    stream.signal("$caught-up").await;

    // In one transaction, so that the event is never visible without its amendment.
    let both = "begin;
        insert into events (type, subscriber, payload) values ('t', 'toto', '{\"n\": 1}');
        insert into events (type, subscriber, payload, amends)
        select 't', 'toto', '{\"n\": 2}', max(id) from events; commit";
    client.batch_execute(both).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 3 {
        if seen.len() == 2 {
            write(&client, r#"{"n":3}"#, None).await;
        }
        let frame = stream.next().await.unwrap();
        assert_ne!(frame.event, "$caught-up", "it was sent before");
        seen.extend(Some(frame).filter(Frame::is_logged).map(|it| (it.row(), it.data)));
    }
    let amendment = r#"{"amends":2001,"patch":{"n":2}}"#;
    let live = expected(&[(2001, r#"{"n":2}"#), (2002, amendment), (2003, r#"{"n":3}"#)]);
    assert_eq!(seen[..3], live);
}

#[tokio::test]
async fn live_late_events_have_amendments_applied() {
    let (database, client) = log().await;
    let slow = database.connect().await;
    let app = App::start(&database.url()).await;
    let headers = [("X-Consumer-Id", "toto")];
    let stream = Stream::open(app.address, "/events?amended=true", &headers).await;
    let mut stream = stream.joined().await;
    slow.batch_execute("begin").await.unwrap();
    write(&slow, r#"{"n": 1}"#, None).await;
    write(&client, r#"{"n": 2}"#, None).await;
    assert_eq!(told(&mut stream, 1).await, expected(&[(2, r#"{"n":2}"#)]));
    write(&slow, r#"{"n": 10}"#, Some(1)).await;
    slow.batch_execute("commit").await.unwrap();
    let late = expected(&[(1, r#"{"n":10}"#), (3, r#"{"amends":1,"patch":{"n":10}}"#)]);
    let mut seen = told(&mut stream, 2).await;
    seen.sort();
    assert_eq!(seen, late);
    write(&client, "4", None).await;
    assert_eq!(told(&mut stream, 1).await, expected(&[(4, "4")]), "each event came once");
}

#[tokio::test]
async fn an_amendment_that_fails_leaves_a_note() {
    let (database, client) = log().await;
    let app = App::start(&database.url()).await;
    write(&client, r#"{"a": 1}"#, None).await;
    write(&client, r#"{"a": 2}"#, Some(1)).await;
    write(&client, r#"[{"op": "remove", "path": "/b"}]"#, Some(1)).await;
    write(&client, "4", None).await;
    let shown = app.get("/events/1?consumer=toto&amended=true", &[]).await.json();
    assert_eq!((&shown["payload"], &shown["amendments"]), (&json!({"a": 1}), &json!([2, 3])));
    let note = shown["unamended"].as_str().unwrap();
    assert!(note.starts_with("amendment 3 does not apply: operation 1 (\"/b\")"), "{note}");

    let mut stream = amended(&app, "0").await;
    assert_eq!(told(&mut stream, 1).await, expected(&[(1, r#"{"a":1}"#)]));
    let noted = stream.next().await.unwrap();
    assert_eq!(noted.event, "$unamended");
    assert_eq!(noted.data, r#"{"event":1,"amendment":3}"#);
    assert_eq!(noted.id.as_deref(), Some("1"));
    assert_eq!(told(&mut stream, 3).await.len(), 3);
}

#[tokio::test]
async fn a_patch_is_tried_before_it_is_written() {
    let (database, client) = log().await;
    let app = App::start(&database.url()).await;
    write(&client, r#"{"n": 1.50}"#, None).await;
    let uid = "e5a2c0de-0000-4000-8000-000000000001";
    let amend = |patch: &str| {
        format!(r#"{{"type":"t","subscriber":"toto","amends":1,"payload":{patch},"uid":"{uid}"}}"#)
    };
    let refused = app.post("/events", &amend(r#"[{"op":"remove","path":"/x"}]"#)).await;
    assert_eq!(refused.status, 409, "{}", refused.body);
    let detail = refused.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.starts_with("this does not amend 1: operation 1 (\"/x\")"), "{detail}");

    let moved = amend(r#"[{"op":"move","from":"/n","path":"/m"}]"#);
    for round in ["first", "again"] {
        let answer = app.post("/events", &moved).await;
        assert_eq!((answer.status, &*answer.body), (201, r#"{"id":2}"#), "{round}");
    }
    let shown = app.get("/events/1?consumer=toto&amended=true", &[]).await;
    assert!(shown.body.contains(r#""payload":{"m":1.50}"#), "{}", shown.body);

    let missing = r#"{"type":"t","subscriber":"toto","amends":77,"payload":{}}"#;
    let refused = app.post("/events", missing).await;
    assert_eq!(refused.status, 409);
    assert!(refused.body.contains("this does not amend 77: there is no such"), "{}", refused.body);
    let in_stream = r#"{"type":"t","amends":1,"subscriber":"toto","payload":{"k":2}}"#;
    assert_eq!(app.post("/streams/s", in_stream).await.status, 200);
}

#[tokio::test]
async fn an_event_has_at_most_a_thousand_amendments() {
    let (database, client) = log().await;
    write(&client, r#"{"a": 0}"#, None).await;
    let amend = |n: i32| {
        format!(
            "insert into events (type, subscriber, payload, amends)
             select 't', 'toto', jsonb_build_object('a', n), 1 from generate_series(1, {n}) n"
        )
    };
    client.batch_execute(&amend(1000)).await.unwrap();
    let refused = client.batch_execute(&amend(1)).await.unwrap_err();
    let refused = ErrorChain(&refused).to_string();
    assert!(refused.contains("there are 1000 amendments of event 1"), "{refused}");
    let app = App::start(&database.url()).await;
    let shown = app.get("/events/1?consumer=toto&amended=true", &[]).await.json();
    assert_eq!(shown["payload"], json!({"a": 1000}));
    assert_eq!(shown["amendments"].as_array().unwrap().len(), 1000);
}

#[tokio::test]
async fn erased_events_neither_amend_nor_are_amended() {
    let (database, client) = log().await;
    let fill = "insert into events (type, subscriber, stream, version, payload, amends) values
        ('t', 'a', 's', 1, '{\"x\": 1}', null), ('t', 'b', 's', 2, '{\"y\": 2}', 1),
        ('t', 'b', 's', 3, '{\"x\": 1}', null), ('t', 'a', 's', 4, '{\"y\": 2}', 3)";
    client.batch_execute(fill).await.unwrap();
    run(&database, &["erase", "--subscriber", "a"]).await;
    let app = App::start(&database.url()).await;
    let erased = app.get("/events/1?consumer=a&amended=true", &[]).await.json();
    assert_eq!(erased["payload"], json!({"erased": true}));
    let other = app.get("/events/3?consumer=b&amended=true", &[]).await.json();
    assert_eq!((&other["payload"], &other["amendments"]), (&json!({"x": 1}), &json!([])));
}

#[tokio::test]
async fn pruning_keeps_amendments_of_kept_events() {
    let (database, client) = log().await;
    let fill = "insert into events (type, timestamp, subscriber, payload, amends) values
        ('t', now(), 'toto', '{\"a\": 1}', null),
        ('t', now() - interval '1 year', 'toto', '{\"a\": 2}', 1),
        ('t', now() - interval '1 year', 'toto', '{\"a\": 3}', null)";
    client.batch_execute(fill).await.unwrap();
    let pruned = run(&database, &["prune", "--older-than", "90d"]).await;
    assert_eq!(pruned.out, "1 event pruned, 3 examined\n");
    let app = App::start(&database.url()).await;
    let shown = app.get("/events/1?consumer=toto&amended=true", &[]).await.json();
    assert_eq!(shown["payload"], json!({"a": 2}));
}

/// Operations that swap two values this often. One value is nested deeper than the other.
fn moves(pairs: usize) -> String {
    let there = json!({ "op": "move", "from": "/a", "path": "/b/a" });
    let back = json!({ "op": "move", "from": "/b/a", "path": "/a" });
    json!(vec![[there, back]; pairs].concat()).to_string()
}

/// Writes an event with a hundred thousand values, as number 1.
async fn write_large(client: &Client) {
    let insert = "insert into events (type, subscriber, payload)
        select 't', 'toto', jsonb_build_object('b', '{}'::jsonb, 'a', jsonb_agg(n))
        from generate_series(1, 100000) n";
    client.batch_execute(insert).await.unwrap();
}

#[tokio::test]
async fn the_work_of_patches_is_limited() {
    let (database, client) = log().await;
    let app = App::start(&database.url()).await;
    write_large(&client).await;
    write(&client, "2", None).await;
    let heavy =
        json!({ "type": "t", "subscriber": "toto", "amends": 1, "payload": "PATCH" }).to_string();
    let heavy = heavy.replace("\"PATCH\"", &moves(4000));
    let asked: Vec<_> = (0..6)
        .map(|_| {
            let (address, heavy) = (app.address, heavy.clone());
            tokio::spawn(async move {
                crate::support::sse_client::post(address, "/events", &[], &heavy).await
            })
        })
        .collect();
    // This test has one thread, on which nothing would be answered while patches are applied.
    let meanwhile = app.get("/events/2?consumer=toto&amended=true", &[]).await;
    assert_eq!(meanwhile.json()["payload"], 2);
    assert!(asked.iter().any(|asked| !asked.is_finished()), "some requests are still waiting");
    for refused in asked {
        let refused = refused.await.unwrap();
        assert_eq!(refused.status, 409, "{}", refused.body);
        assert!(refused.body.contains("too much work"), "{}", refused.body);
    }
    // A writer in SQL is not stopped; readers get a note.
    assert_eq!(write(&client, &moves(4000), Some(1)).await, 3);
    let shown = app.get("/events/1?consumer=toto&amended=true", &[]).await.json();
    let note = shown["unamended"].as_str().unwrap();
    assert!(note.starts_with("amendment 3 does not apply: ") && note.contains("too much work"));
    assert_eq!(shown["payload"]["a"].as_array().unwrap().len(), 100_000);
    let mut stream = amended(&app, "0").await;
    assert_eq!(stream.event().await.row(), 1);
    assert_eq!(stream.next().await.unwrap().data, r#"{"event":1,"amendment":3}"#);
}

#[tokio::test]
async fn the_size_of_amended_events_is_limited() {
    let (database, client) = log().await;
    let app = App::start(&database.url()).await;
    write(&client, "{}", None).await;
    let post = async |name: &str| {
        let payload = json!({ name: "x".repeat(600_000) });
        let event = json!({ "type": "t", "subscriber": "toto", "amends": 1, "payload": payload });
        app.post("/events", &event.to_string()).await
    };
    assert_eq!(post("a").await.status, 201);
    let refused = post("b").await;
    assert_eq!(refused.status, 409, "{}", refused.body);
    assert!(refused.body.contains("would be larger than 1048576 bytes"), "{}", refused.body);
    assert_eq!(post("a").await.status, 201, "in the place of what was there");
    let numbers = async |path: &str, count: usize| {
        let numbers = vec!["1e131071"; count].join(",");
        let step = format!(r#"{{"op":"add","path":"{path}","value":[{numbers}]}}"#);
        let event = format!(r#"{{"type":"t","subscriber":"toto","amends":1,"payload":[{step}]}}"#);
        app.post("/events", &event).await
    };
    assert_eq!(numbers("/m", 3).await.status, 201);
    assert_eq!(numbers("/n", 2).await.status, 409, "numbers count written out");

    let grow = "insert into events (type, subscriber, payload, amends)
        select 't', 'toto', jsonb_build_object('k' || n, repeat('x', 1000000)), 1
        from generate_series(1, 25) n";
    client.batch_execute(grow).await.unwrap();
    let shown = app.get("/events/1?consumer=toto&amended=true", &[]).await.json();
    let note = shown["unamended"].as_str().unwrap();
    assert!(note.contains("would be larger than 8388608 bytes"), "{note}");
    assert_eq!(shown["payload"], json!({}));
}

/// Amendments may make a page of small events large. The page then ends earlier.
#[tokio::test]
async fn a_replay_of_enlarged_events_loses_none() {
    let (database, client) = log().await;
    let fill = "insert into events (type, subscriber, payload)
            select 't', 'toto', to_jsonb(n) from generate_series(1, 60) n;
        insert into events (type, subscriber, payload, amends)
            select 'm', 'toto', jsonb_build_object('n', id, 'x', repeat('x', 150000)), id
            from events where id % 2 = 0";
    client.batch_execute(fill).await.unwrap();
    let app = App::start(&database.url()).await;
    let mut stream = amended(&app, "0").await;
    for id in 1..=60 {
        let event = stream.event().await;
        assert_eq!(event.row(), id);
        let large = event.data.len() > 150_000;
        assert_eq!(large, id % 2 == 0, "event {id} has {} bytes", event.data.len());
    }
    assert_eq!(told(&mut stream, 30).await.len(), 30);
    stream.signal("$caught-up").await;
}

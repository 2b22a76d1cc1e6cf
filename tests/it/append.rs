//! Appending to streams: no version is lost, and none is given twice.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::support::{
    app::App,
    postgres::Database,
    sse_client::{Answer, Stream, post},
};

async fn app() -> (Database, App) {
    let database = Database::create().await;
    let app = App::start(&database.url()).await;
    (database, app)
}

fn event(n: usize) -> String {
    json!({ "type": "t", "data": { "n": n } }).to_string()
}

fn conflict(answer: &Answer, status: u16, version: i64) {
    assert_eq!(answer.status, status, "{}", answer.body);
    assert_eq!(answer.json()["version"], version, "{}", answer.body);
}

#[tokio::test]
async fn a_stream_accepts_only_its_next_version() {
    let (_database, app) = app().await;
    let first = app.post("/streams/orders%2F1", &event(1)).await;
    assert_eq!(first.status, 200, "{}", first.body);
    assert_eq!(first.json(), json!({ "stream": "orders/1", "version": 1, "id": 1 }));
    assert_eq!(first.headers["etag"], "\"1\"");
    assert_eq!(app.post("/streams/orders%2F1/2", &event(2)).await.json()["version"], 2);
    conflict(&app.post("/streams/orders%2F1/2", &event(3)).await, 409, 2);
    conflict(&app.post("/streams/orders%2F1/1", &event(3)).await, 409, 2);
    conflict(&app.post("/streams/orders%2F1/4", &event(3)).await, 409, 2);
    let refused = app.post("/streams/other/2", &event(3)).await;
    conflict(&refused, 409, 0);
    let detail = refused.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.starts_with("the stream \"other\" is at version 0"), "{detail}");
    for wrong in ["0", "-1", "x", "9223372036854775808"] {
        let answer = app.post(&format!("/streams/s/{wrong}"), &event(1)).await;
        assert_eq!(answer.status, 400, "{wrong}: {}", answer.body);
    }
}

#[tokio::test]
async fn expectations_are_given_in_headers_or_in_the_body() {
    let (_database, app) = app().await;
    let send = async |headers: &[(&str, &str)], body: &str| {
        post(app.address, "/streams/s", headers, body).await
    };
    conflict(&send(&[("If-Match", "*")], &event(1)).await, 412, 0);
    assert_eq!(send(&[("If-None-Match", "*")], &event(1)).await.json()["version"], 1);
    conflict(&send(&[("If-None-Match", "*")], &event(1)).await, 412, 1);
    assert_eq!(send(&[("If-Match", "\"1\"")], &event(1)).await.json()["version"], 2);
    conflict(&send(&[("If-Match", "\"1\"")], &event(1)).await, 412, 2);
    assert_eq!(send(&[("If-Match", "*")], &event(1)).await.json()["version"], 3);
    let expecting = |expected: Value| json!({ "type": "t", "data": [], "expected": expected });
    for (expected, result) in [
        (json!(3), Ok(4)),
        (json!(3), Err(4)),
        (json!("no-stream"), Err(4)),
        (json!("stream-exists"), Ok(5)),
        (json!("any"), Ok(6)),
    ] {
        let answer = send(&[], &expecting(expected.clone()).to_string()).await;
        match result {
            Ok(version) => assert_eq!(answer.json()["version"], version, "{expected}"),
            Err(version) => conflict(&answer, 409, version),
        }
    }
    let twice = send(&[("If-Match", "*")], &expecting(json!(6)).to_string()).await;
    assert_eq!(twice.json()["version"], 7, "{}", twice.body);
    let contrary = send(&[("If-Match", "\"7\"")], &expecting(json!(8)).to_string()).await;
    assert_eq!(contrary.status, 409, "{}", contrary.body);
}

#[tokio::test]
async fn several_events_are_appended_atomically() {
    let (_database, app) = app().await;
    let three = format!("[{},{},{}]", event(1), event(2), event(3));
    let answer = app.post("/streams/s/1", &three).await;
    assert_eq!(answer.json(), json!({ "stream": "s", "version": 3, "ids": [1, 2, 3] }));
    conflict(&app.post("/streams/s/3", &three).await, 409, 3);
    let across = json!([
        { "type": "t", "stream": "s", "payload": 1, "expected": 3 },
        { "type": "t", "stream": "new", "payload": 1, "expected": "no-stream" },
        { "type": "t", "stream": "new", "payload": 2, "expected": 1 },
    ]);
    assert_eq!(app.post("/events", &across.to_string()).await.status, 201);
    conflict(&app.post("/events", &across.to_string()).await, 409, 4);
    let never = json!([
        { "type": "t", "stream": "s", "payload": 1 },
        { "type": "t", "stream": "s", "payload": 1, "expected": 99 },
    ]);
    conflict(&app.post("/events", &never.to_string()).await, 409, 4);
    assert_eq!(app.get("/streams/s", &[]).await.json()["version"], 4);
    assert_eq!(app.get("/streams/new", &[]).await.json()["version"], 2);
}

/// Sixty-four writers on eight streams over two instances: each append gets a version of its own, and no
/// version is missing.
#[tokio::test]
async fn many_writers_on_two_instances_get_distinct_versions() {
    let (database, app) = app().await;
    let other = App::start(&database.url()).await;
    let writer = |number: usize| {
        let address = [app.address, other.address][number % 2];
        let path = format!("/streams/s{}", number % 8);
        tokio::spawn(async move {
            let mut got = Vec::new();
            for n in 0..20 {
                let body = match n % 3 {
                    0 => event(n),
                    1 => format!("[{},{}]", event(n), event(n)),
                    _ => {
                        json!({ "type": "t", "data": [], "uid": uuid::Uuid::now_v7() }).to_string()
                    }
                };
                let answer = post(address, &path, &[], &body).await;
                assert_eq!(answer.status, 200, "{}", answer.body);
                let answer = answer.json();
                let last = answer["version"].as_i64().unwrap();
                let count = answer["ids"].as_array().map_or(1, Vec::len);
                got.extend((last - i64::try_from(count).unwrap() + 1)..=last);
            }
            (path, got)
        })
    };
    let mut versions: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    for writer in (0..64).map(writer).collect::<Vec<_>>() {
        let (path, got) = writer.await.unwrap();
        versions.entry(path).or_default().extend(got);
    }
    for (path, mut got) in versions {
        got.sort_unstable();
        let all: Vec<i64> = (1..=i64::try_from(got.len()).unwrap()).collect();
        assert_eq!(got, all, "{path}: each version was given to one writer");
        let last = app.get(&path, &[]).await.json()["version"].as_i64();
        assert_eq!(last, all.last().copied());
    }
}

/// Many writers race for each version: one wins, and the others are told the current version.
#[tokio::test]
async fn one_of_many_writers_wins_each_version() {
    let (database, app) = app().await;
    let other = App::start(&database.url()).await;
    for version in 1..=10 {
        let ask = |number: usize| {
            let address = [app.address, other.address][number % 2];
            tokio::spawn(async move {
                post(address, &format!("/streams/s/{version}"), &[], &event(number)).await
            })
        };
        let mut won = 0;
        for answer in (0..32).map(ask).collect::<Vec<_>>() {
            let answer = answer.await.unwrap();
            match answer.status {
                200 => won += 1,
                _ => conflict(&answer, 409, version),
            }
        }
        assert_eq!(won, 1, "version {version}");
    }
}

#[tokio::test]
async fn an_append_is_idempotent_by_its_uid() {
    let (_database, app) = app().await;
    let uid = uuid::Uuid::now_v7();
    let body = json!({ "type": "t", "data": {}, "uid": uid }).to_string();
    let first = app.post("/streams/s/1", &body).await.json();
    app.post("/streams/s", &event(2)).await;
    assert_eq!(app.post("/streams/s/1", &body).await.json(), first);
    assert_eq!(app.post("/streams/s", &body).await.json(), first);
    let elsewhere = app.post("/streams/s/3", &body).await;
    assert_eq!(elsewhere.status, 409, "{}", elsewhere.body);
    assert_eq!(app.post("/streams/t", &body).await.status, 409);
    // Some of the events exist already: only the missing ones are written.
    let both = format!("[{},{}]", body, json!({ "type": "t", "data": [] }));
    let answer = app.post("/streams/s", &both).await;
    assert_eq!(answer.json()["version"], 3, "{}", answer.body);
    assert_eq!(answer.json()["ids"][0], first["id"]);
}

#[tokio::test]
async fn a_stream_is_read_in_pages_in_both_directions() {
    let (_database, app) = app().await;
    for n in 1..=5 {
        app.post("/streams/s", &event(n)).await;
    }
    let versions = async |query: &str| {
        let page = app.get(&format!("/streams/s?{query}"), &[]).await.json();
        let events = page["events"].as_array().unwrap().clone();
        let versions: Vec<_> = events.iter().map(|it| it["version"].as_i64().unwrap()).collect();
        (versions, page["nextOffset"].as_i64().unwrap())
    };
    assert_eq!(versions("").await, (vec![1, 2, 3, 4, 5], 6));
    assert_eq!(versions("offset=2&limit=2").await, (vec![2, 3], 4));
    assert_eq!(versions("offset=6").await, (vec![], 6), "kept on an empty page");
    assert_eq!(versions("direction=backward&limit=2").await, (vec![5, 4], 3));
    assert_eq!(versions("direction=backward&offset=3").await, (vec![3, 2, 1], 0));
    assert_eq!(versions("direction=backward&offset=0").await, (vec![], 0));
    let unknown = app.get("/streams/unknown", &[]).await;
    let expected = json!({ "stream": "unknown", "version": 0, "nextOffset": 1, "events": [] });
    assert_eq!((unknown.status, unknown.json()), (200, expected));
    assert_eq!(versions("offset=0&limit=1").await, (vec![1], 2));
    for wrong in ["offset=x", "limit=0", "limit=1001", "direction=up"] {
        assert_eq!(app.get(&format!("/streams/s?{wrong}"), &[]).await.status, 400, "{wrong}");
    }
}

#[tokio::test]
async fn a_time_beyond_rfc_3339_is_shown_as_postgresql_has_it() {
    let (database, app) = app().await;
    let insert = "insert into events (type, stream, version, \"timestamp\", payload) values
        ('t', 's', 1, 'infinity', '1'), ('t', 's', 2, '0044-03-15 12:00:00+00 BC', '1'),
        ('t', 's', 3, '9999-12-31 23:59:59+00', '1')";
    database.connect().await.batch_execute(insert).await.unwrap();
    let page = app.get("/streams/s", &[]).await;
    assert_eq!(page.status, 200, "{}", page.body);
    let events = page.json()["events"].clone();
    let shown = |at: usize| events[at]["timestamp"].as_str().unwrap().to_owned();
    assert_eq!(shown(0), "infinity");
    assert!(shown(1).ends_with(" BC"), "{}", shown(1));
    assert_eq!(shown(2), "9999-12-31T23:59:59.000000Z");
    let mut all = Stream::open(app.address, "/all", &[("Last-Event-ID", "0")]).await;
    assert_eq!(all.rows(3).await, [1, 2, 3]);
}

//! Every part of a request is either applied as sent, or refused with a reason. Nothing is ignored or
//! changed.

use event_piper::access::Modes;
use serde_json::Value;
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::{
    access::issuer,
    support::{
        app::{App, Settings},
        eventually,
        postgres::Database,
        sse_client::{Answer, Stream, ask, post, whole},
    },
};

const EVENT: &str = r#"{"type":"t","subscriber":"toto","payload":1}"#;

async fn app() -> (Database, App) {
    app_with(|_| {}).await
}

async fn app_with(turn: impl FnOnce(&mut Settings)) -> (Database, App) {
    let database = Database::create().await;
    let mut settings = Settings::default();
    turn(&mut settings);
    let app = App::start_with(&database.url(), settings).await;
    (database, app)
}

fn detail(answer: &Answer) -> String {
    answer.json()["detail"].as_str().unwrap_or_else(|| panic!("{}", answer.body)).to_owned()
}

/// Every path and method of the API description, with its query parameters.
async fn described(app: &App) -> Vec<(String, String, Vec<String>)> {
    let description = app.get("/openapi.json", &[]).await.json();
    let mut all = Vec::new();
    for (path, item) in description["paths"].as_object().unwrap() {
        let path = path.replace("{stream}", "s").replace("{id}", "1").replace("{version}", "1");
        for method in ["get", "post"].into_iter().filter(|method| item.get(method).is_some()) {
            let lists = [&item["parameters"], &item[method]["parameters"]];
            let parameters = lists.into_iter().filter_map(Value::as_array).flatten();
            let parameters = parameters.map(|parameter| match parameter["$ref"].as_str() {
                Some(place) => description.pointer(place.trim_start_matches('#')).unwrap(),
                None => parameter,
            });
            let of_query = parameters.filter(|it| it["in"] == "query");
            let names = of_query.map(|it| it["name"].as_str().unwrap().to_owned()).collect();
            all.push((path.clone(), method.to_uppercase(), names));
        }
    }
    all
}

#[tokio::test]
async fn every_route_rejects_unknown_query_parameters() {
    let (_database, app) = app().await;
    let mut all = described(&app).await;
    assert!(all.len() > 12, "{all:?}");
    let more = ["/", "/console.js", "/console.css"];
    all.extend(more.map(|path| (path.to_owned(), "GET".to_owned(), Vec::new())));
    for (path, method, _) in all {
        let path = format!("{path}?nonsense=1");
        let answer = match &*method {
            "POST" => post(app.address, &path, &[], EVENT).await,
            _ => ask(app.address, &method, &path, &[("X-Consumer-Id", "toto")]).await,
        };
        assert_eq!(answer.status, 400, "{method} {path}: {}", answer.body);
        assert!(detail(&answer).contains("\"nonsense\""), "{method} {path}: {}", answer.body);
    }
    assert_eq!(app.get("/events/1", &[("X-Consumer-Id", "toto")]).await.status, 404);
}

#[tokio::test]
async fn accepts_every_documented_query_parameter() {
    let (_database, app) = app().await;
    let mut count = 0;
    for (path, method, names) in described(&app).await {
        for name in names {
            // Given twice, so that no stream opens. Repeatable parameters refuse the value.
            let path = format!("{path}?{name}=%01&{name}=%01");
            let answer = ask(app.address, &method, &path, &[("Content-Length", "0")]).await;
            assert!((400..500).contains(&answer.status), "{method} {path}: {}", answer.body);
            assert!(!detail(&answer).contains("there is no"), "{path}: {}", answer.body);
            count += 1;
        }
    }
    assert!(count >= 10, "{count}");
}

#[tokio::test]
async fn suggests_the_query_parameter_that_was_meant() {
    let (_database, app) = app().await;
    for (path, says) in [
        ("/events?consumer=toto&lastEventID=0", "did you mean \"lastEventId\""),
        ("/events?consumer=toto&type=insert", "did you mean \"types\""),
        ("/events?Consumer=toto", "did you mean \"consumer\""),
        ("/events?consumer=toto&lastEventId=", "empty"),
        ("/events?consumer=toto&lastEventId=1&lastEventId=2", "twice"),
        ("/events?consumer=toto&amended=true&amended=true", "twice"),
        ("/events?consumer=toto&types=a%0Ab", "types"),
        ("/all?last_event_id=1", "did you mean \"lastEventId\""),
        ("/all?consumer=toto", "\"consumer\""),
        ("/streams/s?ofset=1", "did you mean \"offset\""),
        ("/streams/s?offset=", "empty"),
        ("/streams/s?limit=1&limit=2", "twice"),
        ("/streams/s?lastEventId=1", "followed"),
        ("/events/1?amend=true", "did you mean \"amended\""),
    ] {
        let answer = app.get(path, &[]).await;
        assert_eq!(answer.status, 400, "{path}: {}", answer.body);
        assert!(detail(&answer).contains(says), "{path}: {}", answer.body);
    }
    let followed = [("Accept", "text/event-stream")];
    for path in ["/streams/s?limit=5", "/streams/s?direction=backward"] {
        let answer = app.get(path, &followed).await;
        assert_eq!(answer.status, 400, "{path}: {}", answer.body);
    }
}

#[tokio::test]
async fn keeps_unicode_whitespace_of_consumer_names() {
    let (database, app) = app_with(|settings| {
        settings.access.modes = Modes::TRUSTED_HEADER;
    })
    .await;
    let insert = "insert into events (type, subscriber, payload) values ('t', 'alice', '1')";
    database.connect().await.batch_execute(insert).await.unwrap();
    let first = async |name: &str| {
        let headers = [("X-Consumer-Id", name), ("Last-Event-ID", "0")];
        let mut stream = Stream::open(app.address, "/events", &headers).await;
        loop {
            let frame = stream.next().await.unwrap();
            if !frame.event.is_empty() && frame.event != "heartbeat" {
                return frame.event;
            }
        }
    };
    // A replay ends at the position of the reader, so wait until the reader has passed the event.
    eventually("the event is replayed", async || (first("alice").await == "t").then_some(())).await;
    assert_eq!(first(" alice\t").await, "t");
    for blank in ["\u{a0}", "\u{1680}", "\u{2003}", "\u{2028}", "\u{202f}", "\u{205f}", "\u{3000}"]
    {
        assert_eq!(first(&format!("alice{blank}")).await, "$caught-up", "{blank:?}");
        assert_eq!(first(&format!("{blank}alice")).await, "$caught-up", "{blank:?}");
        let named = [("X-Consumer-Id", &*format!("alice{blank}"))];
        assert_eq!(app.get("/events/1", &named).await.status, 404, "{blank:?}");
    }
}

#[tokio::test]
async fn rejects_names_that_are_not_utf_8() {
    let (_database, app) = app().await;
    for name in [&b"alice\xa0"[..], b"\xff", b"ali\xc3\x28ce"] {
        for path in ["/events", "/events/1"] {
            let head = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
            let mut socket = TcpStream::connect(app.address).await.unwrap();
            let request = [head.as_bytes(), b"X-Consumer-Id: ", name, b"\r\n\r\n"].concat();
            socket.write_all(&request).await.unwrap();
            let answer = whole(socket).await.unwrap();
            assert_eq!(answer.status, 400, "{name:?}: {}", answer.body);
            assert!(detail(&answer).contains("not UTF-8"), "{}", answer.body);
        }
    }
    for query in ["consumer=%FF", "consumer=alice%A0", "consumer=%ED%A0%80", "types=%FF&consumer=a"]
    {
        let answer = app.get(&format!("/events?{query}"), &[]).await;
        assert_eq!(answer.status, 400, "{query}: {}", answer.body);
        assert!(detail(&answer).contains("not UTF-8"), "{query}: {}", answer.body);
    }
    for query in ["consumer=a%00", "consumer=%09a", "consumer=a%7F", "consumer=a%C2%85"] {
        let answer = app.get(&format!("/events?{query}"), &[]).await;
        assert_eq!(answer.status, 400, "{query}: {}", answer.body);
        assert!(detail(&answer).contains("control character"), "{query}: {}", answer.body);
    }
    let twice = [("X-Consumer-Id", "a"), ("Last-Event-ID", "1"), ("Last-Event-ID", "2")];
    assert_eq!(app.get("/events", &twice).await.status, 400);
}

#[tokio::test]
async fn a_page_has_the_stream_version_as_its_etag() {
    let (_database, app) = app().await;
    let get = async |headers: &[(&str, &str)]| app.get("/streams/s", headers).await;
    assert_eq!(get(&[("If-None-Match", "*")]).await.status, 200, "the stream has no events");
    assert_eq!(get(&[("If-Match", "*")]).await.status, 412);
    let appended = app.post("/streams/s", r#"{"type":"t","data":{}}"#).await;
    assert_eq!(appended.headers["etag"], "\"1\"", "{}", appended.body);
    for (name, value, status) in [
        ("If-None-Match", "\"1\"", 304),
        ("If-None-Match", "W/\"1\"", 304),
        ("If-None-Match", "\"9\", \"1\"", 304),
        ("If-None-Match", "*", 304),
        ("If-None-Match", "\"2\"", 200),
        ("If-None-Match", "\"1", 400),
        ("If-Match", "\"1\"", 200),
        ("If-Match", "*", 200),
        ("If-Match", "\"2\", \"1\"", 200),
        ("If-Match", "\"2\"", 412),
        ("If-Match", "W/\"1\"", 412),
    ] {
        let answer = get(&[(name, value)]).await;
        assert_eq!(answer.status, status, "{name}: {value}: {}", answer.body);
        if status < 400 {
            assert_eq!(answer.headers["etag"], "\"1\"", "{name}: {value}");
        }
        assert_eq!(answer.body.is_empty(), status == 304, "{name}: {value}");
    }
    let head = ask(app.address, "HEAD", "/streams/s", &[("If-None-Match", "\"1\"")]).await;
    assert_eq!(head.status, 304);
}

#[tokio::test]
async fn an_append_accepts_lists_of_etags_but_no_weak_ones() {
    let (_database, app) = app().await;
    let event = r#"{"type":"t","data":{}}"#;
    let append = async |name: &str, value: &str| {
        let headers = [(name, value), ("Content-Type", "application/json")];
        post(app.address, "/streams/s", &headers, event).await
    };
    assert_eq!(append("If-None-Match", "\"4\"").await.json()["version"], 1);
    assert_eq!(append("If-Match", "\"7\", \"1\"").await.json()["version"], 2);
    for (name, value) in [
        ("If-Match", "W/\"2\""),
        ("If-Match", "\"x\""),
        ("If-Match", "\"7\", \"8\""),
        ("If-None-Match", "\"2\""),
        ("If-None-Match", "W/\"2\", \"9\""),
    ] {
        let answer = append(name, value).await;
        assert_eq!(answer.status, 412, "{name}: {value}: {}", answer.body);
        assert_eq!(answer.json()["version"], 2, "{name}: {value}");
    }
    assert!(detail(&append("If-Match", "W/\"2\"").await).contains("weak"));
    assert_eq!(append("If-Match", "\"2").await.status, 400);
    assert_eq!(append("If-Match", "\"2\"").await.json()["version"], 3);
    let elsewhere = [("If-Match", "*"), ("Content-Type", "application/json")];
    let answer = post(app.address, "/events", &elsewhere, EVENT).await;
    assert_eq!(answer.status, 400, "the precondition was ignored: {}", answer.body);
}

#[tokio::test]
async fn a_foreign_page_cannot_write_through_a_proxy() {
    let (database, app) = app_with(|settings| {
        settings.access.modes = Modes::TRUSTED_HEADER;
        settings.access.header_rights =
            serde_json::from_str(r#"{"write": "*", "write_streams": "*"}"#).unwrap();
        settings.access.origins = vec!["https://app.example".into()];
    })
    .await;
    let write = async |path: &str, headers: &[(&str, &str)]| {
        let body = if path == "/events" { EVENT } else { r#"{"type":"t","data":{}}"# };
        let headers = [&[("X-Consumer-Id", "toto"), ("Host", "gateway.example")], headers].concat();
        let lines: Vec<_> =
            headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let (lines, length) = (lines.concat(), body.len());
        let request = format!(
            "POST {path} HTTP/1.1\r\n{lines}Connection: close\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        let mut socket = TcpStream::connect(app.address).await.unwrap();
        socket.write_all(request.as_bytes()).await.unwrap();
        whole(socket).await.unwrap().status
    };
    for path in ["/events", "/streams/s", "/tickets"] {
        for headers in [
            &[("Origin", "https://evil.test"), ("Content-Type", "text/plain")][..],
            &[("Origin", "https://evil.test"), ("Content-Type", "application/json")],
            &[("Origin", "https://evil.test"), ("Cookie", "session=1")],
            &[("Origin", "https://evil.test"), ("Authorization", "Basic dG90bzp4")],
            &[("Origin", "https://evil.test"), ("Authorization", "Negotiate x")],
            &[("Origin", "https://evil.test"), ("Sec-Fetch-Site", "cross-site")],
            &[("Origin", "https://evil.gateway.example"), ("Sec-Fetch-Site", "same-site")],
            &[("Origin", "null")],
            &[("Origin", "")],
            &[("Origin", "https://gateway.example.evil.test")],
            &[("Origin", "http://localhost:8000")],
            &[("Origin", "https://evil.test"), ("Origin", "https://app.example")],
            &[("Sec-Fetch-Site", "cross-site")],
            &[("Sec-Fetch-Site", "same-site")],
            &[("Sec-Fetch-Site", "none")],
        ] {
            assert_eq!(write(path, headers).await, 403, "{path} {headers:?}");
        }
    }
    for headers in [
        &[][..],
        &[("Content-Type", "application/json")],
        &[("Cookie", "session=1")],
        &[("Origin", "https://app.example"), ("Sec-Fetch-Site", "cross-site")],
        &[("Origin", "https://gateway.example")],
        &[("Origin", "https://public.example"), ("X-Forwarded-Host", "public.example")],
        &[("Origin", "https://public.example"), ("Sec-Fetch-Site", "same-origin")],
        &[("Origin", "https://evil.test"), ("Authorization", "Bearer of-the-proxys")],
    ] {
        assert_eq!(write("/events", headers).await, 201, "{headers:?}");
    }
    let count = "select count(*) from events";
    let written: i64 = database.connect().await.query_one(count, &[]).await.unwrap().get(0);
    assert_eq!(written, 8);
}

#[tokio::test]
async fn reading_several_consumers_requires_the_right_to_each() {
    let (database, app, signer) = issuer::app_with(|_| {}).await;
    let insert = "insert into events (type, subscriber, payload) values ('t', 'a', '1')";
    database.connect().await.batch_execute(insert).await.unwrap();
    let rights = serde_json::json!({"event_piper": {"read": ["a", "b"]}});
    let bearer = issuer::bearer(&signer.token(&issuer::claims_with("a", &rights)));
    let bearer = [("Authorization", &*bearer)];
    for (path, status) in [
        ("/events/1", 200),
        ("/events/1?consumer=a", 200),
        ("/events/1?consumer=a&consumer=b", 200),
        ("/events/1?consumer=b", 404),
        ("/events/1?consumer=a&consumer=c", 403),
        ("/events/1?consumer=c&consumer=a", 403),
        ("/events?consumer=a&consumer=c", 403),
    ] {
        let answer = app.get(path, &bearer).await;
        assert_eq!(answer.status, status, "{path}: {}", answer.body);
    }
}

#[tokio::test]
async fn responses_are_private_to_their_caller() {
    let (_database, app) = app().await;
    assert_eq!(app.post("/events", EVENT).await.status, 201);
    let appended = app.post("/streams/s", r#"{"type":"t","data":{}}"#).await;
    assert_eq!(appended.status, 200, "{}", appended.body);
    let toto = ("X-Consumer-Id", "toto");
    for (path, headers, status, kept) in [
        ("/events/1", &[toto][..], 200, "private, no-cache"),
        ("/streams/s", &[], 200, "private, no-cache"),
        ("/streams/s", &[("If-None-Match", "\"1\"")], 304, "private, no-cache"),
        ("/metrics", &[], 200, "private, no-cache"),
        ("/readyz", &[], 200, "no-store"),
        ("/", &[], 200, "no-cache"),
        ("/events/9", &[toto], 404, "no-store"),
        ("/events", &[], 401, "no-store"),
        ("/events?consumer=titi", &[toto], 403, "no-store"),
    ] {
        let answer = app.get(path, headers).await;
        assert_eq!((answer.status, &*answer.headers["cache-control"]), (status, kept), "{path}");
        varies(path, &answer.headers["vary"]);
    }
    assert_eq!(appended.headers["cache-control"], "no-store");
    for path in ["/events?consumer=toto", "/all", "/streams/s"] {
        let headers = [("Accept", "text/event-stream")];
        let stream = Stream::open(app.address, path, &headers).await;
        assert_eq!(stream.headers["cache-control"], "no-cache, no-transform", "{path}");
        varies(path, &stream.headers["vary"]);
    }
}

fn varies(path: &str, vary: &str) {
    for name in ["authorization", "cookie", "x-consumer-id", "accept"] {
        assert!(vary.split(", ").any(|it| it == name), "{path} {name}: {vary}");
    }
}

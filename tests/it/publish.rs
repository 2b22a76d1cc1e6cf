//! `POST /events`: writes one or several events atomically, and once.

use event_piper::{access::Modes, write};
use serde_json::json;

use crate::support::{
    app::{App, Settings},
    chaos_proxy::{ChaosProxy, Strike},
    eventually,
    postgres::{Database, Stop, TestServer},
    sse_client::{Answer, ask, post},
};

const UID: &str = "e5a2c0de-0000-4000-8000-000000000001";

async fn app() -> (Database, App) {
    let database = Database::create().await;
    let app = App::start(&database.url()).await;
    (database, app)
}

async fn count(database: &Database) -> i64 {
    let client = database.connect().await;
    client.query_one("select count(*) from events", &[]).await.unwrap().get(0)
}

fn refused(answer: &Answer, status: u16, says: &str) {
    assert_eq!(answer.status, status, "{}", answer.body);
    assert_eq!(answer.headers["content-type"], "application/problem+json");
    let detail = answer.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains(says), "{says} in {detail}");
}

#[tokio::test]
async fn an_event_is_written_and_delivered() {
    let (_database, app) = app().await;
    let mut toto = app.follow("toto").await.joined().await;
    let body = r#"{"type":"insert","subscriber":"toto","payload":{"foo":"bar"}}"#;
    let answer = app.post("/events", body).await;
    assert_eq!((answer.status, answer.body.as_str()), (201, r#"{"id":1}"#));
    assert_eq!(answer.headers["location"], "/events/1");
    let event = toto.event().await;
    assert_eq!((event.row(), event.event.as_str()), (1, "insert"));
    assert_eq!(event.data, r#"{"foo":"bar"}"#);
}

#[tokio::test]
async fn writes_all_events_of_an_array_in_order_or_none() {
    let (database, app) = app().await;
    let events: Vec<_> = (0..1000)
        .map(|n| json!({ "type": "t", "subscriber": "toto", "payload": n, "metadata": { "n": n } }))
        .collect();
    let answer = app.post("/events", &json!(events).to_string()).await;
    assert_eq!(answer.status, 201, "{}", answer.body);
    assert_eq!(answer.json(), json!({ "ids": (1..=1000).collect::<Vec<_>>() }));
    let client = database.connect().await;
    let sql = "select count(*) from events
               where payload = to_jsonb(id - 1) and metadata = jsonb_build_object('n', id - 1)";
    assert_eq!(client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0), 1000);

    let mut wrong = events.clone();
    wrong[999]["type"] = "".into();
    refused(
        &app.post("/events", &json!(wrong).to_string()).await,
        400,
        "event 999: type: is empty",
    );
    assert_eq!(count(&database).await, 1000);
}

#[tokio::test]
async fn keeps_every_field_and_digit_of_an_event() {
    let (_database, app) = app().await;
    let body = format!(
        r#"{{"type":"t","subscriber":"é","payload":[1e400,12345678901234567890.000000000000000000001,
            "\ud83d\udc4b"],"timestamp":"2024-05-01T12:00:00.5+02:00","uid":"{UID}",
            "metadata":{{"by":null}}}}"#
    );
    assert_eq!(app.post("/events", &body).await.status, 201);
    let answer = app.get("/events/1", &[]).await;
    for kept in [
        r#""timestamp":"2024-05-01T10:00:00.500000Z""#,
        &format!(r#""uid":"{UID}""#),
        r#""subscriber":"é""#,
        &format!(
            r#""payload":[1{},12345678901234567890.000000000000000000001,"👋"]"#,
            "0".repeat(400)
        ),
        r#""metadata":{"by":null}"#,
    ] {
        assert!(answer.body.contains(kept), "{kept} in {}", answer.body);
    }
}

#[tokio::test]
async fn a_repeated_uid_is_written_once_with_the_same_response() {
    let (database, app) = app().await;
    let body = |payload: &str| {
        format!(r#"{{"type":"t","subscriber":"toto","payload":{payload},"uid":"{UID}"}}"#)
    };
    for same in [r#"{"a":1,"b":2}"#, r#"{"a":1,"b":2}"#, r#"{"b":2, "a":1.0}"#] {
        let answer = app.post("/events", &body(same)).await;
        assert_eq!((answer.status, answer.body.as_str()), (201, r#"{"id":1}"#));
    }
    refused(&app.post("/events", &body("3")).await, 409, UID);
    let again = app.post("/events", &format!("[{}]", body(r#"{"a":1,"b":2}"#))).await;
    assert_eq!((again.status, again.json()), (201, json!({ "ids": [1] })));
    assert_eq!(count(&database).await, 1);
}

#[tokio::test]
async fn duplicates_in_one_request_are_written_once() {
    let (database, app) = app().await;
    let event = |n: u8, payload: u8| {
        let uid = UID.replace('1', &n.to_string());
        json!({ "type": "t", "stream": "s", "payload": payload, "uid": uid })
    };
    let sent = json!([event(1, 1), event(2, 1), event(1, 1)]).to_string();
    for _ in 0..2 {
        let answer = app.post("/events", &sent).await;
        assert_eq!((answer.status, answer.json()), (201, json!({ "ids": [1, 2, 1] })));
    }
    let differing = json!([event(3, 1), event(4, 1), event(3, 2)]).to_string();
    refused(&app.post("/events", &differing).await, 409, "event 2: ");
    let stream = sent.replace(r#""stream":"s","#, "");
    let stream = stream.replace("8000", "9000");
    let answer = app.post("/streams/other/1", &stream).await;
    assert_eq!((answer.status, &answer.json()["version"]), (200, &json!(2)), "{}", answer.body);
    assert_eq!(count(&database).await, 4);
}

#[tokio::test]
async fn an_idempotency_key_determines_the_uids() {
    let (database, app) = app().await;
    let two =
        r#"[{"type":"t","subscriber":"a","payload":1},{"type":"t","subscriber":"a","payload":1}]"#;
    let send = async |key: &str, body: &str| {
        post(app.address, "/events", &[("Idempotency-Key", key)], body).await
    };
    let first = send("order-4711", two).await;
    assert_eq!(first.json(), json!({ "ids": [1, 2] }));
    assert_eq!(send("order-4711", two).await.json(), first.json());
    refused(&send("order-4711", &two.replace("payload\":1}]", "payload\":2}]")).await, 409, "uid");
    assert_eq!(count(&database).await, 2);
    refused(&send("", two).await, 400, "Idempotency-Key");
    let one = r#"{"type":"t","subscriber":"a","payload":1}"#;
    let id = send(UID, one).await.json();
    assert_eq!(app.get(&format!("/events/{}", id["id"]), &[]).await.json()["uid"], UID);
}

#[tokio::test]
async fn concurrent_writes_of_a_uid_write_it_once() {
    let (database, app) = app().await;
    let other = App::start(&database.url()).await;
    for round in 1..=5 {
        let uid = format!("e5a2c0de-0000-4000-8000-{round:012}");
        let body = format!(r#"{{"type":"t","subscriber":"a","payload":1,"uid":"{uid}"}}"#);
        let ask = |at: usize| {
            let (address, body) = ([app.address, other.address][at % 2], body.clone());
            tokio::spawn(async move { post(address, "/events", &[], &body).await })
        };
        let asked: Vec<_> = (0..32).map(ask).collect();
        let mut answers = Vec::new();
        for answer in asked {
            let answer = answer.await.unwrap();
            assert_eq!(answer.status, 201, "{}", answer.body);
            answers.push(answer.body);
        }
        answers.dedup();
        assert_eq!(answers.len(), 1, "{answers:?}");
        assert_eq!(count(&database).await, round);
    }
}

#[tokio::test]
async fn an_event_that_postgresql_refuses_fails_alone() {
    let (database, app) = app().await;
    let client = database.connect().await;
    // A constraint that the gateway does not know.
    let rule = "alter table events add constraint no_thirteen check (payload <> '13')";
    client.batch_execute(rule).await.unwrap();
    let ask = |n: usize| {
        let (address, body) =
            (app.address, json!({ "type": "t", "subscriber": "a", "payload": n }));
        tokio::spawn(async move { post(address, "/events", &[], &body.to_string()).await })
    };
    for (n, answer) in (0..200).map(ask).collect::<Vec<_>>().into_iter().enumerate() {
        let answer = answer.await.unwrap();
        assert_eq!(answer.status, if n == 13 { 422 } else { 201 }, "{n}: {}", answer.body);
    }
    assert_eq!(count(&database).await, 199);
}

#[tokio::test]
async fn rejects_bodies_that_are_too_large_or_of_another_type() {
    let database = Database::create().await;
    let mut settings = Settings::default();
    (settings.http.limits.body, settings.http.limits.event) = (1000, 500);
    let app = App::start_with(&database.url(), settings).await;
    let event = |bytes: usize| {
        json!({ "type": "t", "subscriber": "a", "payload": "x".repeat(bytes) }).to_string()
    };
    refused(&app.post("/events", &event(600)).await, 413, "--max-event");
    refused(&app.post("/events", &event(2000)).await, 413, "--max-body");
    let chunked = [("Transfer-Encoding", "chunked")];
    let sent = format!("7d0\r\n{}\r\n0\r\n\r\n", "x".repeat(2000));
    let answer = post_raw(&app, &chunked, &sent).await;
    refused(&answer, 413, "--max-body");
    let xml = post(app.address, "/events", &[("Content-Type", "text/xml")], "<a/>").await;
    refused(&xml, 415, "application/json");
    refused(&app.post("/events", "[]").await, 400, "1 to");
    refused(&app.post("/events", "{").await, 400, "not a valid event in JSON");
    let listed = r#"[["t","a",1]]"#;
    refused(&app.post("/events", listed).await, 400, "event 0: an event is an object");
    let short = json!({ "type": "t", "subscriber": "a", "payload": 0 }).to_string();
    refused(&app.post("/events", &short.replace('0', "1e600")).await, 413, "written out");
    for (name, value, says) in [
        ("Content-Encoding", "gzip", "send the body without it"),
        ("Content-Type", "application/json; charset=iso-8859-1", "UTF-8"),
    ] {
        refused(&post(app.address, "/events", &[(name, value)], &event(1)).await, 415, says);
    }
    let utf_8 = [("Content-Type", "application/json; charset=UTF-8")];
    assert_eq!(post(app.address, "/events", &utf_8, &event(1)).await.status, 201);
    refused(&app.post("/streams/%ff", "{}").await, 400, "UTF-8");
    assert_eq!(app.post("/events", &event(100)).await.status, 201);
}

/// Sends a body as it is, with these headers.
async fn post_raw(app: &App, headers: &[(&str, &str)], body: &str) -> Answer {
    use tokio::io::AsyncWriteExt;
    let mut request =
        "POST /events HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n".to_owned();
    for (name, value) in headers {
        request.extend([name, ": ", value, "\r\n"]);
    }
    let mut socket = tokio::net::TcpStream::connect(app.address).await.unwrap();
    socket.write_all(format!("{request}\r\n{body}").as_bytes()).await.unwrap();
    crate::support::sse_client::whole(socket).await.unwrap()
}

#[tokio::test]
async fn a_full_write_queue_refuses_at_once() {
    let database = Database::create().await;
    let mut settings = Settings::default();
    settings.gateway.writer =
        Some(write::Settings { connections: 1, queue: 4, bytes: 1 << 20, bytes_each: 1 << 20 });
    let app = App::start_with(&database.url(), settings).await;
    let lock = database.connect().await;
    lock.batch_execute("begin; lock table events in exclusive mode").await.unwrap();
    let body = |n: usize| json!({ "type": "t", "subscriber": "a", "payload": n }).to_string();
    let ask = |n: usize| {
        let (address, body) = (app.address, body(n));
        tokio::spawn(async move { post(address, "/events", &[], &body).await })
    };
    let waiting: Vec<_> = (0..4).map(ask).collect();
    // A fourth one has left the queue, and waits for the lock.
    eventually("the queue is full", async || (app.metric("write_queue").await == 3).then_some(()))
        .await;
    let full = app.post("/events", &body(9)).await;
    refused(&full, 429, "nothing was written");
    assert_eq!(full.headers["retry-after"], "1");
    lock.batch_execute("rollback").await.unwrap();
    for answer in waiting {
        assert_eq!(answer.await.unwrap().status, 201);
    }
    assert_eq!(app.post("/events", &body(10)).await.status, 201);
    let nines = "select count(*) from events where payload = '9'";
    let nines: i64 = database.connect().await.query_one(nines, &[]).await.unwrap().get(0);
    assert_eq!(nines, 0);
    let large = json!({ "type": "t", "subscriber": "a", "payload": "x".repeat(2 << 20) });
    refused(&app.post("/events", &large.to_string()).await, 413, "--max-event");
}

#[tokio::test]
async fn writing_needs_a_right_and_can_be_disabled() {
    let database = Database::create().await;
    let body = r#"{"type":"t","subscriber":"a","payload":1}"#;
    let mut settings = Settings::default();
    settings.gateway.writer = None;
    let reader = App::start_with(&database.url(), settings).await;
    refused(&reader.post("/events", body).await, 403, "--writing");
    let mut settings = Settings::default();
    settings.access.modes = Modes::TRUSTED_HEADER;
    let trusting = App::start_with(&database.url(), settings).await;
    let toto = [("X-Consumer-Id", "toto")];
    refused(&post(trusting.address, "/events", &toto, body).await, 403, "write");
    assert_eq!(ask(trusting.address, "GET", "/all", &toto).await.status, 403);
    assert_eq!(ask(trusting.address, "GET", "/streams/a", &toto).await.status, 403);
}

#[tokio::test]
async fn a_foreign_page_cannot_make_a_browser_write() {
    let (database, app) = app().await;
    let body = r#"{"type":"t","subscriber":"a","payload":1}"#;
    for (origin, status) in [
        ("https://evil.example", 403),
        ("null", 403),
        ("http://localhost:8000", 201),
        ("http://127.0.0.1:4000", 201),
    ] {
        let headers = [("Origin", origin), ("Content-Type", "text/plain")];
        let answer = post(app.address, "/events", &headers, body).await;
        assert_eq!(answer.status, status, "{origin}: {}", answer.body);
    }
    assert_eq!(count(&database).await, 2);
}

/// A statement that succeeded may still fail at commit.
#[tokio::test]
async fn a_failure_at_commit_is_reported() {
    let (database, app) = app().await;
    let trigger = "create function no() returns trigger language plpgsql
                   as $no$ begin raise exception 'no' using errcode = '23514'; end $no$;
                   create constraint trigger no after insert on events
                   deferrable initially deferred for each row execute function no()";
    database.connect().await.batch_execute(trigger).await.unwrap();
    let event = r#"{"type":"t","subscriber":"a","payload":1}"#;
    for body in [event.to_owned(), format!("[{event},{event}]")] {
        let answer = app.post("/events", &body).await;
        assert_eq!(answer.status, 422, "{}", answer.body);
    }
    assert_eq!(count(&database).await, 0);
}

/// If PostgreSQL does not answer, it is not known whether the event was written, whether the session was
/// terminated or the connection was cut. An event without a `uid` is not sent again.
#[tokio::test]
async fn a_write_without_an_answer_is_reported_as_unknown() {
    let database = Database::create().await;
    let (network, url) = ChaosProxy::before(&database).await;
    let app = App::start(&url).await;
    let client = database.connect().await;
    let slow = "create function slow() returns trigger language plpgsql
                as $slow$ begin perform pg_sleep(3600); return null; end $slow$;
                create trigger slow after insert on events
                for each statement execute function slow()";
    client.batch_execute(slow).await.unwrap();
    let body = r#"{"type":"t","subscriber":"a","payload":1}"#;
    let writer = "from pg_stat_activity where datname = current_database()
                  and application_name = 'event-piper writer' and wait_event = 'PgSleep'";
    for terminates in [true, false] {
        let interrupt = async {
            eventually("the event is being written", async || {
                client.query_opt(&format!("select {writer}"), &[]).await.unwrap()
            })
            .await;
            if terminates {
                let end = format!("select pg_terminate_backend(pid) {writer}");
                client.query_one(&end, &[]).await.unwrap();
            } else {
                network.strike(Strike::Cut);
            }
        };
        let (answer, ()) = tokio::join!(app.post("/events", body), interrupt);
        refused(&answer, 503, "it is not known what was written");
    }
    // PostgreSQL does not notice that the client has gone until the statement ends.
    client.execute(&format!("select pg_terminate_backend(pid) {writer}"), &[]).await.unwrap();
    assert_eq!(count(&database).await, 0, "the event was sent again");
}

#[tokio::test]
async fn reports_a_role_without_the_right_to_write() {
    let (database, _app) = app().await;
    let client = database.connect().await;
    let name = database.name();
    let role = format!(
        "create role reader_{name} login;
         grant select on events, events_pruned, event_piper_migrations to reader_{name}"
    );
    client.batch_execute(&role).await.unwrap();
    let url = database.url().replace("user=postgres", &format!("user=reader_{name}"));
    let app = App::start(&url).await;
    let body = r#"{"type":"t","subscriber":"a","payload":1}"#;
    refused(&app.post("/events", body).await, 403, "--writing off");
}

#[tokio::test]
async fn reports_that_nothing_was_written_during_an_outage() {
    let server = TestServer::start_own("").await;
    let database = Database::create_on_own(&server).await;
    let app = App::start(&database.url()).await;
    let body = r#"{"type":"t","subscriber":"a","payload":1}"#;
    assert_eq!(app.post("/events", body).await.status, 201);
    server.stop(Stop::Fast).await;
    let away = eventually("the gateway notices the outage", async || {
        let answer = app.post("/events", body).await;
        assert_eq!(answer.status, 503, "{}", answer.body);
        answer.body.contains("nothing was written").then_some(answer)
    })
    .await;
    refused(&away, 503, "try again");
    server.start().await;
    eventually("writing works again", async || {
        (app.post("/events", body).await.status == 201).then_some(())
    })
    .await;
    assert_eq!(count(&database).await, 2);
}

//! The HTTP interface apart from the events themselves: errors, health, CORS and HTTP/2.

use std::collections::HashMap;

use event_piper::access::Modes;
use serde_json::json;

use crate::support::{
    app::{App, Settings},
    postgres::Database,
    sse_client::ask,
};

/// Path and headers, expected status, and a part of the expected detail.
type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], u16, &'a str);

const TOTO: (&str, &str) = ("X-Consumer-Id", "toto");

async fn app() -> (Database, App) {
    let database = Database::create().await;
    let app = App::start(&database.url()).await;
    (database, app)
}

#[tokio::test]
async fn errors_say_what_was_wrong() {
    let (_database, app) = app().await;
    let cases: [Case; 12] = [
        ("/events", &[], 401, "X-Consumer-Id"),
        ("/events", &[("X-Consumer-Id", "")], 401, "empty"),
        ("/events?consumer=", &[], 401, "empty"),
        ("/events", &[TOTO, TOTO], 400, "more than once"),
        ("/events?consumer=titi", &[TOTO], 403, "titi"),
        ("/events?consumer=a%0Ab", &[], 400, "control character"),
        ("/events", &[TOTO, ("Last-Event-ID", "12x")], 400, "\"12x\""),
        ("/events?lastEventId=-1", &[TOTO], 400, "\"-1\""),
        ("/events?types=", &[TOTO], 400, "types"),
        ("/events/x", &[TOTO], 400, "\"x\""),
        ("/events/99", &[TOTO], 404, "99"),
        ("/nothing", &[], 404, "/nothing"),
    ];
    for (path, headers, status, says) in cases {
        let answer = app.get(path, headers).await;
        assert_eq!(answer.status, status, "{path} {headers:?}: {}", answer.body);
        assert_eq!(answer.headers["content-type"], "application/problem+json", "{path}");
        let problem = answer.json();
        assert_eq!(problem["status"], status);
        assert!(problem["detail"].as_str().unwrap().contains(says), "{path}: {problem}");
    }
    let answer = ask(app.address, "DELETE", "/events", &[TOTO]).await;
    assert_eq!((answer.status, answer.json()["status"].as_u64()), (405, Some(405)));
}

#[tokio::test]
async fn trusted_header_mode_ignores_the_query() {
    let database = Database::create().await;
    let mut settings = Settings::default();
    settings.access.modes = Modes::TRUSTED_HEADER;
    let app = App::start_with(&database.url(), settings).await;
    assert_eq!(app.get("/events?consumer=toto", &[]).await.status, 401);
    assert_eq!(app.get("/events?consumer=titi", &[TOTO]).await.status, 403);
    assert_eq!(app.get("/events/1", &[]).await.status, 401);
    app.follow("toto").await.joined().await;
}

#[tokio::test]
async fn serves_one_event_to_its_consumer_only() {
    let (database, app) = app().await;
    let insert = r#"insert into events (type, "timestamp", subscriber, payload, uid, metadata)
        values ('insert', '2026-01-02 03:04:05.678901+00', 'toto', '{"n": 1.50}',
                '6a3f8f7e-9f0c-4f3e-8a6e-0f4f7f6c2f11', '{"by": "me"}')"#;
    database.connect().await.batch_execute(insert).await.unwrap();
    let answer = app.get("/events/1", &[TOTO]).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert!(
        answer.body.contains(r#""payload":{"n":1.50}"#),
        "every digit is kept: {}",
        answer.body
    );
    let expected = json!({
        "id": 1, "type": "insert", "timestamp": "2026-01-02T03:04:05.678901Z",
        "subscriber": "toto", "stream": null, "version": null,
        "uid": "6a3f8f7e-9f0c-4f3e-8a6e-0f4f7f6c2f11",
        "payload": {"n": 1.5}, "metadata": {"by": "me"},
    });
    assert_eq!(answer.json(), expected);
    assert_eq!(app.get("/events/1", &[("X-Consumer-Id", "titi")]).await.status, 404);
}

#[tokio::test]
async fn serves_health_checks_and_metrics() {
    let (_database, app) = app().await;
    assert_eq!(app.get("/healthz", &[]).await.status, 200);
    assert_eq!(app.get("/readyz", &[]).await.json(), json!({"status": "ready"}));
    assert_eq!(app.get("/manage/health", &[]).await.body, r#"{"status":"UP"}"#);
    let metrics = app.get("/metrics", &[]).await;
    assert!(metrics.headers["content-type"].starts_with("application/openmetrics-text"));
    assert!(metrics.body.ends_with("# EOF\n"));
    let counted =
        r#"event_piper_http_requests_total{route="/healthz",method="GET",status="200"} 1"#;
    assert!(metrics.body.contains(counted), "{}", metrics.body);
}

#[tokio::test]
async fn accepts_streams_while_postgresql_is_unavailable() {
    let url = "postgres://nobody@127.0.0.1:1/nothing";
    let app = App::launch(url, Settings::default()).await;
    let mut toto = app.resume("toto", "7").await;
    assert_eq!(toto.signal("heartbeat").await.id.as_deref(), Some("7"));
    toto.signal("heartbeat").await;
    let ready = app.get("/readyz", &[]).await;
    assert_eq!(ready.status, 503);
    assert!(ready.json()["detail"].as_str().unwrap().contains("PostgreSQL"));
    let answer = app.get("/events/1", &[TOTO]).await;
    assert_eq!((answer.status, answer.headers["retry-after"].as_str()), (503, "1"));
}

/// Caches need the date of a response (RFC 9110, section 6.6.1).
#[tokio::test]
async fn every_response_has_a_date() {
    let (_database, app) = app().await;
    assert!(app.get("/healthz", &[]).await.headers.contains_key("date"));
    assert!(app.follow("toto").await.headers.contains_key("date"));
}

#[tokio::test]
async fn open_mode_allows_loopback_origins_only() {
    let (_database, app) = app().await;
    let allowed = async |origin: &str| {
        let answer = app.get("/healthz", &[("Origin", origin)]).await;
        answer.headers.get("access-control-allow-origin").cloned()
    };
    for origin in ["http://localhost:8000", "http://127.0.0.1:5173", "http://[::1]:9"] {
        assert_eq!(allowed(origin).await.as_deref(), Some(origin));
    }
    for origin in
        ["https://evil.example", "null", "http://localhost.evil.example", "http://127.evil.example"]
    {
        assert_eq!(allowed(origin).await, None, "{origin}");
    }
}

#[tokio::test]
async fn listed_origins_may_read_with_credentials() {
    let database = Database::create().await;
    let mut settings = Settings::default();
    settings.http.cors_origins = vec!["https://app.example".into()];
    settings.http.cors_headers = vec!["X-Tenant".into()];
    let app = App::start_with(&database.url(), settings).await;
    let headers = [
        ("Origin", "https://app.example"),
        ("Access-Control-Request-Method", "GET"),
        ("Access-Control-Request-Headers", "x-consumer-id,last-event-id"),
    ];
    let preflight = ask(app.address, "OPTIONS", "/events", &headers).await;
    assert_eq!(preflight.headers["access-control-allow-origin"], "https://app.example");
    assert_eq!(preflight.headers["access-control-allow-credentials"], "true");
    let names = |headers: &HashMap<String, String>, header: &str| {
        let mut names: Vec<_> = headers[header].split(',').map(|it| it.trim().to_owned()).collect();
        names.sort();
        names.join(" ")
    };
    let allowed = names(&preflight.headers, "access-control-allow-headers");
    for name in [
        "authorization",
        "baggage",
        "cache-control",
        "content-type",
        "idempotency-key",
        "if-match",
        "if-none-match",
        "last-event-id",
        "traceparent",
        "tracestate",
        "x-consumer-id",
        "x-request-id",
        "x-tenant",
    ] {
        assert!(allowed.split(' ').any(|it| it == name), "{name}: {allowed}");
    }
    assert!(preflight.headers.contains_key("access-control-max-age"));
    assert_eq!(names(&preflight.headers, "access-control-allow-methods"), "GET HEAD POST");
    let read = app.get("/healthz", &[("Origin", "https://app.example")]).await;
    let exposed = names(&read.headers, "access-control-expose-headers");
    assert_eq!(exposed, "allow date etag location retry-after www-authenticate");
    let other = app.get("/healthz", &[("Origin", "http://localhost:8000")]).await;
    assert!(!other.headers.contains_key("access-control-allow-origin"));
}

#[tokio::test]
async fn cors_headers_star_allows_any_header() {
    let database = Database::create().await;
    let mut settings = Settings::default();
    settings.http.cors_origins = vec!["https://app.example".into()];
    settings.http.cors_headers = vec!["*".into()];
    let app = App::start_with(&database.url(), settings).await;
    let headers = [
        ("Origin", "https://app.example"),
        ("Access-Control-Request-Method", "GET"),
        ("Access-Control-Request-Headers", "x-anything,x-consumer-id"),
    ];
    let preflight = ask(app.address, "OPTIONS", "/events", &headers).await;
    assert_eq!(preflight.headers["access-control-allow-headers"], "x-anything,x-consumer-id");
}

#[tokio::test]
async fn clear_text_http2_carries_many_streams() {
    use http_body_util::{BodyExt, Empty};
    use hyper_util::rt::{TokioExecutor, TokioIo};

    let (database, app) = app().await;
    let socket = tokio::net::TcpStream::connect(app.address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(socket))
            .await
            .unwrap();
    tokio::spawn(connection);
    let mut bodies = Vec::new();
    for _ in 0..20 {
        let uri = format!("http://{}/events?consumer=toto", app.address);
        let request = hyper::Request::get(uri).body(Empty::<bytes::Bytes>::new()).unwrap();
        let answer = sender.send_request(request).await.unwrap();
        assert_eq!(answer.status(), 200);
        let mut body = answer.into_body();
        let hello = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert!(String::from_utf8_lossy(&hello).contains("heartbeat"));
        bodies.push(body);
    }
    let insert = "insert into events (type, subscriber, payload) values ('t', 'toto', '1')";
    database.connect().await.batch_execute(insert).await.unwrap();
    for body in &mut bodies {
        let frame = loop {
            let data = body.frame().await.unwrap().unwrap().into_data().unwrap();
            let text = String::from_utf8_lossy(&data).into_owned();
            if !text.contains("heartbeat") {
                break text;
            }
        };
        assert_eq!(frame, "id: 1\nevent: t\ndata: 1\n\n");
    }
}

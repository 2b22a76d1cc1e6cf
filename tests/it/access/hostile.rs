//! Hostile requests.

use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::issuer::{app_with, bearer, claims};
use crate::support::{
    app::{App, Settings},
    eventually,
    postgres::Database,
    process::Process,
    sse_client::Stream,
};

const DEADLINE: std::time::Duration = std::time::Duration::from_mins(2);

/// Sends bytes, and returns everything that is received until the connection ends.
async fn raw(app: &App, bytes: &[u8]) -> Vec<u8> {
    let mut socket = TcpStream::connect(app.address).await.unwrap();
    let mut answer = Vec::new();
    let asking = async {
        // A connection may be reset while bytes are sent. The response still counts.
        let _ = socket.write_all(bytes).await;
        let _ = socket.read_to_end(&mut answer).await;
    };
    timeout(DEADLINE, asking).await.expect("the connection ends");
    answer
}

async fn open() -> (Database, App) {
    let database = Database::create().await;
    let app = App::start(&database.url()).await;
    (database, app)
}

#[tokio::test]
async fn a_smuggled_request_is_not_answered() {
    let (_database, app) = open().await;
    let inner = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
    for head in [
        "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Transfer-Encoding: identity, chunked\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Content-Length: 0\r\nContent-Length: 5\r\n",
        "Content-Length: +0\r\n",
    ] {
        for path in ["/tickets", "/healthz", "/events"] {
            let request =
                format!("POST {path} HTTP/1.1\r\nHost: localhost\r\n{head}\r\n0\r\n\r\n{inner}");
            let answer = String::from_utf8(raw(&app, request.as_bytes()).await).unwrap();
            assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{head:?}: {answer}");
            assert!(!answer.contains("alive"), "{head:?}: {answer}");
        }
    }
}

#[tokio::test]
async fn echoed_text_cannot_inject_headers_or_json() {
    let (_database, app) = open().await;
    for path in [
        "/events?consumer=a%0d%0aX-Injected:%20y",
        "/events?consumer=a&lastEventId=1%0d%0aX-Injected:%20y",
        "/events?consumer=a&types=%0d%0aX-Injected:%20y,",
        "/events/1%0d%0aX-Injected:%20y",
        "/events/%22%7d%2c%7b",
        "/events/%2e%2e%2fmetrics",
        "/events/..%2f..%2fmetrics",
        "/events/%00",
        "/events/%ff",
        "/streams/%c0%af",
        "/nothing%ff",
        "/nothing%0d%0aX-Injected:%20y",
        "/%2e%2e/metrics",
        "/events/../metrics",
        "//metrics",
        "/metrics/",
        "/METRICS",
        "/tickets/..",
        "/events?ticket=a%0d%0aX-Injected:%20y&access_token=b",
    ] {
        let answer = app.get(path, &[]).await;
        assert!((400..500).contains(&answer.status), "{path}: {}", answer.status);
        assert!(!answer.headers.contains_key("x-injected"), "{path}");
        assert_eq!(answer.headers["content-type"], "application/problem+json", "{path}");
        assert_eq!(answer.json()["status"], answer.status, "{path}: {}", answer.body);
    }
}

#[tokio::test]
async fn rejects_repeated_headers() {
    let (_database, app, signer) = app_with(|settings| {
        settings.access.cookie = Some("token".into());
    })
    .await;
    let token = signer.token(&claims("toto"));
    let (good, cookie) = (bearer(&token), format!("token={token}"));
    let (a, b, c) = (("Authorization", &*good), ("X-Consumer-Id", "toto"), ("Cookie", &*cookie));
    for headers in [&[a, a][..], &[a, ("authorization", "Bearer x")], &[a, b, b], &[c, c]] {
        assert_eq!(app.get("/events", headers).await.status, 400, "{}", headers.len());
    }
    for hosts in ["", "Host: a\r\nHost: b\r\n", "Host: a\r\nHost: a\r\n"] {
        for path in ["/events", "/healthz"] {
            let request = format!("GET {path} HTTP/1.1\r\n{hosts}{}\r\n", "Connection: close\r\n");
            let answer = raw(&app, request.as_bytes()).await;
            assert!(answer.starts_with(b"HTTP/1.1 400 "), "{}", String::from_utf8_lossy(&answer));
        }
    }
}

#[tokio::test]
async fn a_thousand_cookies_are_read_or_rejected() {
    let (_database, app, signer) = app_with(|settings| {
        settings.access.cookie = Some("token".into());
    })
    .await;
    let token = signer.token(&claims("toto"));
    let names = (0..1000).map(|n| n.to_string()).collect::<Vec<_>>();
    let many = ["c", &names.join("=x; c"), "=x; token=", &token].concat();
    assert!(many.len() < 16 << 10);
    Stream::open(app.address, "/events", &[("Cookie", &many)]).await.joined().await;
    let each = ["Cookie: c", &names.join("=x\r\nCookie: c"), "=x\r\n"].concat();
    let request = format!("GET /events HTTP/1.1\r\nHost: localhost\r\n{each}\r\n");
    let answer = raw(&app, request.as_bytes()).await;
    assert!(answer.starts_with(b"HTTP/1.1 4"), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(app.get("/healthz", &[]).await.status, 200);
}

#[tokio::test]
async fn rapid_resets_end_the_connection() {
    const HEADERS: [u8; 13] = [0, 0, 4, 1, 5, 0, 0, 0, 0, 0x82, 0x84, 0x86, 0x41];
    let (_database, app) = open().await;
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    for stream in (1_u32..).step_by(2).take(20_000) {
        // :method GET, :path /, :scheme http, :authority x, followed by RST_STREAM.
        let mut headers = HEADERS.to_vec();
        headers[2] = 6;
        headers[5..9].copy_from_slice(&stream.to_be_bytes());
        headers.extend([1, b'x']);
        let mut reset = vec![0, 0, 4, 3, 0, 0, 0, 0, 0, 0, 0, 0, 8];
        reset[5..9].copy_from_slice(&stream.to_be_bytes());
        bytes.extend(headers);
        bytes.extend(reset);
    }
    let answer = raw(&app, &bytes).await;
    // GOAWAY with ENHANCE_YOUR_CALM (RFC 9113, section 7).
    let calm = memchr::memmem::find(&answer, &[0, 0, 0, 0xb]);
    assert!(calm.is_some() || answer.len() < 64, "{} bytes", answer.len());
    assert_eq!(app.get("/healthz", &[]).await.status, 200);
}

#[tokio::test]
async fn an_idle_connection_is_closed() {
    let database = Database::create().await;
    let mut settings = Settings::default();
    settings.http.limits.head_within = std::time::Duration::from_millis(200);
    let app = App::start_with(&database.url(), settings).await;
    let preface: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let settings: &[u8] = b"\0\0\0\x04\0\0\0\0\0";
    for begun in [&b""[..], b"GET / HTTP/1.1\r\nHost: localhost\r\n", b"P", b"PRI", preface] {
        raw(&app, begun).await;
    }
    let answer = raw(&app, &[preface, settings].concat()).await;
    assert!(memchr::memmem::find(&answer, &[0, 0, 8, 7]).is_some(), "with a GOAWAY");
}

#[tokio::test]
async fn an_open_http_2_stream_keeps_its_connection() {
    let database = Database::create().await;
    let mut settings = Settings::default();
    settings.http.limits.head_within = std::time::Duration::from_millis(200);
    let app = App::start_with(&database.url(), settings).await;
    let socket = TokioIo::new(TcpStream::connect(app.address).await.unwrap());
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), socket).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = hyper::Request::get("http://localhost/events?consumer=toto");
    let request = request.body(Empty::<bytes::Bytes>::new()).unwrap();
    let mut body = sender.send_request(request).await.unwrap().into_body();
    let mut heartbeats = 0;
    while heartbeats < 4 {
        let frame = body.frame().await.expect("the stream goes on").unwrap();
        heartbeats += memchr::memmem::find_iter(frame.data_ref().unwrap(), b"thump").count();
    }
    drop(body);
    timeout(DEADLINE, connection).await.expect("then the connection ends").unwrap().unwrap();
}

#[tokio::test]
async fn the_log_has_refusals_but_no_secrets() {
    const SECRET: &str = "0123456789abcdef0123456789abcdef";
    let database = Database::create().await;
    let flags = [
        "--auth",
        "jwt",
        "--jwt-issuer",
        super::issuer::NAME,
        "--jwt-audience",
        super::issuer::AUDIENCE,
        "--jwt-secret",
        SECRET,
        "--log",
        "debug",
        "--log-format",
        "json",
    ];
    let process = Process::launch(&database.url(), &flags);
    process.ready().await;
    let ask = async |method: &str, path: &str, headers: &[(&str, &str)]| {
        crate::support::sse_client::ask(process.address(), method, path, headers).await
    };
    let signer = super::issuer::Signer::secret(SECRET.as_bytes());
    let token = signer.token(&claims("toto"));
    let headers = [("Authorization", &*bearer(&token)), ("Content-Length", "0")];
    let ticket = ask("POST", "/tickets", &headers).await.json()["ticket"].clone();
    let ticket = ticket.as_str().unwrap();
    let path = format!("/events?ticket={ticket}");
    Stream::open(process.address(), &path, &[]).await.joined().await;
    assert_eq!(ask("GET", &path, &[]).await.status, 401);
    assert_eq!(
        ask("GET", "/events/7%0aaudit", &[("Authorization", "Bearer bad")]).await.status,
        401
    );

    let lines = eventually("both refusals are in the log", async || {
        let log = process.log();
        let lines: Vec<Value> =
            log.lines().filter_map(|it| serde_json::from_str(it).ok()).collect();
        let audit: Vec<_> =
            lines.into_iter().filter(|it| it["target"] == "event_piper::audit").collect();
        (audit.len() >= 5).then_some(audit)
    })
    .await;
    let actions: Vec<_> = lines.iter().map(|it| it["action"].as_str().unwrap()).collect();
    assert_eq!(
        actions,
        ["ticket given", "ticket shown", "ticket shown", "refused", "refused"],
        "{lines:?}"
    );
    assert_eq!(lines[3]["reason"], "ticket-used");
    assert_eq!((&lines[4]["from"], &lines[4]["status"]), (&"127.0.0.1".into(), &401.into()));
    assert_eq!(lines[4]["path"], "/events/7%0aaudit");
    let log = process.log();
    for secret in [&token, ticket, SECRET] {
        assert!(!log.contains(secret), "a secret is in the log");
    }
}

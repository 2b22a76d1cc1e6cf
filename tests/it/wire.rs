//! The framing of HTTP/1.1: where a response ends, and whether it was cut.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::support::{
    app::{App, Settings},
    eventually,
    postgres::Database,
    process::Process,
    sse_client::{Stream, whole},
};

const DEADLINE: Duration = Duration::from_secs(30);

const INSERT: &str = "insert into events (type, stream, version, subscriber, payload) values ('t', 's', 1, 'toto', '1')";

/// One path per kind of stream. The gateway writes the first one itself, hyper writes the others.
const STREAMS: [&str; 3] = ["/events?consumer=toto", "/all", "/streams/s"];

async fn app() -> (Database, App) {
    let database = Database::create().await;
    let app = App::start(&database.url()).await;
    (database, app)
}

/// Opens a connection and sends the request.
async fn sent(app: &App, request: &str) -> TcpStream {
    let mut socket = TcpStream::connect(app.address).await.unwrap();
    socket.write_all(request.as_bytes()).await.unwrap();
    socket
}

fn follow(path: &str, version: &str) -> String {
    let head = "Host: localhost\r\nAccept: text/event-stream\r\nLast-Event-ID: 0\r\n\r\n";
    format!("GET {path} HTTP/{version}\r\n{head}")
}

/// Reads until `wanted` has arrived, and returns everything read.
async fn until(socket: &mut TcpStream, wanted: &str) -> String {
    let mut all = Vec::new();
    let reading = async {
        while memchr::memmem::find(&all, wanted.as_bytes()).is_none() {
            assert!(socket.read_buf(&mut all).await.unwrap() > 0, "the stream ended");
        }
    };
    let read = timeout(DEADLINE, reading).await;
    let all = String::from_utf8(all).unwrap();
    assert!(read.is_ok(), "no {wanted:?} in {all:?}");
    all
}

#[tokio::test]
async fn a_stream_is_chunked_and_ends_with_the_last_chunk() {
    for path in STREAMS {
        let (database, app) = app().await;
        let mut stream = Stream::open(app.address, path, &[("Accept", "text/event-stream")])
            .await
            .joined()
            .await;
        assert_eq!(stream.headers["transfer-encoding"], "chunked", "{path}");
        assert!(!stream.headers.contains_key("content-length"), "{path}");
        database.connect().await.batch_execute(INSERT).await.unwrap();
        assert!(stream.event().await.data.contains('1'), "{path}");
        app.stop().await;
        stream.signal("$closing").await;
        assert_eq!(stream.next().await, None, "{path}");
        assert!(stream.complete, "{path}: there is no last chunk");
    }
}

#[tokio::test]
async fn a_single_frame_is_one_chunk() {
    let (database, app) = app().await;
    let mut socket = sent(&app, &follow("/events?consumer=toto", "1.1")).await;
    until(&mut socket, "$caught-up").await;
    database.connect().await.batch_execute(INSERT).await.unwrap();
    until(&mut socket, "18\r\nid: 1\nevent: t\ndata: 1\n\n\r\n").await;
}

#[tokio::test]
async fn a_cut_stream_has_no_last_chunk() {
    let database = Database::create().await;
    let mut process = Process::launch(&database.url(), &[]);
    process.ready().await;
    let mut streams = Vec::new();
    for path in STREAMS {
        let headers = [("Accept", "text/event-stream")];
        streams.push(Stream::open(process.address(), path, &headers).await.joined().await);
    }
    process.signal(nix::sys::signal::Signal::SIGKILL);
    process.ended(DEADLINE).await.unwrap();
    for mut stream in streams {
        while stream.next().await.is_some() {}
        assert!(!stream.complete, "the killed process sent a last chunk");
    }
}

#[tokio::test]
async fn an_http_1_0_stream_ends_with_its_connection() {
    for path in STREAMS {
        for keep_alive in ["", "Connection: keep-alive\r\n"] {
            let (database, app) = app().await;
            let request = follow(path, "1.0").replace("Host", &format!("{keep_alive}Host"));
            let mut socket = sent(&app, &request).await;
            database.connect().await.batch_execute(INSERT).await.unwrap();
            let head = until(&mut socket, "\r\n\r\nretry: ").await;
            assert!(!head.to_ascii_lowercase().contains("transfer-encoding"), "{path}: {head}");
            app.stop().await;
            let mut rest = String::new();
            timeout(DEADLINE, socket.read_to_string(&mut rest))
                .await
                .expect("the stream ends")
                .unwrap();
            assert!(rest.ends_with("data: {\"reason\":\"shutdown\"}\n\n"), "{path}: {rest:?}");
        }
    }
}

#[tokio::test]
async fn a_half_closed_client_still_gets_its_stream() {
    for path in STREAMS {
        let (database, app) = app().await;
        let mut socket = sent(&app, &follow(path, "1.1")).await;
        socket.shutdown().await.unwrap();
        // Long enough for more than the probes that detect a closed connection.
        for _ in 0..4 {
            until(&mut socket, "event: heartbeat").await;
        }
        database.connect().await.batch_execute(INSERT).await.unwrap();
        until(&mut socket, "event: t\n").await;
        app.stop().await;
        until(&mut socket, "$closing").await;
    }
}

#[tokio::test]
async fn a_half_closed_client_still_gets_its_response() {
    let (_database, app) = app().await;
    let body = r#"{"type":"t","subscriber":"toto","payload":1}"#;
    let (length, lines) = (body.len(), format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len()));
    let lines_head = "Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n";
    for close in ["", "Connection: close\r\n"] {
        for (request, head, body, status) in [
            ("GET /healthz", "", "", 200),
            ("GET /streams/s", "", "", 200),
            ("GET /events?consumer=", "", "", 401),
            ("GET /nothing", "", "", 404),
            ("POST /events", &*format!("Content-Length: {length}\r\n"), body, 201),
            ("POST /events", lines_head, &lines, 200),
        ] {
            let request =
                format!("{request} HTTP/1.1\r\nHost: localhost\r\n{close}{head}\r\n{body}");
            let mut socket = sent(&app, &request).await;
            socket.shutdown().await.unwrap();
            let answer = whole(socket).await.unwrap();
            assert_eq!(answer.status, status, "{request}: {}", answer.body);
            assert_eq!(
                answer.body.contains("\"done\":true"),
                head == lines_head,
                "{}",
                answer.body
            );
        }
    }
}

#[tokio::test]
async fn a_half_closed_client_gets_the_response_to_a_slow_write() {
    let (database, app) = app().await;
    let mut other = database.connect().await;
    let lock = other.transaction().await.unwrap();
    lock.batch_execute("lock table events in exclusive mode").await.unwrap();
    let body = r#"{"type":"t","subscriber":"toto","payload":1}"#;
    let length = body.len();
    let request = format!(
        "POST /events HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    let mut socket = sent(&app, &request).await;
    socket.shutdown().await.unwrap();
    let waiting = "select count(*) from pg_locks where not granted";
    let watcher = database.connect().await;
    eventually("the write waits", async || {
        let count: i64 = watcher.query_one(waiting, &[]).await.unwrap().get(0);
        (count > 0).then_some(())
    })
    .await;
    lock.rollback().await.unwrap();
    let answer = whole(socket).await.unwrap();
    assert_eq!((answer.status, answer.json()["id"].as_u64()), (201, Some(1)));
}

#[tokio::test]
async fn rejects_an_incomplete_body_at_once() {
    let (_database, app) = app().await;
    let request =
        "POST /events HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{\"type\"";
    let mut socket = sent(&app, request).await;
    socket.shutdown().await.unwrap();
    let answer = whole(socket).await.unwrap();
    assert_eq!(answer.status, 400, "{}", answer.body);
}

#[tokio::test]
async fn a_closed_client_frees_its_slot_before_a_heartbeat() {
    for path in STREAMS {
        let database = Database::create().await;
        let mut settings = Settings::default();
        settings.http.heartbeat = Duration::from_hours(1);
        settings.http.limits.streams = 1;
        let app = App::start_with(&database.url(), settings).await;
        let headers = [("Accept", "text/event-stream")];
        drop(Stream::open(app.address, path, &headers).await.joined().await);
        eventually("another stream is admitted", async || {
            let mut stream = Stream::open(app.address, path, &headers).await;
            while let Some(frame) = stream.next().await {
                if frame.event == "heartbeat" {
                    return Some(());
                }
            }
            None
        })
        .await;
    }
}

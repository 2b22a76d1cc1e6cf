//! Limits of connections, streams and request heads.

use std::time::Duration;

use http_body_util::Empty;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::support::{
    app::{App, Settings},
    eventually,
    postgres::Database,
    sse_client::{self, Stream},
};

async fn limited(turn: impl FnOnce(&mut event_piper::http::Limits)) -> (Database, App) {
    let database = Database::create().await;
    let mut settings = Settings::default();
    turn(&mut settings.http.limits);
    let app = App::start_with(&database.url(), settings).await;
    (database, app)
}

#[tokio::test]
async fn clients_beyond_the_stream_limit_retry_later() {
    let (_database, app) = limited(|limits| limits.streams = 2).await;
    let first = app.follow("a").await.joined().await;
    let _second = app.follow("b").await.joined().await;
    let mut third = app.follow("c").await;
    let retry = third.next().await.unwrap();
    assert!((5000..=10_000).contains(&retry.retry.unwrap()), "{retry:?}");
    assert_eq!(third.next().await, None, "the response with the retry must end");
    assert_eq!(app.get("/healthz", &[]).await.status, 200, "health checks are still served");
    assert_eq!(app.metric("refused_total{reason=\"streams\"}").await, 1);

    drop(first);
    eventually("another stream is admitted", async || {
        let mut stream = app.follow("c").await;
        stream.next().await;
        stream.next().await
    })
    .await;
}

#[tokio::test]
async fn every_kind_of_stream_counts_against_the_limit() {
    let (_database, app) = limited(|limits| limits.streams = 1).await;
    let first = app.follow("a").await.joined().await;
    let stream = [("Accept", "text/event-stream")];
    for (path, headers) in [("/all", &[][..]), ("/streams/s", &stream)] {
        let mut second = Stream::open(app.address, path, headers).await;
        assert!(second.next().await.unwrap().retry.unwrap() >= 5000, "{path}");
        assert_eq!(second.next().await, None);
    }
    drop(first);
    let all = eventually("another stream is admitted", async || {
        let mut all = Stream::open(app.address, "/all", &[]).await;
        all.next().await;
        all.next().await.map(|_| all)
    })
    .await;
    let mut second = app.follow("a").await;
    assert!(second.next().await.unwrap().retry.unwrap() >= 5000);
    assert_eq!(second.next().await, None);
    drop(all);
}

#[tokio::test]
async fn one_consumer_cannot_use_all_streams() {
    let (_database, app) = limited(|limits| limits.streams_of_a_consumer = 1).await;
    let _first = app.follow("a").await.joined().await;
    let mut second = app.follow("a").await;
    assert!(second.next().await.unwrap().retry.unwrap() >= 5000);
    assert_eq!(second.next().await, None);
    app.follow("b").await.joined().await;
    let both = "/events?consumer=b&consumer=a";
    assert!(
        Stream::open(app.address, both, &[]).await.next().await.unwrap().retry.unwrap() >= 5000
    );
}

#[tokio::test]
async fn closes_connections_beyond_the_limit() {
    let (_database, app) = limited(|limits| limits.connections = 2).await;
    let first = app.follow("a").await.joined().await;
    let _second = app.follow("b").await.joined().await;
    let mut third = TcpStream::connect(app.address).await.unwrap();
    let closed = timeout(Duration::from_mins(2), third.read(&mut [0])).await.unwrap();
    assert!(matches!(closed, Ok(0) | Err(_)), "{closed:?}");
    drop(first);
    eventually("another stream is admitted", async || {
        sse_client::try_ask(app.address, "GET", "/healthz", &[]).await.ok()
    })
    .await;
}

#[tokio::test]
async fn closes_connections_with_a_slow_head() {
    let (_database, app) = limited(|limits| limits.head_within = Duration::from_millis(200)).await;
    for beginning in ["", "G", "P", "GET /events HTTP/1.1\r\nHost: localhost\r\nX-Slow: "] {
        let mut slow = TcpStream::connect(app.address).await.unwrap();
        slow.write_all(beginning.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let cut = timeout(Duration::from_mins(2), slow.read_to_end(&mut answer)).await;
        assert!(cut.is_ok(), "the connection stays open after {beginning:?}");
    }
}

#[tokio::test]
async fn rejects_a_head_that_is_too_large() {
    let (_database, app) = limited(|limits| limits.head = 8 << 10).await;
    let large = "x".repeat(20_000);
    let answer = app.get("/events", &[("X-Consumer-Id", "toto"), ("X-Large", &large)]).await;
    assert_eq!(answer.status, 431);
    app.follow("toto").await.joined().await;

    let socket = TokioIo::new(TcpStream::connect(app.address).await.unwrap());
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), socket).await.unwrap();
    tokio::spawn(connection);
    for (large, status) in [("", 200), (&*large, 431)] {
        let request = hyper::Request::get("http://x/healthz").header("x-large", large);
        let request = request.body(Empty::<bytes::Bytes>::new()).unwrap();
        assert_eq!(sender.send_request(request).await.unwrap().status(), status);
    }
}

#[test]
fn limits_fit_into_the_number_of_open_files() {
    let limits = event_piper::http::Limits::default();
    let many = limits.clone().within(1 << 20);
    assert_eq!((many.connections, many.streams), (limits.connections, limits.streams));
    let few = limits.within(200);
    assert_eq!((few.connections, few.streams), (200, 150));
}

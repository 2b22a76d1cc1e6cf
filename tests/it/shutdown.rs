//! Graceful shutdown.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::support::{
    app::{App, Settings},
    postgres::Database,
};

/// Long enough for a shutdown on a busy machine. It is shorter than a drain time of minutes, so a test that
/// waits for one fails.
const DEADLINE: Duration = Duration::from_mins(2);

#[tokio::test]
async fn a_shutdown_sends_closing_with_a_retry() {
    let database = Database::create().await;
    let app = App::start(&database.url()).await;
    let address = app.address;
    let mut live = app.follow("toto").await.joined().await;
    let stopped = tokio::spawn(app.stop());
    let retry = loop {
        let frame = live.next().await.expect("the stream sends a retry before it ends");
        if frame.event.is_empty() {
            break frame.retry.unwrap();
        }
    };
    assert!(retry <= 2000, "the retry exceeds the drain time: {retry} ms");
    let closing = live.signal("$closing").await;
    assert_eq!(closing.data, r#"{"reason":"shutdown"}"#);
    assert_eq!(closing.id.as_deref(), Some("0"));
    assert_eq!(live.next().await, None);
    timeout(DEADLINE, stopped).await.expect("the shutdown ends").unwrap();
    assert!(TcpStream::connect(address).await.is_err(), "the gateway still accepts connections");
}

#[tokio::test]
async fn a_stalled_client_cannot_delay_the_shutdown() {
    let database = Database::create().await;
    let app = App::start(&database.url()).await;
    // One frame that exceeds the buffers of the sockets, so that its writer blocks once the client stops reading.
    let large = "insert into events (type, subscriber, payload)
                 values ('t', 'toto', to_jsonb(repeat('x', 32 << 20)))";
    database.connect().await.batch_execute(large).await.unwrap();
    let mut stalled = TcpStream::connect(app.address).await.unwrap();
    let ask = "GET /events HTTP/1.1\r\nHost: x\r\nX-Consumer-Id: toto\r\nLast-Event-ID: 0\r\n\r\n";
    stalled.write_all(ask.as_bytes()).await.unwrap();
    let mut received = Vec::new();
    while memchr::memmem::find(&received, b"event: t\n").is_none() {
        let read = stalled.read_buf(&mut received).await.unwrap();
        assert!(read > 0, "the stream ended before the frame");
    }
    timeout(DEADLINE, app.stop()).await.expect("the shutdown ends after the drain time");
    drop(stalled);
}

#[tokio::test]
async fn an_idle_connection_does_not_delay_the_shutdown() {
    let database = Database::create().await;
    let mut settings = Settings::default();
    settings.http.drain = Duration::from_mins(10);
    settings.http.limits.head_within = Duration::from_mins(10);
    let app = App::start_with(&database.url(), settings).await;
    let mut idle = TcpStream::connect(app.address).await.unwrap();
    idle.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    assert!(idle.read(&mut [0; 1024]).await.unwrap() > 0);
    timeout(DEADLINE, app.stop())
        .await
        .expect("the shutdown does not wait for the idle connection");
}

//! The shutdown of the gateway.

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

/// A shutdown that takes longer than this, even on a busy machine, does not end. The drains of minutes in
/// these tests are longer.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_mins(2);

#[tokio::test]
async fn streams_are_closed_with_a_signal_and_a_retry() {
    let database = Database::create().await;
    let app = App::start(&database.url()).await;
    let address = app.address;
    let mut live = app.follow("toto").await.joined().await;
    let stopped = tokio::spawn(app.stop());
    let retry = loop {
        let frame = live.next().await.expect("the stream must be closed with a signal");
        if frame.event.is_empty() {
            break frame.retry.unwrap();
        }
    };
    assert!(retry <= 2000, "reconnects are spread over the drain: {retry}");
    let closing = live.signal("$closing").await;
    assert_eq!(closing.data, r#"{"reason":"shutdown"}"#);
    assert_eq!(closing.id.as_deref(), Some("0"));
    assert_eq!(live.next().await, None);
    timeout(SHUTDOWN_TIMEOUT, stopped).await.expect("the gateway must end").unwrap();
    assert!(TcpStream::connect(address).await.is_err(), "no connection is accepted any more");
}

#[tokio::test]
async fn a_client_that_reads_nothing_does_not_delay_the_shutdown() {
    let database = Database::create().await;
    let app = App::start(&database.url()).await;
    // One frame that is larger than the sockets' buffers: a client that reads only its beginning blocks the
    // writer.
    let large = "insert into events (type, subscriber, payload)
                 values ('t', 'toto', to_jsonb(repeat('x', 32 << 20)))";
    database.connect().await.batch_execute(large).await.unwrap();
    let mut stalled = TcpStream::connect(app.address).await.unwrap();
    let ask = "GET /events HTTP/1.1\r\nHost: x\r\nX-Consumer-Id: toto\r\nLast-Event-ID: 0\r\n\r\n";
    stalled.write_all(ask.as_bytes()).await.unwrap();
    let mut heard = Vec::new();
    while memchr::memmem::find(&heard, b"event: t\n").is_none() {
        assert!(stalled.read_buf(&mut heard).await.unwrap() > 0, "the frame must begin");
    }
    timeout(SHUTDOWN_TIMEOUT, app.stop()).await.expect("the gateway must end with the drain");
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
    timeout(SHUTDOWN_TIMEOUT, app.stop()).await.expect("an idle connection must be closed");
}

//! Leaving in good order.

use std::time::Duration;

use tokio::{net::TcpStream, time::timeout};

use crate::support::{app::App, postgres::Database};

#[tokio::test]
async fn everybody_is_told_and_sent_away_for_a_while() {
    let database = Database::create().await;
    let app = App::start(&database.url()).await;
    let address = app.address;
    let mut live = app.follow("toto").await.joined().await;
    let stopped = tokio::spawn(app.stop());
    let retry = loop {
        let frame = live.next().await.expect("there is a good-bye");
        if frame.event.is_empty() {
            break frame.retry.unwrap();
        }
    };
    assert!(retry <= 2000, "spread over the drain: {retry}");
    let closing = live.signal("$closing").await;
    assert_eq!(closing.data, r#"{"reason":"shutdown"}"#);
    assert_eq!(closing.id.as_deref(), Some("0"));
    assert_eq!(live.next().await, None);
    timeout(Duration::from_secs(5), stopped).await.expect("it ends").unwrap();
    assert!(TcpStream::connect(address).await.is_err(), "nobody is accepted any more");
}

#[tokio::test]
async fn a_client_that_reads_nothing_cannot_hold_up_the_end() {
    let database = Database::create().await;
    let app = App::start(&database.url()).await;
    let stalled = app.resume("toto", "0").await;
    let fill = "insert into events (type, subscriber, payload)
                select 't', 'toto', to_jsonb(repeat('x', 10000)) from generate_series(1, 2000)";
    database.connect().await.batch_execute(fill).await.unwrap();
    timeout(Duration::from_secs(10), app.stop()).await.expect("it ends with the drain");
    drop(stalled);
}

//! Unread replays count like unread responses. Other streams of the same caller wait.

use std::time::Duration;

use super::{EACH, event, fill, token, unread_with};
use crate::{
    access::issuer::app_with,
    support::{
        eventually,
        sse_client::{Stream, post},
    },
};

/// Paths that replay everything that [`fill`] wrote, each with its headers.
const REPLAYS: [(&str, &str); 3] = [
    ("/events?consumer=big&lastEventId=0", ""),
    ("/streams/s", "Accept: text/event-stream\r\n"),
    ("/all?lastEventId=0", ""),
];

/// The other half is for responses, which would be rejected.
const SHARE: usize = EACH / 2;

#[tokio::test]
async fn unread_replays_are_limited() {
    let (database, app, signer) = app_with(|settings| {
        (settings.http.limits.answers, settings.http.limits.answers_each) = (3 * EACH, EACH);
        settings.http.limits.write_within = Duration::from_hours(1);
        // Everything is read from the table.
        settings.gateway.recent = 0;
    })
    .await;
    fill(&database, "s", 12, 900_000).await;
    let (bad, good) = (token(&signer, "bad", 3600), token(&signer, "good", 3600));
    for (path, more) in REPLAYS {
        let mut held = Vec::new();
        for _ in 0..80 {
            held.push(unread_with(app.address, path, &bad, more).await);
        }
        eventually("they take their share", async || {
            let bytes = app.metric("answer_bytes").await;
            assert!(bytes <= (SHARE + (1 << 20)) as u64, "{path}: {bytes}");
            (bytes > (SHARE * 3 / 4) as u64).then_some(())
        })
        .await;
        let headers = [("Authorization", &*good)];
        let mut stream =
            Stream::open(app.address, "/events?consumer=big&lastEventId=0", &headers).await;
        assert_eq!(
            stream.rows(12).await,
            (1..=12).collect::<Vec<i64>>(),
            "another principal continues to read"
        );
        let its = [("Authorization", &*bad)];
        let written = post(app.address, "/events", &its, &event("toto", "1")).await;
        assert_eq!(written.status, 201, "and its other requests are answered");
        drop((stream, held));
        eventually("closed connections hold no bytes", async || {
            (app.metric("answer_bytes").await < 1 << 20).then_some(())
        })
        .await;
    }
}

/// A small payload becomes one of megabytes, which is held for a client that does not read.
#[tokio::test]
async fn amended_events_count_with_their_final_size() {
    const LARGE: u64 = 7_000_000;
    let (database, app, signer) = app_with(|settings| {
        settings.http.limits.write_within = Duration::from_hours(1);
    })
    .await;
    let grow = "insert into events (type, subscriber, stream, version, payload)
            values ('t', 'big', 's', 1, '{}');
        insert into events (type, stream, version, payload, amends)
            select 't', 's', 1 + n, jsonb_build_object('k' || n, repeat('x', 1000000)), 1
            from generate_series(1, 7) n";
    database.connect().await.batch_execute(grow).await.unwrap();
    let path = "/events?consumer=big&lastEventId=0&amended=true";
    let held = unread_with(app.address, path, &token(&signer, "bad", 3600), "").await;
    let counted = async || (app.metric("answer_bytes").await > LARGE).then_some(());
    eventually("it is counted", counted).await;
    drop(held);
    let left = async || (app.metric("answer_bytes").await < 1 << 20).then_some(());
    eventually("closed connections hold no bytes", left).await;
}

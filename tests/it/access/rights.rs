//! The rights to write, to read streams, and to read everything, at each endpoint.

use serde_json::{Value, json};

use super::issuer::{Signer, app_with, bearer, claims, claims_with, seconds};
use crate::support::{
    app::App,
    eventually,
    sse_client::{self, Answer, Stream},
};

fn shop(signer: &Signer) -> String {
    let rights = json!({"event_piper": {
        "write": ["toto", "team-*"], "write_streams": ["orders/*"], "read_streams": ["orders/*"],
    }});
    signer.token(&claims_with("shop", &rights))
}

async fn post(app: &App, path: &str, token: &str, body: &str) -> Answer {
    sse_client::post(app.address, path, &[("Authorization", &*bearer(token))], body).await
}

fn event(subscriber: &str) -> Value {
    json!({"type": "t", "subscriber": subscriber, "payload": 1})
}

#[tokio::test]
async fn a_writer_needs_the_right_for_every_event() {
    let (_database, app, signer) = app_with(|_| {}).await;
    let (shop, plain) = (shop(&signer), signer.token(&claims("toto")));
    let both = json!([event("toto"), event("titi")]);
    let into = |stream: &str| json!({"type": "t", "stream": stream, "payload": 1});
    let mixed = json!({"type": "t", "stream": "other", "subscriber": "toto", "payload": 1});
    for (body, status) in [
        (event("toto"), 201),
        (event("team-a"), 201),
        (event("titi"), 403),
        (event("team-*"), 201),
        (both, 403),
        (into("orders/7"), 201),
        (into("other"), 403),
        (mixed, 403),
    ] {
        let answer = post(&app, "/events", &shop, &body.to_string()).await;
        assert_eq!(answer.status, status, "{body}: {}", answer.body);
    }
    assert_eq!(post(&app, "/events", &plain, &event("toto").to_string()).await.status, 403);
    assert_eq!(post(&app, "/events", &plain, "{").await.status, 403, "the body is not read");
    assert_eq!(post(&app, "/events", "bad", &event("toto").to_string()).await.status, 401);
    // A batch is written completely or not at all.
    eventually("four events", async || (app.metric("head").await == 4).then_some(())).await;
}

#[tokio::test]
async fn each_line_is_checked() {
    let (_database, app, signer) = app_with(|_| {}).await;
    let lines = format!("{}\n{}\n{}\n", event("toto"), event("titi"), event("toto"));
    let token = bearer(&shop(&signer));
    let headers = [("Authorization", &*token), ("Content-Type", "application/x-ndjson")];
    let answer = sse_client::post(app.address, "/events", &headers, &lines).await;
    let last: Value = serde_json::from_str(answer.body.lines().last().unwrap()).unwrap();
    assert_eq!((&last["line"], &last["error"]["status"]), (&json!(2), &json!(403)), "{last}");
}

#[tokio::test]
async fn encoded_stream_names_are_compared_decoded() {
    let (_database, app, signer) = app_with(|_| {}).await;
    let shop = shop(&signer);
    let body = json!({"type": "t", "data": {}}).to_string();
    for (stream, status) in [
        ("orders%2F7", 200),
        ("%6Frders%2f7", 200),
        ("orders%2F..%2Fother", 200),
        ("..%2Forders%2F7", 403),
        ("other%00orders%2F7", 400),
        ("orders%2F%00", 400),
        ("orders%2F%0d%0aX-Injected:%20y", 400),
        ("orders%2F%ff", 400),
        ("orders%252F7", 403),
        ("Orders%2F7", 403),
        ("other", 403),
        ("*", 403),
        ("orders", 403),
        ("..", 403),
    ] {
        let path = format!("/streams/{stream}");
        let written = post(&app, &path, &shop, &body).await;
        assert_eq!(written.status, status, "{stream}: {}", written.body);
        assert!(!written.headers.contains_key("x-injected"));
        let read = app.get(&path, &[("Authorization", &bearer(&shop))]).await;
        assert_eq!(read.status, status, "{stream}: {}", read.body);
    }
    let dots = app.get("/streams/orders%2F..%2Fother", &[("Authorization", &bearer(&shop))]).await;
    assert_eq!(dots.json()["stream"], "orders/../other", "a name is not a path");
    for path in ["/streams/orders/../other", "/streams/orders/7/../../other", "/streams//x"] {
        let status = post(&app, path, &shop, &body).await.status;
        assert!(status >= 400, "{path}: {status}");
    }
}

#[tokio::test]
async fn following_ends_with_the_credentials() {
    let (_database, app, signer) = app_with(|_| {}).await;
    let plain = signer.token(&claims("toto"));
    let accept = ("Accept", "text/event-stream");
    for (path, right) in [
        ("/all", json!({"all": true})),
        ("/streams/orders%2F7", json!({"read_streams": ["orders/*"]})),
    ] {
        let rights = json!({"exp": seconds() + 4, "event_piper": right});
        let token = signer.token(&claims_with("auditor", &rights));
        let headers = [accept, ("Authorization", &*bearer(&plain))];
        assert_eq!(app.get(path, &headers).await.status, 403, "{path}");
        assert_eq!(app.get(path, &[accept]).await.status, 401, "{path}");
        let given = post(&app, "/tickets", &token, "").await.json()["ticket"].clone();
        let ticketed = format!("{path}?ticket={}", given.as_str().unwrap());
        let mut stream = Stream::open(app.address, &ticketed, &[accept]).await.joined().await;
        assert_eq!(app.get(&ticketed, &[accept]).await.status, 401, "{path}: once");
        assert_eq!(stream.signal("$closing").await.data, r#"{"reason":"expired"}"#, "{path}");
        assert_eq!(stream.next().await, None);
    }
}

#[tokio::test]
async fn events_per_second_are_limited() {
    let (_database, app, signer) = app_with(|settings| {
        settings.access.limits.appends = 3.try_into().unwrap();
    })
    .await;
    let shop = shop(&signer);
    let body = json!([event("toto"), event("toto"), event("toto")]).to_string();
    assert_eq!(post(&app, "/events", &shop, &body).await.status, 201);
    let second = post(&app, "/events", &shop, &body).await;
    assert_eq!((second.status, &*second.headers["retry-after"]), (429, "1"));
}

//! The rights to amend events, and what an error reveals to a caller without them.

use serde_json::{Value, json};

use super::issuer::{Signer, app_with, bearer, claims_with};
use crate::support::{
    app::App,
    sse_client::{self, Answer},
};

const UID: &str = "e5a2c0de-0000-4000-8000-000000000001";

/// An event of alice, one of alice and the stream `s`, one of bob, and an amendment of the first.
const FILL: &str = r#"insert into events (type, subscriber, stream, version, payload, amends, uid) values
    ('t', 'alice', null, null, '{"secret": 1234}', null, null),
    ('t', 'alice', 's', 1, '{"secret": 1234}', null, null),
    ('t', 'bob', null, null, '{"secret": 1234}', null, 'e5a2c0de-0000-4000-8000-000000000001'),
    ('t', 'alice', null, null, '{"more": 1}', 1, null)"#;

fn token(signer: &Signer, rights: &Value) -> String {
    signer.token(&claims_with("shop", &json!({ "event_piper": rights })))
}

async fn post(app: &App, token: &str, event: &Value) -> Answer {
    let headers = [("Authorization", &*bearer(token))];
    sse_client::post(app.address, "/events", &headers, &event.to_string()).await
}

#[tokio::test]
async fn amending_needs_the_right_to_write_the_event() {
    let (database, app, signer) = app_with(|_| {}).await;
    database.connect().await.batch_execute(FILL).await.unwrap();
    let to = |subscriber: Option<&str>, stream: Option<&str>, target: i64| {
        let mut event = json!({ "type": "t", "payload": { "x": 1 }, "amends": target });
        subscriber.inspect(|it| event["subscriber"] = (*it).into());
        stream.inspect(|it| event["stream"] = (*it).into());
        event
    };
    let public = json!({ "read": ["*"], "write_streams": ["pub", "s"] });
    let alices = json!({ "read": ["*"], "write": ["alice"] });
    let both = json!({ "read": ["*"], "write": ["alice"], "write_streams": ["s"] });
    for (rights, event, status) in [
        (&public, to(None, Some("pub"), 1), 403),
        (&public, to(None, Some("s"), 2), 403),
        (&alices, to(Some("alice"), None, 1), 201),
        (&alices, to(Some("alice"), None, 2), 403),
        (&alices, to(Some("alice"), None, 3), 403),
        (&both, to(Some("alice"), None, 2), 201),
        (&both, to(None, Some("s"), 2), 201),
        (&both, to(Some("alice"), None, 4), 409),
    ] {
        let token = token(&signer, rights);
        let line = [("Authorization", &*bearer(&token)), ("Content-Type", "application/x-ndjson")];
        if status != 201 {
            let answer = sse_client::post(app.address, "/events", &line, &event.to_string()).await;
            let last: Value = serde_json::from_str(answer.body.lines().last().unwrap()).unwrap();
            assert_eq!(last["error"]["status"], status, "{event}: {last}");
        }
        let answer = post(&app, &token, &event).await;
        assert_eq!(answer.status, status, "{rights} {event}: {}", answer.body);
    }
}

/// The response is always the same, whatever is wrong and whether a guess is right.
#[tokio::test]
async fn errors_reveal_nothing_without_the_right_to_read() {
    let (database, app, signer) = app_with(|_| {}).await;
    database.connect().await.batch_execute(FILL).await.unwrap();
    let shop = token(&signer, &json!({ "read": [], "write": ["alice"] }));
    let test = |guess: i64| json!([{ "op": "test", "path": "/secret", "value": guess }]);
    let amend = |target: i64, payload: Value| json!({ "type": "t", "subscriber": "alice", "payload": payload, "amends": target });
    let mut wrong = vec![
        amend(99, json!({})),
        amend(3, json!({})),
        amend(2, json!({})),
        amend(4, json!({})),
        amend(1, json!([{ "op": "remove", "path": "/nothing" }])),
        amend(1, json!([{ "op": "add", "path": "/x", "value": 1 }])),
        amend(1, test(1)),
        amend(1, test(1234)),
        amend(99, test(1234)),
    ];
    for guess in [1, 1234] {
        let mut patch = test(guess);
        let more = json!({ "op": "remove", "path": "/nothing" });
        patch.as_array_mut().unwrap().push(more);
        wrong.push(amend(1, patch));
    }
    // The same holds for a uid that exists.
    for target in [1, 3, 99] {
        let mut event = amend(target, test(1234));
        event["uid"] = UID.into();
        wrong.push(event);
    }
    let mut answers = std::collections::BTreeSet::new();
    for event in wrong {
        let answer = post(&app, &shop, &event).await;
        let target = event["amends"].to_string();
        answers.insert((answer.status, answer.body.replace(&format!("amend {target}"), "amend N")));
    }
    assert_eq!(answers.len(), 1, "{answers:#?}");
    let blind = post(&app, &shop, &amend(1, json!({ "secret": null }))).await;
    assert_eq!(blind.status, 201, "a merge patch always applies: {}", blind.body);

    let reader = token(&signer, &json!({ "read": ["alice"], "write": ["alice"] }));
    let told = post(&app, &reader, &amend(1, test(1))).await;
    assert_eq!(told.status, 409);
    assert!(told.body.contains("operation 1"), "{}", told.body);
}

/// Errors that only PostgreSQL detects, such as too many amendments of an event.
#[tokio::test]
async fn errors_of_postgresql_reveal_nothing_either() {
    let (database, app, signer) = app_with(|_| {}).await;
    let client = database.connect().await;
    client.batch_execute(FILL).await.unwrap();
    let amend = "insert into events (type, subscriber, payload, amends)
        select 't', 'alice', '{}', 1 from generate_series(1, 999)";
    client.batch_execute(amend).await.unwrap();
    let write = async |rights: Value, target: i64| {
        let token = token(&signer, &rights);
        let event = json!({ "type": "t", "subscriber": "alice", "payload": {}, "amends": target });
        let line = [("Authorization", &*bearer(&token)), ("Content-Type", "application/x-ndjson")];
        let lines = sse_client::post(app.address, "/events", &line, &event.to_string()).await.body;
        let last: Value = serde_json::from_str(lines.lines().last().unwrap()).unwrap();
        let answer = post(&app, &token, &event).await;
        assert_eq!(last["error"], answer.json(), "the same as JSON and as a line");
        (answer.status, answer.json()["detail"].as_str().unwrap().replace(&target.to_string(), "N"))
    };
    let blind = json!({ "read": [], "write": ["alice"] });
    let full = write(blind.clone(), 1).await;
    assert_eq!(full, write(blind, 99).await, "as for an event that does not exist");
    let everything = json!({ "read": "*", "write": "*", "read_streams": "*", "all": true });
    let (status, told) = write(everything, 1).await;
    assert_eq!(status, 409);
    assert!(told.contains("there are N000 amendments"), "{told}");
}

#[tokio::test]
async fn a_uid_of_another_event_reveals_only_that_it_exists() {
    let (database, app, signer) = app_with(|_| {}).await;
    database.connect().await.batch_execute(FILL).await.unwrap();
    let shop = token(&signer, &json!({ "read": [], "write": ["alice"] }));
    for secret in [1, 1234] {
        let event = json!({ "type": "t", "subscriber": "alice", "payload": { "secret": secret },
            "uid": UID });
        let answer = post(&app, &shop, &event).await;
        assert_eq!(answer.status, 409, "{}", answer.body);
        assert!(!answer.body.contains("event 3"), "{}", answer.body);
    }
}

#[tokio::test]
async fn each_principal_has_its_own_idempotency_keys() {
    let (_database, app, signer) = app_with(|_| {}).await;
    let rights = json!({ "event_piper": { "write": ["alice"] } });
    let (one, other) =
        (signer.token(&claims_with("shop", &rights)), signer.token(&claims_with("store", &rights)));
    let write = async |token: &str, payload: i64, kind: &str| {
        let token = bearer(token);
        let headers =
            [("Authorization", &*token), ("Idempotency-Key", "order-1"), ("Content-Type", kind)];
        let event = json!({ "type": "t", "subscriber": "alice", "payload": payload }).to_string();
        sse_client::post(app.address, "/events", &headers, &event).await.body
    };
    let first = write(&one, 1, "application/json").await;
    assert_eq!(first, r#"{"id":1}"#);
    assert_eq!(write(&other, 2, "application/json").await, r#"{"id":2}"#);
    assert_eq!(write(&one, 1, "application/json").await, first, "each is still written once");
    assert_eq!(write(&other, 2, "application/json").await, r#"{"id":2}"#);
    for (token, payload) in [(&one, 1), (&other, 2)] {
        let told = write(token, payload, "application/x-ndjson").await;
        assert!(told.contains(r#""done":true"#), "{told}");
        assert!(told.contains(&format!(r#""id":{payload},"#)), "the same as lines: {told}");
    }
}

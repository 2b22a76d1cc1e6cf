//! The API of the predecessor's append service and reader, served at the root for its clients.

use event_piper::access::Modes;
use serde_json::json;

use crate::support::{
    app::{App, Settings},
    postgres::Database,
    sse_client::post,
};

async fn app(path: &str) -> (Database, App) {
    let database = Database::create().await;
    let mut settings = Settings::default();
    settings.http.append_path = Some(path.to_owned());
    assert_eq!(settings.access.modes, Modes::OPEN);
    let app = App::start_with(&database.url(), settings).await;
    (database, app)
}

/// The content type that `curl -d` sends.
const FORM: [(&str, &str); 1] = [("Content-Type", "application/x-www-form-urlencoded")];

#[tokio::test]
async fn the_predecessors_clients_work_unchanged() {
    let (_database, app) = app("/").await;
    let hello = r#"{"type":"greeted","data":"aGVsbG8="}"#;
    let send = async |path: &str, body: &str| post(app.address, path, &FORM, body).await;
    assert_eq!(send("/people", hello).await.status, 200);
    assert_eq!(send("/people/2", hello).await.status, 200);
    for (path, body, status) in [
        ("/people/2", hello, 409),
        ("/people/1", hello, 409),
        ("/people/4", hello, 409),
        ("/people/x", hello, 400),
        ("/people/0", hello, 400),
        ("/people", r#"{"type":"greeted","data":"hello"}"#, 400),
        ("/people", "{", 400),
    ] {
        let answer = send(path, body).await;
        assert_eq!(answer.status, status, "{path} {body}: {}", answer.body);
        if status == 409 {
            assert_eq!(answer.json()["version"], 2);
        }
    }
    let read = async |query: &str| app.get(&format!("/people{query}"), &[]).await.json();
    let event = |version: i64| json!({ "streamId": "people", "version": version, "type": "greeted", "data": "aGVsbG8=" });
    assert_eq!(
        read("?offset=1&limit=20").await,
        json!({ "pagination": { "nextOffset": 3 }, "payload": [event(1), event(2)] })
    );
    assert_eq!(
        read("?offset=2&limit=1").await,
        json!({ "pagination": { "nextOffset": 3 }, "payload": [event(2)] })
    );
    assert_eq!(
        read("?offset=3").await,
        json!({ "pagination": { "nextOffset": 3 }, "payload": [] }),
        "the predecessor returned to 1 here"
    );
    assert_eq!(
        app.get("/nobody", &[]).await.json(),
        json!({ "pagination": { "nextOffset": 1 }, "payload": [] })
    );
    assert_eq!(
        app.get("/healthz", &[]).await.status,
        200,
        "the gateway's own paths take precedence"
    );
}

#[tokio::test]
async fn the_predecessors_reader_returns_all_events_as_base64() {
    let (_database, app) = app("/append").await;
    assert_eq!(app.post("/streams/s", r#"{"type":"t","data":{"a": 1}}"#).await.status, 200);
    assert_eq!(app.post("/append/s", r#"{"type":"t","data":[]}"#).await.status, 200);
    let page = app.get("/append/s", &[]).await.json();
    assert_eq!(page["payload"][0]["data"], "eyJhIjoxfQ==");
    assert_eq!(page["payload"][1]["data"], "W10=");
    assert_eq!(app.get("/s", &[]).await.status, 404);
}

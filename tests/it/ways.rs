//! Every way to write an event accepts and rejects the same events.

use serde_json::{Value, json};

use crate::support::{
    app::{App, Settings},
    postgres::Database,
    sse_client::post,
};

const UID: &str = "e5a2c0de-0000-4000-8000-000000000001";

/// The ways to write an event into the stream `s`.
const WAYS: [&str; 6] = [
    "an event",
    "an array",
    "a line",
    "an append",
    "an append of several",
    "the predecessor's path",
];

async fn app() -> (Database, App) {
    let database = Database::create().await;
    let mut settings = Settings::default();
    settings.http.append_path = Some("/old".into());
    settings.http.limits.event = 100_000;
    let app = App::start_with(&database.url(), settings).await;
    (database, app)
}

/// Writes an event in this way, and returns the status and the detail of the result. If the path names the
/// stream, the event does not.
async fn write(app: &App, way: &str, event: &str) -> (u16, String) {
    let nameless = event.replacen(r#""stream":"s","#, "", 1);
    let (path, kind, body) = match way {
        "an event" => ("/events", "application/json", event.to_owned()),
        "an array" => ("/events", "application/json", format!("[{event}]")),
        "a line" => ("/events", "application/x-ndjson", format!("{event}\n")),
        "an append" => ("/streams/s", "application/json", nameless),
        "an append of several" => ("/streams/s", "application/json", format!("[{nameless}]")),
        _ => ("/old/s", "application/json", nameless),
    };
    let answer = post(app.address, path, &[("Content-Type", kind)], &body).await;
    let Some(problem) = (if way == "a line" {
        let last: Value = serde_json::from_str(answer.body.lines().last().unwrap()).unwrap();
        last.get("error").cloned()
    } else {
        (answer.status >= 300).then(|| answer.json())
    }) else {
        return (200, String::new());
    };
    let status = problem["status"].as_u64().unwrap();
    let detail = problem["detail"].as_str().unwrap();
    let detail = detail.strip_prefix("event 0: ").unwrap_or(detail);
    // If the path names the stream, the column of a syntax error differs.
    let detail = detail.split(" at line ").next().unwrap_or_default();
    (u16::try_from(status).unwrap(), detail.to_owned())
}

#[tokio::test]
async fn every_way_accepts_and_rejects_the_same_events() {
    let refuse = "create function theirs() returns trigger language plpgsql as $$ begin
        if new.type = 'raises' then raise exception 'theirs says no' using errcode = '45000'; end if;
        if new.type = 'swallows' then return null; end if;
        if new.type = 'moves' then new.stream := 'other'; end if;
        return new; end $$;
        create trigger theirs before insert on events for each row execute function theirs();
        create unique index only_one on events ((payload -> 'only')) where payload ? 'only'";
    let events = [
        (r#"{"type":"t","stream":"s","payload":{"a":1}}"#.to_owned(), 200),
        (r#"{"type":"t","stream":"s","payload":{"a":1},"subscriber":"toto"}"#.into(), 200),
        (r#"{"type":"t","stream":"s","payload":{"a":1},"uid":"UID"}"#.into(), 200),
        (r#"{"type":"t","stream":"s","payload":{"a":1},"expected":LAST}"#.into(), 200),
        (r#"{"type":"t","stream":"s","payload":{"a":1},"expected":70}"#.into(), 409),
        (r#"{"type":"t","stream":"s","payload":{"a":1},"expected":"no-stream"}"#.into(), 409),
        (r#"{"type":"t","stream":"s","payload":{"a":2},"uid":"KNOWN"}"#.into(), 409),
        (r#"{"type":"t","stream":"s","payload":{"b":2},"amends":1}"#.into(), 200),
        (
            r#"{"type":"t","stream":"s","payload":[{"op":"remove","path":"/y"}],"amends":1}"#
                .into(),
            409,
        ),
        (r#"{"type":"t","stream":"s","payload":[{"op":"dance"}],"amends":1}"#.into(), 409),
        (r#"{"type":"t","stream":"s","payload":[1],"amends":1}"#.into(), 409),
        (r#"{"type":"t","stream":"s","payload":{"b":2},"amends":99}"#.into(), 409),
        (r#"{"type":"t","stream":"s","payload":{"b":2},"amends":2}"#.into(), 409),
        (r#"{"type":"t","stream":"s","payload":{"b":2},"amends":3}"#.into(), 409),
        (
            format!(r#"{{"type":"t","stream":"s","payload":"{}","amends":1}}"#, "x".repeat(99_000)),
            200,
        ),
        (
            format!(
                r#"{{"type":"t","stream":"s","payload":{{"c":"{0}"}},"amends":4}}"#,
                "x".repeat(60_000)
            ),
            409,
        ),
        (r#"{"type":"t","stream":"s","payload":{"c":1e100001},"amends":1}"#.into(), 413),
        (r#"{"type":"raises","stream":"s","payload":1}"#.into(), 422),
        (r#"{"type":"swallows","stream":"s","payload":1}"#.into(), 422),
        (r#"{"type":"moves","stream":"s","payload":1}"#.into(), 422),
        (r#"{"type":"t","stream":"s","payload":{"only":1}}"#.into(), 409),
        (r#"{"type":"","stream":"s","payload":1}"#.into(), 400),
        (r#"{"type":"$t","stream":"s","payload":1}"#.into(), 400),
        (r#"{"type":"t","stream":"s","payload":{"a":1,"a":2}}"#.into(), 400),
        (r#"{"type":"t","stream":"s","payload":"\u0000"}"#.into(), 400),
        (r#"{"type":"t","stream":"s","payload":1,"more":1}"#.into(), 400),
        (format!(r#"{{"type":"t","stream":"s","payload":"{}"}}"#, "x".repeat(100_000)), 413),
        (r#"{"type":"t","stream":"s","payload":1e100001}"#.into(), 413),
        (r#"{"type":"t","stream":"s","payload":1e131073}"#.into(), 400),
    ];
    let mut wrong = Vec::new();
    let mut told: Vec<Vec<String>> = vec![Vec::new(); events.len()];
    for way in WAYS {
        let (database, app) = app().await;
        let client = database.connect().await;
        client.batch_execute(refuse).await.unwrap();
        let fill = format!(
            "insert into events (type, stream, version, subscriber, payload, uid, amends) values
             ('t', 's', 1, null, '{{\"only\": 1}}', '{UID}', null),
             ('t', 's', 2, null, '{{\"x\": 1}}', null, 1),
             ('t', 'other', 1, 'titi', '{{}}', null, null),
             ('t', 's', 3, null, jsonb_build_object('d', repeat('x', 60000)), null, null)"
        );
        client.batch_execute(&fill).await.unwrap();
        // The events that were accepted so far are the same for each way.
        for ((event, status), told) in events.iter().zip(&mut told) {
            let last = app.get("/streams/s", &[]).await.json()["version"].to_string();
            let event = event.replace("KNOWN", UID).replace("LAST", &last);
            let event = event.replace("UID", &UID.replace('1', "2"));
            let (found, detail) = write(&app, way, &event).await;
            let shown: String = event.chars().take(100).collect();
            if found != *status {
                wrong.push(format!("{shown} as {way}: {found} for {status}: {detail}"));
            }
            told.push(detail);
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for ((event, _), told) in events.iter().zip(told) {
        assert!(told.iter().all(|detail| *detail == told[0]), "{event:.100}: {told:#?}");
    }
}

/// The amendments of one request are applied one after the other, and each is checked against the result of
/// the previous ones.
#[tokio::test]
async fn amendments_of_one_request_are_checked_in_sequence() {
    for lines in [false, true] {
        let (database, app) = app().await;
        let client = database.connect().await;
        let fill = "insert into events (type, stream, version, payload)
                    values ('t', 's', 1, '{\"a\": 1}')";
        client.batch_execute(fill).await.unwrap();
        let remove =
            r#"{"type":"t","stream":"s","payload":[{"op":"remove","path":"/a"}],"amends":1}"#;
        let other = r#"{"type":"t","stream":"s","payload":{"b":1}}"#;
        let events = [other, remove, other, remove];
        let (kind, body) = if lines {
            ("application/x-ndjson", events.join("\n"))
        } else {
            ("application/json", format!("[{}]", events.join(",")))
        };
        let answer = post(app.address, "/events", &[("Content-Type", kind)], &body).await;
        if lines {
            let last: Value = serde_json::from_str(answer.body.lines().last().unwrap()).unwrap();
            assert_eq!(
                (&last["line"], &last["error"]["status"]),
                (&json!(4), &json!(409)),
                "{last}"
            );
        } else {
            assert_eq!(answer.status, 409, "{}", answer.body);
            assert!(answer.body.contains("event 3: this does not amend 1"), "{}", answer.body);
        }
        let count = client.query_one("select count(*) from events", &[]).await.unwrap();
        assert_eq!(count.get::<_, i64>(0), 1, "no event of the request was written");
    }
}

#[tokio::test]
async fn equal_json_in_another_notation_is_a_repetition() {
    let (_database, app) = app().await;
    let event =
        |payload: &str| format!(r#"{{"type":"t","stream":"s","payload":{payload},"uid":"{UID}"}}"#);
    let same = [r#"{"a":1,"b":[100]}"#, r#"{"b": [1e2], "a": 1.0}"#].map(event);
    let array = app.post("/events", &format!("[{}]", same.join(","))).await;
    assert_eq!((array.status, array.json()), (201, json!({ "ids": [1, 1] })), "{}", array.body);
    let differs = event(r#"{"a":1,"b":[101]}"#);
    let other = format!("[{},{differs}]", same[0]);
    assert_eq!(app.post("/events", &other).await.status, 409);

    let lines = async |lines: &[&str]| -> Value {
        let kind = [("Content-Type", "application/x-ndjson")];
        let told = post(app.address, "/events", &kind, &lines.join("\n")).await.body;
        serde_json::from_str(told.lines().last().unwrap()).unwrap()
    };
    let told = lines(&[&same[0], &same[1]]).await;
    assert_eq!((&told["id"], &told["done"]), (&json!(1), &json!(true)), "{told}");
    let told = lines(&[&same[0], &same[1], &differs]).await;
    assert_eq!((&told["line"], &told["error"]["status"]), (&json!(3), &json!(409)), "{told}");
}

//! `event-piper tail`, the program itself, against real gateways.

use std::{process::Stdio, time::Duration};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    time::timeout,
};

use crate::support::{app::App, killable::Killable, postgres::Database};

const DEADLINE: Duration = Duration::from_mins(2);

struct Tail {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Tail {
    fn start(app: &App, args: &[&str]) -> Self {
        Self::at(&format!("http://{}", app.address), args)
    }

    fn at(url: &str, args: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_event-piper"));
        command.args(["tail", "--url", url]).args(args).env_remove("NO_COLOR").kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    async fn line(&mut self) -> String {
        let line = timeout(DEADLINE, self.lines.next_line()).await.expect("a line comes in time");
        line.unwrap().expect("the output goes on")
    }

    /// The ids of the next so many lines of JSON.
    async fn ids(&mut self, count: usize) -> Vec<String> {
        let mut ids = Vec::with_capacity(count);
        while ids.len() < count {
            let line: Value = serde_json::from_str(&self.line().await).unwrap();
            ids.push(line["id"].as_str().unwrap().to_owned());
        }
        ids
    }

    fn signal(&self, signal: Signal) {
        let pid = self.child.id().expect("it runs").try_into().unwrap();
        kill(Pid::from_raw(pid), signal).unwrap();
    }

    /// Its exit code, and what it said on standard error.
    async fn end(mut self) -> (Option<i32>, String) {
        let mut said = String::new();
        let mut stderr = self.child.stderr.take().unwrap();
        let end = async {
            stderr.read_to_string(&mut said).await.unwrap();
            self.child.wait().await.unwrap()
        };
        let status = timeout(DEADLINE, end).await.expect("it ends in time");
        (status.code(), said)
    }
}

async fn insert(database: &Database, kind: &str, payload: &str) {
    let row = "insert into events (type, subscriber, payload) values ($1, 'toto', $2::text::jsonb)";
    database.connect().await.execute(row, &[&kind, &payload]).await.unwrap();
}

#[tokio::test]
async fn nothing_is_missing_and_nothing_twice_when_the_gateway_restarts() {
    let database = Database::create().await;
    let mut app = App::start(&database.url()).await;
    let address = app.address;
    insert(&database, "first", "1").await;
    let mut tail = Tail::start(&app, &["--consumer", "toto", "--from", "0", "--json"]);
    assert_eq!(tail.ids(1).await, ["1"]);
    let mut expected = 2;
    for _ in 0..2 {
        insert(&database, "before", "1").await;
        app.stop().await;
        insert(&database, "while it is away", "1").await;
        app = App::start_at(&database.url(), address).await;
        insert(&database, "after", "1").await;
        let ids: Vec<_> = (expected..expected + 3).map(|id| id.to_string()).collect();
        assert_eq!(tail.ids(3).await, ids);
        expected += 3;
    }
    tail.signal(Signal::SIGINT);
    let (code, said) = tail.end().await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("the gateway is closing"), "{said}");
    assert!(said.contains("reconnected"), "{said}");
    app.stop().await;
}

#[tokio::test]
async fn a_gateway_that_is_killed_costs_no_event_and_doubles_none() {
    let database = Database::create().await;
    let mut gateway = Killable::start(&database.url(), None).await;
    let address = gateway.address;
    insert(&database, "t", "1").await;
    let mut tail = Tail::at(&format!("http://{address}"), &["-c", "toto", "--from", "0", "--json"]);
    assert_eq!(tail.ids(1).await, ["1"]);
    for (one, two) in [("2", "3"), ("4", "5")] {
        insert(&database, "t", "1").await;
        assert_eq!(tail.ids(1).await, [one]);
        gateway.kill().await;
        insert(&database, "t", "1").await;
        gateway = Killable::start(&database.url(), Some(address)).await;
        assert_eq!(tail.ids(1).await, [two]);
    }
}

#[tokio::test]
async fn json_passes_through_and_text_is_for_people() {
    let database = Database::create().await;
    let app = App::start(&database.url()).await;
    insert(&database, "order placed", r#"{"n": 12345678901234567890.10}"#).await;
    insert(&database, "other", "2").await;
    insert(&database, "insert", "null").await;
    let from = ["-c", "toto", "--from", "0", "--types", "order placed,insert"];
    let mut text = Tail::start(&app, &from);
    assert_eq!(text.line().await, r#"1  order placed  {"n":12345678901234567890.10}"#);
    assert_eq!(text.line().await, "3  insert  null");
    let mut lines = Tail::start(&app, &[&from[..], &["--json"]].concat());
    let expected = r#"{"id":"1","type":"order placed","data":{"n":12345678901234567890.10}}"#;
    assert_eq!(lines.line().await, expected);
    let last: Value = serde_json::from_str(&lines.line().await).unwrap();
    assert_eq!(last, json!({ "id": "3", "type": "insert", "data": null }));
    app.stop().await;
}

#[tokio::test]
async fn several_consumers_go_on_one_connection() {
    let database = Database::create().await;
    let app = App::start(&database.url()).await;
    let writer = database.connect().await;
    for who in ["toto", "Ż x", "titi"] {
        let row = "insert into events (type, subscriber, payload) values ('t', $1, '1')";
        writer.execute(row, &[&who]).await.unwrap();
    }
    let mut both = Tail::start(&app, &["-c", "toto", "-c", "titi", "--from", "0", "--json"]);
    assert_eq!(both.ids(2).await, ["1", "3"]);
    let mut odd = Tail::start(&app, &["-c", "Ż x", "--from", "0", "--json"]);
    assert_eq!(odd.ids(1).await, ["2"]);
    app.stop().await;
}

#[tokio::test]
async fn a_gateway_that_is_not_there_yet_is_waited_for() {
    let database = Database::create().await;
    let app = App::start(&database.url()).await;
    let address = app.address;
    app.stop().await;
    insert(&database, "t", "1").await;
    let url = format!("http://{address}");
    let mut tail = Tail::at(&url, &["-c", "toto", "--from", "0", "--json"]);
    let mut stderr = BufReader::new(tail.child.stderr.as_mut().unwrap()).lines();
    let said = timeout(DEADLINE, stderr.next_line()).await.unwrap().unwrap().unwrap();
    assert!(said.contains(&format!("cannot reach http://{address}/events: ")), "{said}");
    assert!(said.contains("reconnecting in"), "{said}");
    let app = App::start_at(&database.url(), address).await;
    assert_eq!(tail.ids(1).await, ["1"]);
    app.stop().await;
}

#[tokio::test]
async fn a_refusal_is_told_in_the_gateways_words() {
    let database = Database::create().await;
    let app = App::start(&database.url()).await;
    for (args, expected) in [
        (
            &["-c", "toto", "--from", "yesterday"][..],
            "400 Bad Request: \"yesterday\" is not a cursor",
        ),
        (&[], "401 Unauthorized: no consumer is named"),
    ] {
        let (code, said) = Tail::start(&app, args).end().await;
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains(expected), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
    let (code, said) = Tail::at(&format!("http://{}/console.js?", app.address), &[]).end().await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("there is no resource at /console.js/events"), "{said}");
    app.stop().await;

    for (url, from) in [("ftp://127.0.0.1/", "0"), ("http://127.0.0.1:1/", "a\nb")] {
        let (code, said) = Tail::at(url, &["-c", "toto", "--from", from]).end().await;
        assert_eq!((code, said.lines().count()), (Some(1), 1), "{said}");
    }
}

#[tokio::test]
async fn a_reader_that_has_left_ends_it_without_a_complaint() {
    let database = Database::create().await;
    let app = App::start(&database.url()).await;
    insert(&database, "t", "1").await;
    let mut tail = Tail::start(&app, &["-c", "toto", "--from", "0"]);
    tail.line().await;
    let Tail { child, lines } = tail;
    drop(lines);
    insert(&database, "t", "2").await;
    let ended = timeout(DEADLINE, child.wait_with_output()).await.expect("it ends").unwrap();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    assert_eq!(String::from_utf8_lossy(&ended.stderr), "");
    app.stop().await;
}

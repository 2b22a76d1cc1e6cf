//! `event-piper append` as a process, against real gateways.

use std::{
    process::{Output, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStderr, ChildStdin, Command},
    time::timeout,
};

use crate::support::{
    app::App, eventually, killable::Killable, ports::free_address, postgres::Database,
    sse_client::post,
};

async fn append(url: &str, args: &[&str], input: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_event-piper"));
    command.args(["append", "--url", url]).args(args).kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    let feeding = tokio::spawn(async move {
        let _ = stdin.write_all(input.as_bytes()).await;
    });
    let output = child.wait_with_output().await.unwrap();
    feeding.await.unwrap();
    output
}

fn output_text(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

async fn payloads(database: &Database) -> Vec<String> {
    let sql = "select payload::text from events order by id";
    let rows = database.connect().await.query(sql, &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn arguments_and_lines_are_written() {
    let database = Database::create().await;
    let app = App::start(&database.url()).await;
    let url = format!("http://{}", app.address);
    let done = append(&url, &["-t", "insert", "-c", "toto", r#"{"a": 1}"#, "1e400"], "").await;
    assert!(done.status.success(), "{}", output_text(&done));
    let done = append(&url, &["-t", "t", "-s", "orders"], "1\n\n2\n").await;
    assert!(done.status.success(), "{}", output_text(&done));
    let lines = "{\"type\":\"t\",\"subscriber\":\"a\",\"payload\":1e3}\n\
                 {\"uid\":\"e5a2c0de-0000-4000-8000-000000000001\",\"type\":\"t\",\
                  \"stream\":\"orders\",\"payload\":null}\n";
    let done = append(&url, &[], lines).await;
    assert_eq!(output_text(&done), "2 events were written: lines 1 to 2, ids 5 to 6\n");
    let huge = format!("1{}", "0".repeat(400));
    assert_eq!(payloads(&database).await, [r#"{"a": 1}"#, &huge, "1", "2", "1000", "null"]);
    assert_eq!(app.get("/streams/orders", &[]).await.json()["version"], 3);
}

#[tokio::test]
async fn errors_name_the_line() {
    let database = Database::create().await;
    let app = App::start(&database.url()).await;
    let url = format!("http://{}", app.address);
    for (args, input, says) in [
        (&["-t", "t"][..], "1", "--consumer"),
        (&["-t", "t", "-c", "a"], "1\n{\n", "line 2"),
        (&["-t", "$t", "-c", "a"], "1\n", "begins with $"),
        (&[], "7\n", "line 1"),
        (&["-t", "t", "-c", "a"], "1\n\u{feff}\u{feff}2\n", "line 2"),
    ] {
        let done = append(&url, args, input).await;
        assert!(!done.status.success());
        assert!(output_text(&done).contains(says), "{says}: {}", output_text(&done));
    }
    assert!(payloads(&database).await.is_empty());
}

/// The gateway is killed repeatedly while a long input is sent. Then the input is sent once more.
#[tokio::test]
async fn killed_gateways_lose_and_repeat_no_line() {
    let database = Database::create().await;
    let mut gateway = Killable::start(&database.url(), None).await;
    let address = gateway.address;
    let url = format!("http://{address}");
    let lines: Vec<String> = (0..20_000).map(|n| json!({ "n": n }).to_string()).collect();
    let input = lines.join("\n");
    let args = ["-t", "t", "-c", "toto", "--resume", "import"];
    let (again, sent) = (input.clone(), url.clone());
    let sending = tokio::spawn(async move { append(&sent, &args, &again).await });
    let client = database.connect().await;
    let count = async || {
        let count = client.query_one("select count(*) from events", &[]).await.unwrap();
        count.get::<_, i64>(0)
    };
    for part in 1..=4 {
        crate::support::eventually("more is written", async || {
            (count().await > part * 3000).then_some(())
        })
        .await;
        gateway.kill().await;
        gateway = Killable::start(&database.url(), Some(address)).await;
    }
    let done = sending.await.unwrap();
    assert!(done.status.success(), "{}", output_text(&done));
    let done = append(&url, &args, &input).await;
    assert!(done.status.success(), "{}", output_text(&done));
    let sql = "select count(*), count(distinct payload), bool_and(payload->'n' = to_jsonb(place))
               from (select payload, row_number() over (order by id) - 1 as place from events) log";
    let row = client.query_one(sql, &[]).await.unwrap();
    let numbers = (row.get::<_, i64>(0), row.get::<_, i64>(1), row.get::<_, bool>(2));
    assert_eq!(numbers, (20_000, 20_000, true), "each once, in order");
}

/// `event-piper append` on a pipe that stays open.
struct Live {
    child: Child,
    input: Option<ChildStdin>,
    errors: Lines<BufReader<ChildStderr>>,
}

impl Live {
    fn start(url: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_event-piper"));
        command.args(["append", "--url", url, "-t", "t", "-c", "toto"]).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let input = child.stdin.take();
        let errors = BufReader::new(child.stderr.take().unwrap()).lines();
        Self { child, input, errors }
    }

    async fn feed(&mut self, text: &str) {
        self.input.as_mut().unwrap().write_all(text.as_bytes()).await.unwrap();
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().unwrap().try_into().unwrap()), signal).unwrap();
    }

    /// Waits for a line on standard error that contains this text.
    async fn says(&mut self, words: &str) {
        let heard = async {
            while let Some(line) = self.errors.next_line().await.unwrap() {
                if line.contains(words) {
                    return;
                }
            }
            panic!("the command ended without printing {words:?}");
        };
        timeout(Duration::from_secs(30), heard).await.unwrap_or_else(|_| panic!("no {words:?}"));
    }

    async fn end(self) -> Output {
        timeout(Duration::from_secs(30), self.child.wait_with_output()).await.unwrap().unwrap()
    }
}

async fn written(database: &Database, expected: &[&str]) {
    eventually("the events are written", async || {
        (payloads(database).await == expected).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_signal_loses_no_line_of_a_pipe() {
    let database = Database::create().await;
    let app = App::start(&database.url()).await;
    for (signal, code) in [(Signal::SIGINT, 0), (Signal::SIGTERM, 0)] {
        let before: Vec<String> = payloads(&database).await;
        let mut expected: Vec<&str> = before.iter().map(String::as_str).collect();
        let mut live = Live::start(&format!("http://{}", app.address));
        live.feed("1\n").await;
        expected.push("1");
        written(&database, &expected).await;
        live.feed("2\n3\n").await;
        expected.extend(["2", "3"]);
        written(&database, &expected).await;
        // A line without a line break may be half of an event.
        live.feed("44").await;
        live.signal(signal);
        live.says("writing the lines that were read").await;
        let done = live.end().await;
        assert_eq!(done.status.code(), Some(code), "{}", output_text(&done));
        assert!(
            output_text(&done).contains("3 events were written: lines 1 to 3, ids "),
            "{}",
            output_text(&done)
        );
        assert_eq!(payloads(&database).await, expected);
    }
}

/// The reason for waiting is printed even without a terminal. After one signal, the lines that were read are
/// written when the gateway is back. A second signal gives up.
#[tokio::test]
async fn waits_for_a_gateway_until_a_second_signal() {
    let database = Database::create().await;
    let address = free_address();
    let url = format!("http://{address}");
    let mut live = Live::start(&url);
    live.feed("1\n2\n").await;
    live.says("retrying in").await;
    live.signal(Signal::SIGINT);
    live.says("a second signal aborts").await;
    live.says("retrying in").await;
    let gateway = Killable::start(&database.url(), Some(address)).await;
    let done = live.end().await;
    assert!(done.status.success(), "{}", output_text(&done));
    assert_eq!(payloads(&database).await, ["1", "2"]);
    drop(gateway);

    let mut live = Live::start(&format!("http://{}", free_address()));
    live.feed("3\n").await;
    live.says("retrying in").await;
    live.signal(Signal::SIGTERM);
    live.says("a second signal aborts").await;
    live.signal(Signal::SIGTERM);
    live.says("0 events were written").await;
    assert_eq!(live.end().await.status.code(), Some(1));
}

/// Some editors write a byte order mark. The command ignores it, as the HTTP API does.
#[tokio::test]
async fn a_byte_order_mark_is_ignored_as_over_http() {
    let database = Database::create().await;
    let app = App::start(&database.url()).await;
    let event = r#"{"type":"t","subscriber":"a","payload":1}"#;
    for lines in [
        format!("\u{feff}{event}\n"),
        format!("{event}\n\u{feff}{event}\n"),
        format!("\u{feff}\n{event}\n"),
        "\u{feff}".to_owned(),
        format!(" \u{feff}{event}\n"),
        format!("\u{feff}\u{feff}{event}\n"),
    ] {
        let count = async || payloads(&database).await.len();
        let before = count().await;
        let headers = [("Content-Type", "application/x-ndjson")];
        let imported = post(app.address, "/events", &headers, &lines).await;
        let refused = imported.body.contains("\"error\"");
        let over_http = count().await - before;
        let done = append(&format!("http://{}", app.address), &[], &lines).await;
        let by_command = count().await - before - over_http;
        assert_eq!(over_http, by_command, "{lines:?}: {}; {}", imported.body, output_text(&done));
        assert_eq!(done.status.success(), !refused, "{lines:?}: {}", imported.body);
    }
}

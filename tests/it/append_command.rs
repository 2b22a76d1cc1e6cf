//! `event-piper append`, the program itself, against real gateways.

use std::process::{Output, Stdio};

use serde_json::json;
use tokio::{io::AsyncWriteExt, process::Command};

use crate::support::{app::App, killable::Killable, postgres::Database};

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

fn said(output: &Output) -> String {
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
    assert!(done.status.success(), "{}", said(&done));
    let done = append(&url, &["-t", "t", "-s", "orders"], "1\n\n2\n").await;
    assert!(done.status.success(), "{}", said(&done));
    let lines = "{\"type\":\"t\",\"subscriber\":\"a\",\"payload\":1e3}\n\
                 {\"uid\":\"e5a2c0de-0000-4000-8000-000000000001\",\"type\":\"t\",\
                  \"stream\":\"orders\",\"payload\":null}\n";
    let done = append(&url, &[], lines).await;
    assert_eq!(said(&done), "2 events are written\n");
    let huge = format!("1{}", "0".repeat(400));
    assert_eq!(payloads(&database).await, [r#"{"a": 1}"#, &huge, "1", "2", "1000", "null"]);
    assert_eq!(app.get("/streams/orders", &[]).await.json()["version"], 3);
}

#[tokio::test]
async fn what_is_wrong_is_said_with_its_line() {
    let database = Database::create().await;
    let app = App::start(&database.url()).await;
    let url = format!("http://{}", app.address);
    for (args, input, says) in [
        (&["-t", "t"][..], "1", "--consumer"),
        (&["-t", "t", "-c", "a"], "1\n{\n", "line 2"),
        (&["-t", "$t", "-c", "a"], "1\n", "begins with $"),
        (&[], "7\n", "line 1"),
    ] {
        let done = append(&url, args, input).await;
        assert!(!done.status.success());
        assert!(said(&done).contains(says), "{says}: {}", said(&done));
    }
    assert!(payloads(&database).await.is_empty());
}

/// The gateway is killed again and again while a long input is sent; and then the input is
/// sent once more.
#[tokio::test]
async fn no_line_is_lost_or_doubled_while_gateways_die() {
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
    assert!(done.status.success(), "{}", said(&done));
    let done = append(&url, &args, &input).await;
    assert!(done.status.success(), "{}", said(&done));
    let sql = "select count(*), count(distinct payload), bool_and(payload->'n' = to_jsonb(place))
               from (select payload, row_number() over (order by id) - 1 as place from events) log";
    let row = client.query_one(sql, &[]).await.unwrap();
    let numbers = (row.get::<_, i64>(0), row.get::<_, i64>(1), row.get::<_, bool>(2));
    assert_eq!(numbers, (20_000, 20_000, true), "each once, in order");
}

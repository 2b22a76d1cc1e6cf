//! An event whose type is `heartbeat` is an event like any other. It is not taken for a heartbeat of the
//! gateway, even with the most similar payload.

use std::{fs, path::Path, process::Stdio, time::Duration};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
    time::timeout,
};

use crate::support::{app::App, browser::Browser, postgres::Database};

const INSERT: &str = r#"insert into events (type, subscriber, payload)
    values ('heartbeat', 'toto', '"thump"'), ('t', 'toto', '2')"#;

async fn app() -> (Database, App) {
    let database = Database::create().await;
    database.connect().await.batch_execute(INSERT).await.unwrap();
    let app = App::start(&database.url()).await;
    (database, app)
}

/// The first two lines of a program's output.
async fn two_lines(mut command: Command) -> [String; 2] {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut line = async || {
        let line = timeout(Duration::from_secs(30), lines.next_line()).await;
        line.expect("a line comes in time").unwrap().expect("the output goes on")
    };
    [line().await, line().await]
}

#[tokio::test]
async fn only_heartbeats_have_unquoted_data() {
    let (_database, app) = app().await;
    let mut toto = app.resume("toto", "0").await;
    let own = toto.signal("heartbeat").await;
    assert_eq!((own.id.as_deref(), own.data.as_str()), (Some("0"), "thump"));
    let event = toto.event().await;
    assert_eq!((&*event.event, event.data.as_str(), event.row()), ("heartbeat", r#""thump""#, 1));
    assert_eq!(toto.rows(1).await, [2]);
}

#[tokio::test]
async fn tail_prints_events_of_type_heartbeat() {
    let (_database, app) = app().await;
    let mut tail = Command::new(env!("CARGO_BIN_EXE_event-piper"));
    let url = format!("http://{}", app.address);
    tail.args(["tail", "--url", &url, "--consumer", "toto", "--from", "0", "--json"]);
    let lines = two_lines(tail).await.map(|line| serde_json::from_str::<Value>(&line).unwrap());
    assert_eq!(lines.each_ref().map(|line| &line["id"]), [&json!("1"), &json!("2")]);
    assert_eq!(lines[0]["data"], json!("thump"));
}

/// The first Python program in the manual.
#[tokio::test]
async fn the_manuals_program_prints_events_of_type_heartbeat() {
    let manual = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/clients.md");
    let Ok(manual) = fs::read_to_string(manual) else { return };
    let program = manual.split("```python\n").nth(1).unwrap().split("```").next().unwrap();
    let (_database, app) = app().await;
    let mut python = Command::new("python3");
    let program = program.replace("127.0.0.1:4000", &app.address.to_string());
    python.args(["-c", &program, "0"]);
    if std::process::Command::new("python3").arg("--version").output().is_err() {
        return;
    }
    assert_eq!(two_lines(python).await, ["1 heartbeat thump", "2 t 2"]);
}

#[tokio::test]
async fn the_console_shows_events_of_type_heartbeat() {
    let Some(browser) = Browser::open().await else { return };
    let (database, app) = app().await;
    browser.goto(&format!("http://{}/?consumer=toto", app.address)).await;
    browser.until("return document.documentElement.dataset.state", json!("live")).await;
    database.connect().await.batch_execute(INSERT).await.unwrap();
    let rows = "return [...document.querySelectorAll('#events > [data-id]')]
        .map(row => +row.dataset.id).reverse()";
    browser.until(rows, json!([3, 4])).await;
    app.stop().await;
}

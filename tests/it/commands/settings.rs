//! Settings of the program as a whole: where they are given, and what is said of wrong ones.

use serde_json::Value;

use super::{ended, program, text};
use crate::support::{postgres::Database, process::Process};

#[tokio::test]
async fn the_schema_is_left_alone_where_that_was_asked_for() {
    let database = Database::create_empty().await;
    let url = database.url();
    let args = ["serve", "--no-migrate", "--listen", "127.0.0.1:0", "--database-url", &url];
    let output = ended(&mut program(&args)).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = text(&output.stderr);
    assert!(said.contains(" migrate --database-url "), "it says what to run: {said}");
    let client = database.connect().await;
    let row = client.query_one("select to_regclass('events') is null", &[]).await;
    assert!(row.unwrap().get::<_, bool>(0), "nothing was made");
}

#[tokio::test]
async fn what_is_misspelt_is_named_by_every_command() {
    let database = Database::create_empty().await;
    let url = database.url();
    for args in [
        &["serve", "--database-url", &url][..],
        &["doctor", "--database-url", &url],
        &["keys", "list", "--database-url", &url],
        &["pump", "--to", "http://127.0.0.1:1", "--database-url", &url],
        &["tail"],
        &["append", "--type", "a", "--consumer", "b", "1"],
    ] {
        let mut command = program(args);
        let output = ended(command.env("EVENT_PIPER_HEARBEAT", "1s")).await;
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        let said = text(&output.stderr);
        assert!(said.contains("EVENT_PIPER_HEARBEAT"), "{args:?}: {said}");
        assert!(said.contains("did you mean EVENT_PIPER_HEARTBEAT?"), "{args:?}: {said}");
    }
}

/// Everything on standard error is JSON then, whatever goes wrong.
#[tokio::test]
async fn a_log_of_json_has_nothing_else_in_it() {
    let database = Database::create_empty().await;
    let url = database.url();
    let wrong = ["serve", "--log-format", "json", "--hold", "long", "--database-url", &url];
    let absent = ["serve", "--log-format", "json", "--database-url", "postgres://u@127.0.0.1:1/no"];
    let refused = [&absent[..5], &["--listen", "192.0.2.1:1", "--auth", "keys"]].concat();
    let nothing = ["doctor", "--log-format", "json", "--data-dir", "/nowhere"];
    for (args, code) in [(&wrong[..], 2), (&refused, 1), (&nothing, 1)] {
        let output = ended(&mut program(args)).await;
        assert_eq!(output.status.code(), Some(code), "{args:?}");
        let lines = lines(&text(&output.stderr));
        assert!(lines.iter().any(|line| line["level"] == "ERROR"), "{args:?}: {lines:?}");
        assert_eq!(text(&output.stdout), "");
    }
}

#[tokio::test]
async fn the_banner_is_a_line_of_the_log_where_that_is_json() {
    let database = Database::create().await;
    let gateway = Process::launch(&database.url(), &["--log-format", "json"]);
    gateway.ready().await;
    let banner = crate::support::eventually("the banner", async || {
        let lines = lines(&gateway.log());
        lines.into_iter().find(|line| line["watch"].is_string())
    })
    .await;
    assert_eq!(banner["page"], format!("http://{}/", gateway.address()));
}

fn lines(text: &str) -> Vec<Value> {
    let parse =
        |line: &str| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"));
    text.lines().map(parse).collect()
}

#[tokio::test]
async fn who_is_waited_for_has_a_name() {
    let gateway = Process::launch("postgres://toto:s3cret@127.0.0.1:1/log", &[]);
    let log = crate::support::eventually("it waits", async || {
        Some(gateway.log()).filter(|log| log.contains("waiting for PostgreSQL"))
    })
    .await;
    assert!(log.contains("postgres://toto@127.0.0.1:1/log"), "{log}");
    assert!(!log.contains("s3cret"), "{log}");
}

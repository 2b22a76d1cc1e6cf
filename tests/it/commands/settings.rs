//! Settings of the program as a process: their sources, and errors in them.

use serde_json::Value;

use super::{ended, program, text};
use crate::support::{
    postgres::Database,
    process::Process,
    scratch::Scratch,
    sse_client::{Stream, post},
};

#[tokio::test]
async fn no_migrate_leaves_the_schema_unchanged() {
    let database = Database::create_empty().await;
    let url = database.url();
    let args = ["serve", "--no-migrate", "--listen", "127.0.0.1:0", "--database-url", &url];
    let output = ended(&mut program(&args)).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = text(&output.stderr);
    assert!(
        said.contains(" migrate --database-url "),
        "the message contains the command to run: {said}"
    );
    let client = database.connect().await;
    let row = client.query_one("select to_regclass('events') is null", &[]).await;
    assert!(row.unwrap().get::<_, bool>(0), "no table was created");
}

#[tokio::test]
async fn every_command_reports_misspelt_variables() {
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

/// Flags of single commands can be set by variables, and errors in them are reported.
#[tokio::test]
async fn flags_of_commands_have_variables() {
    let database = Database::create().await;
    let url = database.url();
    let gateway = Process::launch(&url, &["--auth", "keys"]);
    gateway.ready().await;
    let key = ["keys", "create", "--name", "toto", "--write", "toto", "--database-url", &url];
    let key = text(&ended(&mut program(&key)).await.stdout);
    let folder = Scratch::new();
    let file = folder.path().join("token");
    std::fs::write(&file, &key).unwrap();
    let here = format!("http://{}", gateway.address());
    let append = ["append", "--type", "t", "--consumer", "toto", "1"];
    for (variable, value) in
        [("EVENT_PIPER_TOKEN", key.trim()), ("EVENT_PIPER_TOKEN_FILE", file.to_str().unwrap())]
    {
        let mut command = program(&append);
        let output = ended(command.env("EVENT_PIPER_URL", &here).env(variable, value)).await;
        assert!(output.status.success(), "{variable}: {output:?}");
    }
    let refused = ended(program(&append).env("EVENT_PIPER_URL", &here)).await;
    assert!(text(&refused.stderr).contains("401"), "without a token: {refused:?}");
    let pump = ["pump", "--to", "http://127.0.0.1:1", "--database-url", &url];
    // An address for documentation, which no machine has.
    let elsewhere = "192.0.2.1:1";
    for (args, variable, wrong, says) in [
        (&["tail"][..], "EVENT_PIPER_URL", "nonsense", "--url"),
        (&append, "EVENT_PIPER_URL", "nonsense", "--url"),
        (&append, "EVENT_PIPER_TOKEN_FILE", "/nowhere", "the token in /nowhere"),
        (&pump, "EVENT_PIPER_PUMP_HEALTH", "nonsense", "--health"),
        (&pump, "EVENT_PIPER_PUMP_HEALTH", elsewhere, "192.0.2.1:1 (--health)"),
    ] {
        let output = ended(program(args).env(variable, wrong)).await;
        assert!(!output.status.success(), "{args:?}");
        let said = text(&output.stderr);
        assert!(said.contains(says), "{args:?} with {variable}={wrong}: {said}");
    }
}

/// Everything on standard error is JSON, errors included.
#[tokio::test]
async fn a_json_log_contains_only_json() {
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
async fn the_banner_is_a_line_of_a_json_log() {
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

/// Whether a text contains a value in Rust's debug format, such as `Some(7)`, `None` or `EventId(7)`.
fn has_debug_text(text: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(is_word).any(|(at, _)| {
        let begins = !text[..at].ends_with(is_word) && text[at..].starts_with(char::is_uppercase);
        let word: String = text[at..].chars().take_while(|c| is_word(*c)).collect();
        let behind = &text[at + word.len()..];
        begins && (word == "None" || behind.starts_with('(') || behind.starts_with(" { "))
    })
}

/// Log lines contain no values in Rust's debug format.
#[tokio::test]
async fn the_log_contains_no_debug_values() {
    const INSERT: &str = "insert into events (type, subscriber, payload) values ('t', 'toto', '1')";
    assert!(has_debug_text("head=Some(EventId(652))") && has_debug_text("head=None"));
    assert!(!has_debug_text("PostgreSQL (17.2) at event 652: Nothing (yet)"));
    for format in ["text", "json"] {
        let database = Database::create().await;
        let flags = ["--log", "event_piper=debug", "--log-format", format];
        let gateway = Process::launch(&database.url(), &flags);
        gateway.ready().await;
        let toto = [("X-Consumer-Id", "toto")];
        let mut toto = Stream::open(gateway.address(), "/events", &toto).await.joined().await;
        let (one, other) = (database.connect().await, database.connect().await);
        // Late, erased, rejected, reconnected, and replaced.
        one.batch_execute(&format!("begin; {INSERT}")).await.unwrap();
        other.batch_execute(INSERT).await.unwrap();
        assert_eq!(toto.rows(1).await, [2]);
        one.batch_execute("commit").await.unwrap();
        assert_eq!(toto.rows(1).await, [1]);
        let erase = ["erase", "--subscriber", "toto", "--database-url", &database.url()];
        assert!(ended(&mut program(&erase)).await.status.success());
        for (path, event) in [
            ("/events", r#"{"type":"t","subscriber":"toto","payload":{},"amends":99}"#),
            ("/streams/s/7", r#"{"type":"t","payload":1}"#),
        ] {
            let refused = post(gateway.address(), path, &[], event).await;
            assert_eq!(refused.status, 409, "{}", refused.body);
        }
        let end = "select pg_terminate_backend(pid) from pg_stat_activity
            where datname = current_database() and application_name = 'event-piper listener'";
        one.batch_execute(end).await.unwrap();
        one.batch_execute(INSERT).await.unwrap();
        assert_eq!(toto.rows(1).await, [3]);
        let replace = "begin; set local event_piper.prune = 'on';
            truncate events restart identity; commit";
        one.batch_execute(replace).await.unwrap();
        toto.signal("$gap").await;
        let log = gateway.log();
        assert!(log.contains("lost the listening connection"), "{log}");
        let odd: Vec<&str> = log.lines().filter(|line| has_debug_text(line)).collect();
        assert!(odd.is_empty(), "{odd:#?}");
    }
}

fn lines(text: &str) -> Vec<Value> {
    let parse =
        |line: &str| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"));
    text.lines().map(parse).collect()
}

#[tokio::test]
async fn the_log_names_the_server_that_the_gateway_waits_for() {
    let gateway = Process::launch("postgres://toto:s3cret@127.0.0.1:1/log", &[]);
    let log = crate::support::eventually("the gateway waits", async || {
        Some(gateway.log()).filter(|log| log.contains("cannot be reached; trying again"))
    })
    .await;
    assert!(log.contains("postgres://toto@127.0.0.1:1/log"), "{log}");
    assert!(!log.contains("s3cret"), "{log}");
}

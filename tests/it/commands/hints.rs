//! Printed commands work as printed.

use std::{process::Stdio, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::timeout,
};

use super::{ended, program, text};
use crate::support::{eventually, postgres::Database, scratch::Scratch, sse_client::ask};

/// A gateway, and its banner.
struct Started {
    _child: Child,
    hints: Vec<(String, String)>,
}

impl Started {
    async fn with(args: &[&str]) -> Self {
        let mut command = program(&["serve"]);
        command.args(args).stderr(Stdio::null());
        if let Some(bin) = std::env::var_os("EVENT_PIPER_TEST_POSTGRES_BIN") {
            command.env("EVENT_PIPER_POSTGRES_BIN", bin);
        }
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut hints = Vec::new();
        let read = async {
            while !hints.iter().any(|(name, _)| name == "page") {
                let line = lines.next_line().await.unwrap().expect("a banner");
                let hint = line.trim().split_once(' ').unwrap_or_default();
                hints.push((hint.0.to_owned(), hint.1.trim().to_owned()));
            }
        };
        timeout(Duration::from_mins(1), read).await.expect("the banner comes in time");
        Self { _child: child, hints }
    }

    fn hint(&self, name: &str) -> &str {
        &self.hints.iter().find(|(known, _)| known == name).expect("a hint").1
    }

    /// Runs the hint for inserting in a shell, and returns its output.
    async fn insert(&self) -> String {
        let mut shell = Command::new("sh");
        shell.args(["-c", self.hint("insert")]).env_clear().stdin(Stdio::null());
        shell.envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
        let output = ended(&mut shell).await;
        assert!(output.status.success(), "{}: {}", self.hint("insert"), text(&output.stderr));
        text(&output.stdout)
    }

    async fn sees(&self, id: &str) {
        let address = self.hint("page").trim_start_matches("http://").trim_end_matches('/');
        let address = address.parse().unwrap();
        let (path, toto) = (format!("/events/{id}"), [("X-Consumer-Id", "toto")]);
        eventually("the event is there", async || {
            let answer = ask(address, "GET", &path, &toto).await;
            (answer.status == 200).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn on_another_server_the_hint_uses_http() {
    let database = Database::create().await;
    let gateway =
        Started::with(&["--database-url", &database.url(), "--listen", "127.0.0.1:0"]).await;
    assert!(gateway.hint("insert").starts_with("curl -d "), "{}", gateway.hint("insert"));
    assert_eq!(gateway.insert().await, r#"{"id":1}"#);
    gateway.sees("1").await;
}

/// The embedded PostgreSQL in a folder with a space in its name.
#[tokio::test]
async fn hints_contain_the_data_folder() {
    let psql = Command::new("psql").arg("--version").stdout(Stdio::null()).status().await;
    assert!(psql.is_ok_and(|status| status.success()), "psql is a part of every PostgreSQL");
    let scratch = Scratch::new();
    let folder = scratch.path().join("my data");
    let gateway =
        Started::with(&["--data-dir", folder.to_str().unwrap(), "--listen", "[::1]:0"]).await;
    assert!(gateway.insert().await.contains("INSERT 0 1"));
    assert!(gateway.hint("watch").contains("'http://[::1]:"), "{}", gateway.hint("watch"));
    gateway.sees("1").await;
}

#[tokio::test]
async fn doctor_prints_commands_for_this_database() {
    let database = Database::create_empty().await;
    let url = database.url();
    let found = ended(&mut program(&["doctor", "--database-url", &url])).await;
    assert_eq!(found.status.code(), Some(1));
    let found = text(&found.stdout);
    let command = found.split('`').find(|part| part.contains(" migrate ")).expect(&found);
    let migrated = ended(Command::new("sh").args(["-c", command])).await;
    assert!(migrated.status.success(), "{command}: {}", text(&migrated.stderr));
    let found = ended(&mut program(&["doctor", "--database-url", &url])).await;
    assert!(found.status.success(), "{}", text(&found.stdout));
}

//! Runs commands of the program.

use std::process::Stdio;

use tokio::{process::Command, time::timeout};

use super::{DEADLINE, postgres::Database};

/// The outcome of a command.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// Returns the command `event-piper` with these arguments, on this database. The process ends with the test.
pub(crate) fn command(database: &Database, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_event-piper"));
    command.args(args).args(["--database-url", &database.url()]).env_remove("DATABASE_URL");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// Runs a command to its end.
pub(crate) async fn run(database: &Database, args: &[&str]) -> Outcome {
    let child = command(database, args).spawn().unwrap();
    let ended =
        timeout(DEADLINE, child.wait_with_output()).await.expect("the command ends in time");
    let ended = ended.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Outcome { code: ended.status.code(), out: text(&ended.stdout), err: text(&ended.stderr) }
}

//! Closed outputs (`event-piper doctor | head -1`): the command ends without an error message, with its
//! usual exit code.

use std::{fs::File, io::pipe, process::Stdio};

use super::{program, text};
use crate::support::{app::App, postgres::Database};

/// Every command that prints, with standard output and standard error closed at the other end.
#[tokio::test]
async fn a_closed_output_does_not_change_the_exit_code() {
    let database = Database::create().await;
    let app = App::start(&database.url()).await;
    let (db, url) = (database.url(), format!("http://{}", app.address));
    let writer = database.connect().await;
    writer.batch_execute("insert into event_piper_pumps (name) values ('p')").await.unwrap();
    let of_database = ["--database-url", &db];
    let commands: Vec<(Vec<&str>, i32)> = vec![
        (["doctor"].into(), 0),
        (["migrate"].into(), 0),
        (["prune", "--keep", "1"].into(), 0),
        (["prune", "--keep", "1", "--dry-run"].into(), 0),
        (["erase", "--subscriber", "toto"].into(), 0),
        (["keys", "create", "--name", "toto"].into(), 0),
        (["keys", "list"].into(), 0),
        (["keys", "revoke", "0000000000000000"].into(), 1),
        (["pump", "list"].into(), 0),
        (["pump", "skip", "p", "7"].into(), 1),
        (["healthcheck", "--listen", "127.0.0.1:1"].into(), 1),
        (["serve", "--hold", "long"].into(), 2),
    ];
    let mut all: Vec<(Vec<&str>, i32)> = commands
        .into_iter()
        .map(|(mut args, code)| {
            args.extend(of_database);
            (args, code)
        })
        .collect();
    let append = ["append", "--url", &url, "--type", "a", "--consumer", "toto", "1"];
    all.push((append.into(), 0));
    all.push((["append", "--url", &url, "--type", "$", "--consumer", "toto", "1"].into(), 1));
    all.push((["--help"].into(), 0));
    all.push((["--version"].into(), 0));
    for (args, code) in all {
        for closed in ["output", "errors", "both"] {
            let mut command = program(&args);
            let ended_pipe = || Stdio::from(pipe().unwrap().1);
            if closed != "errors" {
                command.stdout(ended_pipe());
            }
            if closed != "output" {
                command.stderr(ended_pipe());
            }
            let status = command.status().await.unwrap();
            assert_eq!(status.code(), Some(code), "{args:?} with closed {closed}");
        }
    }
    let sql = "select count(*) from events where payload is not null";
    let row = writer.query_one(sql, &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), 3, "each append has written");
}

/// A key that could not be printed must not look as if it was.
#[tokio::test]
async fn a_full_disk_is_an_error() {
    let Ok(full) = File::options().write(true).open("/dev/full") else { return };
    let database = Database::create().await;
    let db = database.url();
    let args = ["keys", "create", "--name", "toto", "--database-url", &db];
    let child = program(&args).stdout(full).spawn().unwrap();
    let output = child.wait_with_output().await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("writing to standard output"), "{output:?}");
}

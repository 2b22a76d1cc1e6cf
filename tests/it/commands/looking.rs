//! Commands that examine a log never create one: a misspelt folder would become an empty log.

use super::{ended, names, program, text};
use crate::support::scratch::Scratch;

#[tokio::test]
async fn commands_report_a_missing_database() {
    let scratch = Scratch::new();
    let folder = scratch.path().join("misspelt");
    let data_dir = folder.to_str().unwrap();
    for args in [
        &["doctor"][..],
        &["keys", "list"],
        &["keys", "create", "--name", "toto"],
        &["keys", "revoke", "0000000000000000"],
        &["pump", "list"],
        &["pump", "retry", "p", "1"],
        &["pump", "skip", "p", "1"],
        &["pump", "--to", "http://127.0.0.1:1/"],
        &["psql", "--data-dir", data_dir, "-c", "select 1"],
        &["prune", "--keep", "1"],
        &["erase", "--subscriber", "toto"],
    ] {
        let mut command = program(args);
        if args[0] != "psql" {
            command.args(["--data-dir", data_dir]);
        }
        let output = ended(&mut command).await;
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
        assert!(said.contains("there is no database"), "{args:?}: {said}");
        assert!(said.contains(data_dir), "{args:?}: {said}");
        assert_eq!(names(scratch.path()), [""; 0], "{args:?} created something");
    }
}

/// A command starts an existing embedded PostgreSQL that is not running.
#[tokio::test]
async fn commands_start_an_existing_cluster() {
    let scratch = Scratch::new();
    let folder = scratch.path().join("data");
    let on_it = |args: &[&str]| {
        let mut command = program(args);
        command.arg("--data-dir").arg(&folder);
        if let Some(bin) = std::env::var_os("EVENT_PIPER_TEST_POSTGRES_BIN") {
            command.arg("--postgres-bin").arg(bin);
        }
        command
    };
    let made = ended(&mut on_it(&["migrate"])).await;
    assert!(made.status.success(), "{}", text(&made.stderr));
    let created = ended(&mut on_it(&["keys", "create", "--name", "toto"])).await;
    assert!(created.status.success(), "{}", text(&created.stderr));
    let listed = ended(&mut on_it(&["keys", "list"])).await;
    assert!(text(&listed.stdout).contains("toto"), "{listed:?}");
}

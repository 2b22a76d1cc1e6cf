//! Tests the server against its API description `docs/openapi.yaml` with schemathesis, which searches for
//! requests that violate it.

use std::{env, io::Write, path::PathBuf, process::Stdio, time::Duration};

use tokio::{process::Command, time::timeout};

use crate::support::{app::App, postgres::Database, scratch::Scratch};

/// The number of requests of each kind.
const EXAMPLES: &str = "15";
/// The time limit of the whole run.
const TIME_LIMIT: Duration = Duration::from_mins(10);

/// Event streams are left out, because they have no end.
const ENDLESS: [&str; 2] = ["subscribe", "followEverything"];

/// The path where `scripts/ensure-schemathesis` installs it.
fn program() -> Option<PathBuf> {
    let target = env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target"), PathBuf::from);
    let program = target.join("schemathesis/bin/schemathesis");
    program.exists().then_some(program)
}

#[tokio::test]
async fn the_server_conforms_to_its_api_description() {
    let Some(program) = program() else {
        assert_ne!(env::var("CI").as_deref(), Ok("true"), "schemathesis is not installed");
        // Not with a macro, since the test harness would capture the output.
        let skipped =
            b"SKIPPED: the test of the API description, because schemathesis is not installed; \
                        scripts/ensure-schemathesis installs it\n";
        std::io::stderr().write_all(skipped).unwrap();
        return;
    };
    let database = Database::create().await;
    let app = App::start(&database.url()).await;
    let folder = Scratch::new();
    let mut command = Command::new(program);
    command
        .arg("--config-file")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/contract.toml"));
    command.arg("run").arg(format!("http://{}/openapi.json", app.address));
    command.args(["--max-examples", EXAMPLES, "--generation-deterministic", "--no-color"]);
    // The description says in words that U+0000 is rejected. Another test checks it.
    command.args(["--request-timeout", "20", "--generation-allow-x00", "false"]);
    command.args(["--phases", "examples,coverage,fuzzing"]);
    for operation in ENDLESS {
        command.args(["--exclude-operation-id", operation]);
    }
    command.current_dir(folder.path()).stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(TIME_LIMIT, command.output()).await.expect("it ends in time").unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{complaints}");
    // It would also succeed if nothing was tested.
    assert!(said.contains("passed"), "{said}");
}

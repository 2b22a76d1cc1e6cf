//! The embedded PostgreSQL: durable, exclusive, restarted after a crash, and stopped with its owner.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use event_piper::embedded::{self, EmbeddedError, Settings};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio_postgres::NoTls;

use crate::support::{eventually, ports::free_port, postgres::connect, scratch::Scratch};

#[tokio::test]
async fn a_restart_keeps_data_and_leaves_no_process() {
    let (_scratch, settings) = settings();
    let first = embedded::start(settings.clone()).await.unwrap();
    connect(first.url()).await.batch_execute("create table kept ()").await.unwrap();
    let pid = postmaster(&settings).unwrap();
    first.stop().await;
    assert!(!is_alive(pid), "stopped means gone");
    assert_eq!(embedded::running_url(&settings), None);

    let second = embedded::start(settings).await.unwrap();
    assert_eq!(table_named(second.url(), "kept").await, Some("kept".to_owned()));
    second.stop().await;
}

#[tokio::test]
async fn the_cluster_is_durable_and_private() {
    let (_scratch, settings) = settings();
    let embedded = embedded::start(settings.clone()).await.unwrap();
    let client = connect(embedded.url()).await;
    for (setting, value) in [
        ("fsync", "on"),
        ("data_checksums", "on"),
        ("listen_addresses", ""),
        ("server_encoding", "UTF8"),
    ] {
        let row = client.query_one("select current_setting($1)", &[&setting]).await.unwrap();
        assert_eq!(row.get::<_, String>(0), value, "{setting}");
    }
    let row = client.query_one("select current_user::text, current_database()::text", &[]).await;
    let row = row.unwrap();
    assert_eq!((row.get(0), row.get(1)), ("event_piper", "event_piper"));
    let socket = fs::metadata(settings.data_dir.join("socket")).unwrap();
    assert_eq!(socket.permissions().mode() & 0o777, 0o700);
    embedded.stop().await;
}

#[tokio::test]
async fn a_second_process_on_the_folder_is_rejected() {
    let (_scratch, settings) = settings();
    let first = embedded::start(settings.clone()).await.unwrap();
    let refused = embedded::start(settings.clone()).await.unwrap_err().to_string();
    assert!(refused.contains(&format!("pid {}", std::process::id())), "{refused}");
    assert!(refused.contains(settings.data_dir.to_str().unwrap()), "{refused}");
    first.stop().await;
}

#[tokio::test]
async fn a_killed_postgres_is_restarted() {
    let (_scratch, settings) = settings();
    let embedded = embedded::start(settings.clone()).await.unwrap();
    connect(embedded.url()).await.batch_execute("create table kept ()").await.unwrap();
    let first = postmaster(&settings).unwrap();
    signal(first, Signal::SIGKILL);
    let again = eventually("another postmaster accepts connections", async || {
        postmaster(&settings).filter(|pid| *pid != first)?;
        drop(tokio_postgres::connect(embedded.url(), NoTls).await.ok()?);
        Some(table_named(embedded.url(), "kept").await)
    });
    assert_eq!(again.await.as_deref(), Some("kept"));
    embedded.stop().await;
    assert!(!postmaster(&settings).is_some_and(is_alive));
}

#[tokio::test]
async fn the_server_of_a_killed_gateway_is_taken_over() {
    let (_scratch, settings) = settings();
    let mut owner = Command::new(env!("CARGO_BIN_EXE_event-piper"));
    owner.args(["serve", "--listen", "127.0.0.1:0", "--data-dir"]).arg(&settings.data_dir);
    owner.stdout(Stdio::null()).stderr(Stdio::null());
    // Of the same version as the process that takes over.
    owner.envs(settings.binaries.iter().map(|folder| ("EVENT_PIPER_POSTGRES_BIN", folder)));
    let mut owner = owner.spawn().unwrap();
    let url = eventually("the schema is there", async || {
        let url = embedded::running_url(&settings)?;
        let (client, connection) = tokio_postgres::connect(&url, NoTls).await.ok()?;
        tokio::spawn(connection);
        client.query("select from events", &[]).await.ok().map(|_| url)
    })
    .await;
    owner.kill().unwrap();
    owner.wait().unwrap();
    let writer = connect(&url).await;

    let left = postmaster(&settings).unwrap();
    let embedded = embedded::start(settings.clone()).await.unwrap();
    assert_eq!(postmaster(&settings), Some(left));
    writer.query("select from events", &[]).await.expect("writers notice nothing");
    embedded.stop().await;
    assert!(!is_alive(left));
}

#[tokio::test]
async fn an_interrupted_first_start_is_repeated() {
    let (_scratch, settings) = settings();
    let half = settings.data_dir.join("cluster.new");
    fs::create_dir_all(half.join("base")).unwrap();
    fs::write(half.join("PG_VERSION"), "1\n").unwrap();
    let embedded = embedded::start(settings).await.unwrap();
    assert_eq!(table_named(embedded.url(), "pg_class").await.as_deref(), Some("pg_class"));
    embedded.stop().await;
    assert!(!half.exists());
}

#[tokio::test]
async fn a_dropped_server_stops() {
    let (_scratch, settings) = settings();
    let embedded = embedded::start(settings.clone()).await.unwrap();
    let pid = postmaster(&settings).unwrap();
    drop(embedded);
    eventually("PostgreSQL has ended", async || (!is_alive(pid)).then_some(())).await;
}

#[tokio::test]
async fn the_port_is_on_loopback_and_needs_the_password() {
    let (_scratch, settings) = settings();
    let port = free_port();
    let settings = Settings { port: Some(port), ..settings };
    let embedded = embedded::start(settings.clone()).await.unwrap();
    let password = fs::read_to_string(settings.data_dir.join("password")).unwrap();
    let url = |password: &str| {
        format!("postgresql://event_piper:{}@127.0.0.1:{port}/event_piper", password.trim())
    };
    connect(&url(&password)).await.batch_execute("select 1").await.unwrap();
    assert!(tokio_postgres::connect(&url("wrong"), NoTls).await.is_err());
    embedded.stop().await;
}

#[tokio::test]
async fn a_long_path_has_its_socket_elsewhere() {
    let (_scratch, settings) = settings();
    let settings = Settings { data_dir: settings.data_dir.join("x".repeat(90)), ..settings };
    let embedded = embedded::start(settings.clone()).await.unwrap();
    assert_eq!(table_named(embedded.url(), "pg_class").await.as_deref(), Some("pg_class"));
    let socket_dir = socket_dir(&settings.data_dir);
    assert!(socket_dir.starts_with(std::env::temp_dir()), "{}", socket_dir.display());
    embedded.stop().await;
    fs::remove_dir_all(socket_dir).unwrap();
}

#[tokio::test]
async fn data_of_another_version_is_rejected() {
    let (_scratch, settings) = settings();
    let cluster = settings.data_dir.join("cluster");
    fs::create_dir_all(&cluster).unwrap();
    fs::write(cluster.join("PG_VERSION"), "9999\n").unwrap();
    let error = embedded::start(settings).await.unwrap_err();
    assert!(matches!(error, EmbeddedError::OtherMajor { major: 9999, .. }), "{error:?}");
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("Install PostgreSQL 9999"), "{source}");
}

fn settings() -> (Scratch, Settings) {
    let scratch = Scratch::new();
    let binaries = std::env::var_os("EVENT_PIPER_TEST_POSTGRES_BIN").map(PathBuf::from);
    let settings = Settings { data_dir: scratch.path().join("data"), binaries, port: None };
    (scratch, settings)
}

async fn table_named(url: &str, name: &str) -> Option<String> {
    let client = connect(url).await;
    client.query_one("select to_regclass($1)::text", &[&name]).await.unwrap().get(0)
}

fn postmaster(settings: &Settings) -> Option<Pid> {
    let note = fs::read_to_string(settings.data_dir.join("cluster/postmaster.pid")).ok()?;
    Some(Pid::from_raw(note.lines().next()?.trim().parse().ok()?))
}

fn socket_dir(data_dir: &Path) -> PathBuf {
    let note = fs::read_to_string(data_dir.join("cluster/postmaster.pid")).unwrap();
    note.lines().nth(4).unwrap().into()
}

fn is_alive(pid: Pid) -> bool {
    kill(pid, None).is_ok()
}

fn signal(pid: Pid, signal: Signal) {
    kill(pid, signal).unwrap();
}

//! Disk space, memory and file descriptors run out. Errors are reported, nothing is lost, and operation
//! resumes when they are available again.

use std::{process::Command, time::Duration};

use tokio::{net::TcpStream, time::timeout};
use tokio_postgres::Client;

use crate::support::{
    eventually,
    postgres::{Database, Stop, TestServer, try_connect},
    process::Process,
    sse_client::Stream,
};

/// How long `/readyz` may take to show the state of delivery, even on a busy machine.
const READINESS_TIMEOUT: Duration = Duration::from_mins(2);

const TOTO: [(&str, &str); 1] = [("X-Consumer-Id", "toto")];
const INSERT: &str = "insert into events (type, subscriber, payload) values ('t', 'toto', '1')";
/// Random, so that it cannot be compressed.
const BIG: &str = "insert into events (type, subscriber, payload)
    select 'big', 'toto', to_jsonb(string_agg(gen_random_uuid()::text, ''))
    from generate_series(1, 6000)";

async fn ids(client: &Client) -> Vec<i64> {
    let all = "select id from events where subscriber = 'toto' order by id";
    client.query(all, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

/// Sets a resource limit of a running process with `prlimit` of util-linux.
fn limit(process: &Process, limit: &str) {
    let pid = process.pid().to_string();
    let status = Command::new("prlimit").args(["--pid", &pid, limit]).status();
    assert!(status.expect("prlimit of util-linux").success(), "{limit}");
}

async fn becomes(gateway: &Process, ready: bool) {
    let seen = async {
        while gateway.is_ready().await != ready {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let seen = timeout(READINESS_TIMEOUT, seen).await;
    assert!(seen.is_ok(), "ready is not {ready} within {READINESS_TIMEOUT:?}:\n{}", gateway.log());
}

/// A gateway with a client, and a writer that has written an event.
async fn followed(database: &Database) -> (Process, Stream, Client) {
    let gateway = Process::launch(&database.url(), &["--heartbeat", "400ms"]);
    gateway.ready().await;
    let toto = Stream::open(gateway.address(), "/events", &TOTO).await.joined().await;
    let writer = database.connect().await;
    writer.batch_execute(INSERT).await.unwrap();
    (gateway, toto, writer)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_loses_no_committed_event() {
    let server = TestServer::start_on_disk("").await;
    let database = Database::create_on_own(&server).await;
    let (gateway, mut toto, writer) = followed(&database).await;

    server.disk().set_full(true);
    let refused = loop {
        match writer.batch_execute(BIG).await {
            Ok(()) => {}
            Err(refused) => break refused,
        }
    };
    let refused = refused.as_db_error().map(|error| error.message().to_owned());
    assert!(refused.as_ref().is_some_and(|it| it.contains("No space left")), "{refused:?}");
    assert!(gateway.is_ready().await, "reading needs no disk space");
    server.disk().set_full(false);

    writer.batch_execute(BIG).await.unwrap();
    writer.batch_execute(INSERT).await.unwrap();
    let truth = ids(&writer).await;
    assert_eq!(toto.rows(truth.len()).await, truth);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn survives_a_panic_of_postgresql_on_a_full_disk() {
    let server = TestServer::start_on_disk("restart_after_crash = off\n").await;
    let database = Database::create_on_own(&server).await;
    let (gateway, mut toto, writer) = followed(&database).await;

    server.disk().set_full(true);
    // Only the write-ahead log grows, until PostgreSQL cannot create its next file.
    let log = "select pg_logical_emit_message(false, 'x', repeat('x', 1000000))";
    let grows = async { while writer.batch_execute(log).await.is_ok() {} };
    timeout(Duration::from_mins(2), grows).await.expect("the disk is full");
    becomes(&gateway, false).await;
    server.disk().set_full(false);
    server.stop(Stop::Immediate).await;
    server.start().await;
    becomes(&gateway, true).await;

    let writer = database.connect().await;
    writer.batch_execute(INSERT).await.unwrap();
    let truth = ids(&writer).await;
    assert_eq!(toto.rows(truth.len()).await, truth);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_cannot_use_the_gateways_own_files() {
    const FILES: usize = 128;
    let database = Database::create().await;
    let mut gateway = Process::launch_limited(&database.url(), &[], &format!("ulimit -n {FILES}"));
    gateway.ready().await;
    assert!(gateway.log().contains("128 open files"), "{}", gateway.log());
    let mut first = Stream::open(gateway.address(), "/events", &TOTO).await.joined().await;
    let mut greedy = Vec::new();
    for _ in 0..2 * FILES {
        greedy.push(TcpStream::connect(gateway.address()).await.unwrap());
    }
    // A new connection needs a file.
    let administrator = database.connect().await;
    let end = "select pg_terminate_backend(pid) from pg_stat_activity
               where datname = current_database() and application_name like 'event-piper%'";
    administrator.batch_execute(end).await.unwrap();
    administrator.batch_execute(INSERT).await.unwrap();
    assert_eq!(first.rows(1).await, ids(&administrator).await);
    assert!(gateway.fallen().is_none());
    drop(greedy);
    becomes(&gateway, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recovers_from_a_lack_of_file_descriptors() {
    let database = Database::create().await;
    let gateway = Process::launch(&database.url(), &[]);
    gateway.ready().await;
    let mut toto = Stream::open(gateway.address(), "/events", &TOTO).await.joined().await;
    limit(&gateway, "--nofile=8:4096");
    let administrator = database.connect().await;
    let end = "select pg_terminate_backend(pid) from pg_stat_activity
               where datname = current_database() and application_name = 'event-piper listener'";
    administrator.batch_execute(end).await.unwrap();
    administrator.batch_execute(INSERT).await.unwrap();
    becomes(&gateway, false).await;
    eventually("the log reports it", async || {
        gateway.log().contains("connections cannot be accepted").then_some(())
    })
    .await;
    let said = gateway.log().matches("connections cannot be accepted").count();
    assert_eq!(said, 1, "once: {}", gateway.log());

    limit(&gateway, "--nofile=4096:4096");
    becomes(&gateway, true).await;
    administrator.batch_execute(INSERT).await.unwrap();
    assert_eq!(toto.rows(2).await, ids(&administrator).await);
    assert!(gateway.log().contains("connections are accepted again"), "{}", gateway.log());
}

/// Without memory the process ends with a message, and its supervisor starts it again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_memory_the_process_ends() {
    let database = Database::create().await;
    let mut gateway = Process::launch(&database.url(), &[]);
    gateway.ready().await;
    let mut toto = Stream::open(gateway.address(), "/events", &TOTO).await.joined().await;
    let writer = database.connect().await;
    writer.batch_execute(INSERT).await.unwrap();
    let mut got = toto.rows(1).await;
    let cursor = toto.last_id.clone();

    // Private memory, without shared and reserved memory.
    limit(&gateway, "--data=1000000");
    let ended = async {
        while writer.batch_execute(BIG).await.is_ok() {
            if gateway.ended(Duration::from_millis(50)).await.is_some() {
                return;
            }
        }
    };
    timeout(READINESS_TIMEOUT, ended).await.expect("the process ends without memory");
    assert!(gateway.log().contains("memory allocation"), "{}", gateway.log());

    gateway.start();
    gateway.ready().await;
    let resume = [TOTO[0], ("Last-Event-ID", cursor.as_str())];
    let mut toto = Stream::open(gateway.address(), "/events", &resume).await;
    let truth = ids(&writer).await;
    got.extend(toto.rows(truth.len() - 1).await);
    assert_eq!(got, truth);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn delivery_continues_without_a_writable_log() {
    let database = Database::create().await;
    let gateway = Process::launch_limited(&database.url(), &[], "exec >/dev/full 2>/dev/full");
    gateway.ready().await;
    let mut toto = Stream::open(gateway.address(), "/events", &TOTO).await.joined().await;
    let writer = database.connect().await;
    let end = "select pg_terminate_backend(pid) from pg_stat_activity
               where datname = current_database() and application_name like 'event-piper%'";
    writer.batch_execute(end).await.unwrap();
    writer.batch_execute(INSERT).await.unwrap();
    assert_eq!(toto.rows(1).await, ids(&writer).await);
    assert!(try_connect(&database.url()).await.is_ok());
}

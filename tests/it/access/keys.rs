//! Keys: created, used, and revoked.

use std::{net::SocketAddr, process::Output};

use event_piper::access::{Modes, keys::NewKey};
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    process::Command,
};

use super::issuer::bearer;
use crate::{
    import,
    support::{
        app::{App, Settings},
        postgres::Database,
        sse_client::{Stream, ask, post},
    },
};

async fn app() -> (Database, App) {
    let database = Database::create().await;
    let mut settings = Settings::default();
    settings.access.modes = Modes { keys: true, ..Modes::OPEN };
    settings.access.metrics_from = "10.9.9.9".parse().unwrap();
    let app = App::start_with(&database.url(), settings).await;
    (database, app)
}

async fn keys(database: &Database, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_event-piper"));
    command.arg("keys").args(args).args(["--database-url", &database.url()]).kill_on_drop(true);
    command.output().await.unwrap()
}

async fn create(database: &Database, args: &[&str]) -> String {
    let made = keys(database, &[&["create"], args].concat()).await;
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    String::from_utf8(made.stdout).unwrap().trim().to_owned()
}

async fn status(address: SocketAddr, path: &str, key: &str) -> u16 {
    ask(address, "GET", path, &[("Authorization", &bearer(key))]).await.status
}

/// Whether a path is open to this key. The answer may be a stream: its first line is read.
async fn allows(address: SocketAddr, path: &str, key: &str) -> bool {
    let mut socket = TcpStream::connect(address).await.unwrap();
    let key = bearer(key);
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: {key}\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut status = String::new();
    BufReader::new(socket).read_line(&mut status).await.unwrap();
    assert!(
        status.starts_with("HTTP/1.1 200") || status.starts_with("HTTP/1.1 403"),
        "{path}: {status}"
    );
    status.contains("200")
}

async fn write(address: SocketAddr, path: &str, body: &str, key: &str) -> u16 {
    let headers = [("Authorization", &*bearer(key)), ("Content-Type", "application/json")];
    post(address, path, &headers, body).await.status
}

#[tokio::test]
async fn a_new_key_works_at_once() {
    let (database, app) = app().await;
    let key = create(&database, &["--name", "shop", "--read", "shop-*", "--metrics"]).await;
    assert!(key.starts_with("ep_") && key.len() == 63, "{key}");
    let header = bearer(&key);
    let headers = [("Authorization", &*header)];
    Stream::open(app.address, "/events?consumer=shop-1", &headers).await.joined().await;
    for (path, expected) in [
        ("/events?consumer=toto", 403),
        ("/events", 400),
        ("/metrics", 200),
        ("/", 403),
        ("/events/1", 404),
    ] {
        assert_eq!(status(app.address, path, &key).await, expected, "{path}");
    }
    let own = create(&database, &["--name", "toto"]).await;
    Stream::open(app.address, "/events", &[("Authorization", &bearer(&own))]).await.joined().await;
}

#[tokio::test]
async fn each_flag_of_a_key_gives_its_right_and_no_other() {
    let (database, app) = app().await;
    let reads = ["/events?consumer=shop", "/streams/s", "/all", "/", "/metrics"];
    let flags: [(&[&str], [bool; 5]); 6] = [
        (&["--read", "shop"], [true, false, false, false, false]),
        (&["--read-streams", "s"], [false, true, false, false, false]),
        (&["--all"], [false, false, true, false, false]),
        (&["--console"], [false, false, false, true, false]),
        (&["--metrics"], [false, false, false, false, true]),
        (&["--write", "shop", "--write-streams", "s"], [false; 5]),
    ];
    for (flags, expected) in flags {
        let key = create(&database, &[&["--name", "toto"], flags].concat()).await;
        for (path, allowed) in reads.iter().zip(expected) {
            assert_eq!(allows(app.address, path, &key).await, allowed, "{flags:?} at {path}");
        }
    }
    let writes = [
        ("/events", r#"{"type":"t","subscriber":"shop","payload":1}"#, "--write", "shop"),
        ("/streams/s", r#"{"type":"t","payload":1}"#, "--write-streams", "s"),
    ];
    for (path, body, flag, what) in writes {
        let right = create(&database, &["--name", "toto", flag, what]).await;
        let wrong = create(&database, &["--name", "toto", flag, "other"]).await;
        assert_eq!(write(app.address, path, body, &right).await / 100, 2, "{flag}");
        assert_eq!(write(app.address, path, body, &wrong).await, 403, "{flag}");
    }
}

#[tokio::test]
async fn a_key_that_is_revoked_ends_its_streams_and_its_tickets() {
    let (database, app) = app().await;
    let key = create(&database, &["--name", "toto"]).await;
    let header = bearer(&key);
    let headers = [("Authorization", &*header)];
    let mut stream = Stream::open(app.address, "/events", &headers).await.joined().await;
    let given = [headers[0], ("Content-Length", "0")];
    let ticket = ask(app.address, "POST", "/tickets", &given).await.json()["ticket"].clone();
    let path = format!("/events?ticket={}", ticket.as_str().unwrap());
    let mut ticketed = Stream::open(app.address, &path, &[]).await.joined().await;

    let revoked = keys(&database, &["revoke", &key]).await;
    assert!(revoked.status.success(), "{}", String::from_utf8_lossy(&revoked.stderr));
    for stream in [&mut stream, &mut ticketed] {
        assert_eq!(stream.signal("$closing").await.data, r#"{"reason":"revoked"}"#);
        assert_eq!(stream.next().await, None);
    }
    assert_eq!(status(app.address, "/events", &key).await, 401);
    let back = ask(app.address, "GET", &path, &[("Last-Event-ID", "0")]).await;
    assert_eq!(back.status, 401);
    let again = keys(&database, &["revoke", &key]).await;
    assert!(!again.status.success());
}

#[tokio::test]
async fn a_revoked_key_ends_its_imports() {
    let (database, app) = app().await;
    let key = create(&database, &["--name", "toto", "--write", "toto"]).await;
    let header = bearer(&key);
    let headers = [("Authorization", &*header)];
    let mut stream = Stream::open(app.address, "/events", &headers).await.joined().await;
    let (mut lines, batch) = import::begin(app.address, &header).await;
    assert_eq!(stream.rows(500).await.last(), Some(&500));
    let revoked = keys(&database, &["revoke", &key]).await;
    assert!(revoked.status.success(), "{}", String::from_utf8_lossy(&revoked.stderr));
    assert_eq!(stream.signal("$closing").await.data, r#"{"reason":"revoked"}"#);
    lines.write_all(batch.as_bytes()).await.unwrap();
    let told = import::end(lines).await;
    assert_eq!((&told["lines"], &told["error"]["status"]), (&json!(500), &json!(401)), "{told}");
}

#[tokio::test]
async fn a_ticket_of_a_new_key_works_at_other_instances() {
    let database = Database::create().await;
    let instance = async || {
        let mut settings = Settings::default();
        settings.access.modes = Modes { keys: true, ..Modes::OPEN };
        settings.access.ticket_keys = vec!["a key that all the instances have".into()];
        App::start_with(&database.url(), settings).await
    };
    let (one, other) = (instance().await, instance().await);
    let unknown = status(other.address, "/events", &NewKey::generate().text).await;
    assert_eq!(unknown, 401, "the keys are cached there now");
    let key = create(&database, &["--name", "toto"]).await;
    let header = bearer(&key);
    let given = [("Authorization", &*header), ("Content-Length", "0")];
    let ticket = ask(one.address, "POST", "/tickets", &given).await.json()["ticket"].clone();
    let path = format!("/events?ticket={}", ticket.as_str().unwrap());
    Stream::open(other.address, &path, &[]).await.joined().await;
}

#[tokio::test]
async fn rejects_altered_keys() {
    let (database, app) = app().await;
    let key = create(&database, &["--name", "toto"]).await;
    let other = create(&database, &["--name", "titi"]).await;
    let (id, secret) = (&key[..19], &other[20..]);
    let last = if key.ends_with('A') { "E" } else { "A" };
    for wrong in [
        &format!("{id}_{secret}"),
        &format!("{}{last}", &key[..key.len() - 1]),
        &key[..key.len() - 1],
        &format!("{key}A"),
        "ep_0000000000000000_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        "ep_",
    ] {
        assert_eq!(status(app.address, "/events", wrong).await, 401, "{wrong}");
    }
    let expired = create(&database, &["--name", "toto", "--expires-in", "1ms"]).await;
    assert_eq!(status(app.address, "/events", &expired).await, 401);
}

#[tokio::test]
async fn the_table_and_the_list_do_not_contain_keys() {
    let (database, _app) = app().await;
    let key =
        create(&database, &["--name", "toto", "--write", "shop-*", "--expires-in", "90d"]).await;
    let listed = keys(&database, &["list"]).await;
    let listed = String::from_utf8(listed.stdout).unwrap();
    for expected in [&key[3..19], "\"toto\"", "until ", r#"{"write": ["shop-*"]}"#] {
        assert!(listed.contains(expected), "{expected} in {listed}");
    }
    let row = database.connect().await;
    let row = row.query_one("select event_piper_keys::text from event_piper_keys", &[]).await;
    let row: String = row.unwrap().get(0);
    assert!(!row.contains(&key[20..]) && !listed.contains(&key[20..]));
}

#[tokio::test]
async fn cached_keys_work_while_postgresql_is_down() {
    let server = crate::support::postgres::TestServer::start_own("").await;
    let database = Database::create_on_own(&server).await;
    let mut settings = Settings::default();
    settings.access.modes = Modes { keys: true, ..Modes::OPEN };
    let app = App::start_with(&database.url(), settings).await;
    let key = create(&database, &["--name", "toto"]).await;
    let header = bearer(&key);
    let headers = [("Authorization", &*header)];
    let mut stream = Stream::open(app.address, "/events", &headers).await.joined().await;
    server.stop(crate::support::postgres::Stop::Fast).await;
    let mut meanwhile = Stream::open(app.address, "/events", &headers).await;
    meanwhile.signal("heartbeat").await;
    stream.signal("heartbeat").await;
    assert_eq!(status(app.address, "/events", "ep_bad").await, 401);
}

#[tokio::test]
async fn the_command_rejects_invalid_rights() {
    let database = Database::create().await;
    for (args, says) in [
        (&["--name", "toto", "--read", ""][..], "--read"),
        (&["--name", "a\nb"], "control character"),
        (&["--name", "toto", "--expires-in", "soon"], "--expires-in"),
        (&["--read", "toto"], "--name"),
    ] {
        let made = keys(&database, &[&["create"], args].concat()).await;
        let error = String::from_utf8_lossy(&made.stderr).into_owned();
        assert!(!made.status.success() && error.contains(says), "{args:?}: {error}");
    }
    let none = keys(&database, &["revoke", "toto"]).await;
    assert!(String::from_utf8_lossy(&none.stderr).contains("is not a key id"));
}

/// Rows can be written with SQL.
#[tokio::test]
async fn keys_with_any_times_are_listed() {
    let database = Database::create().await;
    create(&database, &["--name", "shop", "--read", "shop-*"]).await;
    let client = database.connect().await;
    for (created, expires) in
        [("infinity", "infinity"), ("-infinity", "-infinity"), ("1066-10-14", "now")]
    {
        let set = format!(
            "update event_piper_keys set created_at = '{created}', expires_at = '{expires}'"
        );
        client.batch_execute(&set).await.unwrap();
        let listed = keys(&database, &["list"]).await;
        let said = String::from_utf8_lossy(&listed.stdout);
        assert!(listed.status.success() && said.contains("shop"), "{created}: {listed:?}");
    }
}

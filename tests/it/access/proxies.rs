//! The header of a proxy, which only listed proxies may send, and the host names of requests.

use event_piper::access::Modes;
use http_body_util::Empty;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::support::{
    app::{App, Settings},
    postgres::Database,
    sse_client::{Answer, Stream, ask, whole},
};

const TOTO: (&str, &str) = ("X-Consumer-Id", "toto");

async fn behind(proxies: &str) -> (Database, App) {
    let database = Database::create().await;
    let mut settings = Settings::default();
    settings.access.modes = Modes::TRUSTED_HEADER;
    settings.access.trusted_proxies = proxies.parse().unwrap();
    let app = App::start_with(&database.url(), settings).await;
    (database, app)
}

#[tokio::test]
async fn only_listed_proxies_are_trusted() {
    let (_database, app) = behind("127.0.0.0/8").await;
    Stream::open(app.address, "/events", &[TOTO]).await.joined().await;
    let (_database, app) = behind("10.0.0.0/8,::1").await;
    for headers in [&[TOTO][..], &[TOTO, ("X-Forwarded-For", "10.0.0.1")]] {
        let answer = app.get("/events", headers).await;
        assert_eq!(answer.status, 401);
        assert!(answer.json()["detail"].as_str().unwrap().contains("--trusted-proxies"));
    }
    let counted = app.metric("denied_total{reason=\"untrusted-proxy\"}").await;
    assert_eq!(counted, 2);
}

#[tokio::test]
async fn a_named_consumer_may_only_read_its_own_events() {
    let (database, app) = behind("127.0.0.1").await;
    let row = "insert into events (type, subscriber, payload) values ('t', 'titi', '1')";
    database.connect().await.batch_execute(row).await.unwrap();
    for (path, status) in
        [("/events?consumer=titi", 403), ("/events/1", 404), ("/metrics", 403), ("/", 403)]
    {
        assert_eq!(app.get(path, &[TOTO]).await.status, status, "{path}");
    }
    assert_eq!(app.get("/", &[]).await.status, 401);
    assert_eq!(app.get("/metrics", &[]).await.status, 200, "requested from this machine");
    let forwarded = [("X-Forwarded-For", "203.0.113.7")];
    assert_eq!(app.get("/metrics", &forwarded).await.status, 401, "requested through the proxy");
    let token = [TOTO, ("Authorization", "Bearer of the proxy's")];
    Stream::open(app.address, "/events", &token).await.joined().await;
    assert_eq!(app.get("/events?consumer=toto", &token[1..]).await.status, 401);
}

#[tokio::test]
async fn header_rights_add_rights_to_named_consumers() {
    let database = Database::create().await;
    let mut settings = Settings::default();
    settings.access.modes = Modes::TRUSTED_HEADER;
    settings.access.header_rights = serde_json::from_str(r#"{"console": true}"#).unwrap();
    let app = App::start_with(&database.url(), settings).await;
    assert_eq!(app.get("/", &[TOTO]).await.status, 200);
    assert_eq!(app.get("/metrics", &[TOTO]).await.status, 403);
    Stream::open(app.address, "/events", &[TOTO]).await.joined().await;
}

#[tokio::test]
async fn an_open_gateway_rejects_public_host_names() {
    let database = Database::create().await;
    let mut settings = Settings::default();
    settings.access.hosts = "events.test".parse().unwrap();
    let app = App::start_with(&database.url(), settings).await;
    for (host, status) in [
        ("localhost", 200),
        ("LOCALHOST.:4000", 200),
        ("app.localhost:4000", 200),
        ("127.0.0.1:1", 200),
        ("[::1]:4000", 200),
        ("192.168.1.7:4000", 200),
        ("gateway:4000", 200),
        ("events.test:4000", 200),
        ("evil.example", 421),
        ("evil.example:4000", 421),
        ("localhost.evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("localhost@evil.example", 421),
        ("", 421),
    ] {
        for path in ["/healthz", "/", "/metrics", "/console.js"] {
            let answer = for_host(&app, path, host).await;
            assert_eq!(answer.status, status, "{host} {path}: {}", answer.body);
        }
        let stream = for_host(&app, "/events?consumer=toto&types=", host).await;
        assert_eq!(stream.status, if status == 200 { 400 } else { 421 }, "{host}");
    }
    let refused = for_host(&app, "/events?consumer=toto", "evil.example").await;
    assert_eq!(refused.headers["content-type"], "application/problem+json");
    let detail = refused.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("evil.example") && detail.contains("--allowed-hosts"), "{detail}");
    let whole = for_host(&app, "http://evil.example/healthz", "localhost").await;
    assert_eq!(whole.status, 421, "the host in the request target counts as well");
    assert!(app.metric("denied_total{reason=\"host\"}").await > 0);
}

#[tokio::test]
async fn with_credentials_any_host_name_is_accepted() {
    let (_database, app) = behind("127.0.0.1").await;
    assert_eq!(for_host(&app, "/healthz", "events.example").await.status, 200);
    let database = Database::create().await;
    let mut settings = Settings::default();
    settings.access.modes = Modes::TRUSTED_HEADER;
    settings.access.hosts = "events.example".parse().unwrap();
    let app = App::start_with(&database.url(), settings).await;
    assert_eq!(for_host(&app, "/healthz", "events.example").await.status, 200);
    assert_eq!(for_host(&app, "/healthz", "evil.example").await.status, 421);
}

#[tokio::test]
async fn http_2_has_the_host_name_in_the_authority() {
    let database = Database::create().await;
    let app = App::start(&database.url()).await;
    let socket = TokioIo::new(TcpStream::connect(app.address).await.unwrap());
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), socket).await.unwrap();
    tokio::spawn(connection);
    for (host, status) in [("localhost:4000", 200), ("evil.example:4000", 421)] {
        let request = hyper::Request::get(format!("http://{host}/healthz"));
        let request = request.body(Empty::<bytes::Bytes>::new()).unwrap();
        assert_eq!(sender.send_request(request).await.unwrap().status(), status, "{host}");
    }
}

/// Sends a request with this host name.
async fn for_host(app: &App, path: &str, host: &str) -> Answer {
    let mut socket = TcpStream::connect(app.address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    whole(socket).await.unwrap()
}

#[tokio::test]
async fn a_web_page_cannot_write_to_an_open_gateway() {
    let database = Database::create().await;
    let app = App::start(&database.url()).await;
    let write = async |headers: &[(&str, &str)]| {
        let headers = [&[("Content-Length", "0")], headers].concat();
        ask(app.address, "POST", "/tickets", &headers).await.status
    };
    // 409 is the response of the handler: in the open mode tickets are not needed.
    assert_eq!(write(&[]).await, 409);
    assert_eq!(write(&[("Origin", "http://localhost:8000")]).await, 409);
    assert_eq!(write(&[("Origin", "https://evil.example")]).await, 403);
    assert_eq!(write(&[("Sec-Fetch-Site", "cross-site")]).await, 403);
}

//! The settings of docker-compose.yml: everything in README.md works, and nothing is reachable from other
//! machines. The program runs as in Docker.

use std::collections::BTreeMap;

use serde::Deserialize;
use tokio::{io::AsyncWriteExt, net::TcpStream, process::Child};

use super::program;
use crate::support::{
    eventually,
    ports::free_address,
    postgres::Database,
    sse_client::{Stream, ask, post, try_ask, whole},
};

const FILE: &str = include_str!("../../../docker-compose.yml");

#[derive(Deserialize)]
struct Compose {
    services: BTreeMap<String, Service>,
}

#[derive(Deserialize)]
struct Service {
    #[serde(default)]
    environment: BTreeMap<String, String>,
    #[serde(default)]
    ports: Vec<String>,
}

fn compose() -> Compose {
    serde_saphyr::from_str(FILE).unwrap()
}

#[test]
fn compose_publishes_ports_only_to_this_machine() {
    let Compose { services } = compose();
    assert!(services.contains_key("gateway"));
    for (name, service) in services {
        for port in service.ports {
            assert!(port.starts_with("127.0.0.1:"), "{name} publishes {port}");
        }
    }
}

/// The gateway of the file, with a port and a database of the test.
async fn gateway(database: &Database) -> (Child, std::net::SocketAddr) {
    let address = free_address();
    let mut command = program(&["serve"]);
    command.envs(compose().services["gateway"].environment.clone());
    // On every address, as in a container.
    command.env("EVENT_PIPER_LISTEN", format!("0.0.0.0:{}", address.port()));
    command.env("DATABASE_URL", database.url());
    let child = command.spawn().unwrap();
    eventually("the gateway is ready", async || {
        let answer = try_ask(address, "GET", "/readyz", &[]).await.ok()?;
        (answer.status == 200).then_some(())
    })
    .await;
    (child, address)
}

#[tokio::test]
async fn the_compose_file_works_as_in_the_readme() {
    let database = Database::create().await;
    let (_child, address) = gateway(&database).await;
    let toto = [("X-Consumer-Id", "toto")];
    let mut curl = Stream::open(address, "/events", &toto).await.joined().await;
    let page = ask(address, "GET", "/", &[]).await;
    assert_eq!(page.status, 200, "{}", page.body);
    let metrics = ask(address, "GET", "/metrics", &[]).await;
    assert_eq!(metrics.status, 200, "{}", metrics.body);

    // The page that `python3 -m http.server` serves.
    let origin = [("Origin", "http://localhost:8000")];
    let mut browser = Stream::open(address, "/events?consumer=toto", &origin).await.joined().await;

    // With the content type that `curl -d` sends.
    let form = [("Content-Type", "application/x-www-form-urlencoded")];
    let event = r#"{"type": "insert", "subscriber": "toto", "payload": {"foo": "bar"}}"#;
    let written = post(address, "/events", &form, event).await;
    assert_eq!(written.status, 201, "{}", written.body);
    assert_eq!(curl.event().await.data, r#"{"foo":"bar"}"#);
    assert_eq!(browser.event().await.data, r#"{"foo":"bar"}"#);

    // A page of the internet, and a host name that resolves to this machine.
    let evil = [form[0], ("Origin", "https://evil.test")];
    let refused = post(address, "/events", &evil, event).await;
    assert_eq!(refused.status, 403, "{}", refused.body);
    let mut rebound = TcpStream::connect(address).await.unwrap();
    let request = b"GET /events/1 HTTP/1.1\r\nHost: evil.test\r\nConnection: close\r\n\r\n";
    rebound.write_all(request).await.unwrap();
    let rebound = whole(rebound).await.unwrap();
    assert_eq!(rebound.status, 421, "{}", rebound.body);
}

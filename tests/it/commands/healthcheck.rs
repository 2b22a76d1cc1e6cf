//! `event-piper healthcheck`, for gateways on every kind of listening address.

use std::{fs, net::SocketAddr};

use event_piper::http::{
    self, ListenAddress,
    tls::{Files, Tls},
};
use rcgen::{CertificateParams, KeyPair};
use tokio::net::TcpListener;

use super::{ended, program, text};
use crate::support::{
    app::{App, Settings},
    ports::free_address,
    postgres::Database,
    scratch::Scratch,
};

/// The exit code and the output of the command.
async fn asked(listen: &str, more: &[&str]) -> (Option<i32>, String) {
    let output = ended(program(&["healthcheck", "--listen", listen]).args(more)).await;
    (output.status.code(), text(&output.stderr))
}

#[tokio::test]
async fn finds_a_ready_gateway_at_an_address() {
    let database = Database::create().await;
    let app = App::start(&database.url()).await;
    let anywhere = format!("0.0.0.0:{}", app.address.port());
    for listen in [app.address.to_string(), anywhere] {
        let found = asked(&listen, &["--auth", "open-anywhere"]).await;
        assert_eq!(found, (Some(0), String::new()), "{listen}");
    }
}

#[tokio::test]
async fn finds_a_ready_gateway_at_a_unix_socket() {
    let (folder, database) = (Scratch::new(), Database::create().await);
    let path = folder.path().join("gateway.sock");
    let listener = http::listen(&ListenAddress::Unix(path.clone())).unwrap();
    let nowhere: SocketAddr = "127.0.0.1:1".parse().unwrap();
    let app = App::launch_at(listener, nowhere, &database.url(), Settings::default());
    app.ready().await;
    let listen = format!("unix:{}", path.display());
    assert_eq!(asked(&listen, &[]).await, (Some(0), String::new()));
    app.stop().await;
    let (code, said) = asked(&listen, &[]).await;
    assert_eq!(code, Some(1));
    assert!(
        said.contains(&format!("cannot check {listen}")) && said.contains("No such file"),
        "{said}"
    );
}

#[tokio::test]
async fn accepts_a_certificate_for_another_name() {
    let (folder, database) = (Scratch::new(), Database::create().await);
    let [certificate, key] = ["cert.pem", "key.pem"].map(|name| folder.path().join(name));
    let pair = KeyPair::generate().unwrap();
    let params = CertificateParams::new(["events.example.com".to_owned()]).unwrap();
    fs::write(&certificate, params.self_signed(&pair).unwrap().pem()).unwrap();
    fs::write(&key, pair.serialize_pem()).unwrap();
    let flags = ["--tls-cert", certificate.to_str().unwrap(), "--tls-key", key.to_str().unwrap()];
    let mut settings = Settings::default();
    settings.http.tls =
        Some(Tls::load(Files { certificate: certificate.clone(), key: key.clone() }).unwrap());
    let app = App::start_with(&database.url(), settings).await;
    assert_eq!(asked(&app.address.to_string(), &flags).await, (Some(0), String::new()));
}

#[tokio::test]
async fn reports_gateways_that_are_not_ready() {
    let away = App::launch("postgresql://127.0.0.1:1/none", Settings::default()).await;
    let address = away.address.to_string();
    let (code, said) = asked(&address, &[]).await;
    assert_eq!(code, Some(1));
    assert!(said.contains(&format!("{address} is not ready: ")), "{said}");

    let free = free_address().to_string();
    let (code, said) = asked(&free, &[]).await;
    assert_eq!(code, Some(1));
    assert!(said.contains(&format!("cannot check {free}")) && said.contains("refused"), "{said}");

    // A listener that accepts no connections.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let listen = silent.local_addr().unwrap().to_string();
    let (code, said) = asked(&listen, &[]).await;
    assert_eq!(code, Some(1));
    assert!(said.contains("no response in time"), "{said}");
}

//! Unix sockets, and TLS with a changing certificate.

use std::{fs, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use event_piper::{
    access::Modes,
    http::{
        self, ListenAddress,
        tls::{Files, Tls},
    },
};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{CertificateParams, KeyPair};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UnixStream},
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::support::{
    app::{App, Settings},
    eventually,
    postgres::Database,
    scratch::Scratch,
};

const NOWHERE: &str = "127.0.0.1:1";

async fn until(stream: &mut (impl AsyncReadExt + Unpin), wanted: &str) -> String {
    let mut read = Vec::new();
    let reading = async {
        while !String::from_utf8_lossy(&read).contains(wanted) {
            assert!(stream.read_buf(&mut read).await.unwrap() > 0, "it ended before {wanted}");
        }
    };
    timeout(Duration::from_mins(2), reading).await.unwrap_or_else(|_| panic!("no {wanted}"));
    String::from_utf8(read).unwrap()
}

#[tokio::test]
async fn a_proxy_at_a_unix_socket_is_trusted() {
    let (folder, database) = (Scratch::new(), Database::create().await);
    let path = folder.path().join("gateway.sock");
    let listener = http::listen(&ListenAddress::Unix(path.clone())).unwrap();
    let mut settings = Settings::default();
    settings.access.modes = Modes::TRUSTED_HEADER;
    settings.access.trusted_proxies = "10.0.0.1".parse().unwrap();
    let nowhere: SocketAddr = NOWHERE.parse().unwrap();
    let app = App::launch_at(listener, nowhere, &database.url(), settings);
    app.ready().await;
    let mut socket = UnixStream::connect(&path).await.unwrap();
    let request = "GET /events HTTP/1.1\r\nHost: localhost\r\nX-Consumer-Id: toto\r\n\r\n";
    socket.write_all(request.as_bytes()).await.unwrap();
    until(&mut socket, "id: 0").await;
    let row = "insert into events (type, subscriber, payload) values ('t', 'toto', '1')";
    database.connect().await.batch_execute(row).await.unwrap();
    until(&mut socket, "id: 1\nevent: t\ndata: 1\n\n").await;

    let socket = TokioIo::new(UnixStream::connect(&path).await.unwrap());
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), socket).await.unwrap();
    tokio::spawn(connection);
    let request = hyper::Request::get("http://x/healthz").body(Empty::<bytes::Bytes>::new());
    assert_eq!(sender.send_request(request.unwrap()).await.unwrap().status(), 200);
    app.stop().await;
    assert!(!path.exists(), "the file of the socket is removed");
}

/// A certificate for this machine and its key, in files.
struct Certificate {
    files: Files,
    pem: String,
}

impl Certificate {
    fn write(folder: &Scratch) -> Self {
        let [certificate, key]: [PathBuf; 2] =
            ["cert.pem", "key.pem"].map(|name| folder.path().join(name));
        let pair = KeyPair::generate().unwrap();
        let made = CertificateParams::new(["localhost".to_owned()]).unwrap().self_signed(&pair);
        let pem = made.unwrap().pem();
        fs::write(&key, pair.serialize_pem()).unwrap();
        fs::write(&certificate, &pem).unwrap();
        Self { files: Files { certificate, key }, pem }
    }

    /// Connects, and trusts only this certificate.
    async fn connect(&self, address: SocketAddr, protocol: &[u8]) -> Option<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider);
        let config = config.with_safe_default_protocol_versions().unwrap();
        let mut config = config.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![protocol.to_vec()];
        let socket = TcpStream::connect(address).await.unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        connector.connect("localhost".try_into().unwrap(), socket).await.ok()
    }
}

async fn encrypted() -> (Scratch, Database, App, Certificate) {
    encrypted_with(|_| ()).await
}

async fn encrypted_with(turn: impl FnOnce(&mut Settings)) -> (Scratch, Database, App, Certificate) {
    let (folder, database) = (Scratch::new(), Database::create().await);
    let certificate = Certificate::write(&folder);
    let mut settings = Settings::default();
    turn(&mut settings);
    settings.http.tls = Some(Tls::load(certificate.files.clone()).unwrap());
    let app = App::start_with(&database.url(), settings).await;
    (folder, database, app, certificate)
}

#[tokio::test]
async fn tls_works_with_http_1_and_http_2() {
    let (_folder, database, app, certificate) = encrypted().await;
    let mut one = certificate.connect(app.address, b"http/1.1").await.unwrap();
    let request = "GET /events?consumer=toto HTTP/1.1\r\nHost: localhost\r\n\r\n";
    one.write_all(request.as_bytes()).await.unwrap();
    until(&mut one, "id: 0").await;

    let two = certificate.connect(app.address, b"h2").await.unwrap();
    assert_eq!(two.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(two))
            .await
            .unwrap();
    tokio::spawn(connection);
    let request = hyper::Request::get("https://localhost/events?consumer=toto");
    let answer = sender.send_request(request.body(Empty::<bytes::Bytes>::new()).unwrap()).await;
    let mut body = answer.unwrap().into_body();
    body.frame().await.unwrap().unwrap();

    let row = "insert into events (type, subscriber, payload) values ('t', 'toto', '1')";
    database.connect().await.batch_execute(row).await.unwrap();
    until(&mut one, "id: 1\nevent: t\n").await;
    let event = eventually("the event comes", async || {
        let data = body.frame().await?.unwrap().into_data().unwrap();
        Some(data).filter(|data| data.starts_with(b"id: 1\n"))
    });
    event.await;
    let plain = TcpStream::connect(app.address).await.unwrap();
    let mut plain = plain;
    plain.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"), "nothing is sent without encryption");
}

#[tokio::test]
async fn certificates_are_reloaded_if_valid() {
    let (folder, _database, app, old) = encrypted().await;
    let mut open = old.connect(app.address, b"http/1.1").await.unwrap();
    let new = Certificate::write(&folder);
    eventually("the new certificate is shown", async || new.connect(app.address, b"h2").await)
        .await;
    assert!(old.connect(app.address, b"h2").await.is_none());
    open.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    until(&mut open, "alive").await;

    fs::write(&new.files.certificate, "no certificate").unwrap();
    assert!(Tls::load(new.files.clone()).is_err());
    let newest = Certificate::write(&folder);
    fs::write(&newest.files.key, KeyPair::generate().unwrap().serialize_pem()).unwrap();
    let unfit = Tls::load(newest.files.clone()).unwrap_err().to_string();
    assert!(unfit.contains("cert.pem"), "{unfit}");
    let last = Certificate::write(&folder);
    eventually("the last one is shown", async || last.connect(app.address, b"h2").await).await;
}

#[tokio::test]
async fn a_slow_client_is_disconnected_with_tls_too() {
    let (folder, database) = (Scratch::new(), Database::create().await);
    let mut settings = Settings::default();
    settings.http.limits.head_within = Duration::from_millis(200);
    let path = folder.path().join("gateway.sock");
    let listener = http::listen(&ListenAddress::Unix(path.clone())).unwrap();
    let unix = App::launch_at(listener, NOWHERE.parse().unwrap(), &database.url(), settings);
    let mut slow = UnixStream::connect(&path).await.unwrap();
    slow.write_all(b"GET /events HTTP/1.1\r\nHost: x\r\nX-Slow: ").await.unwrap();
    cut_off(&mut slow).await;
    unix.stop().await;

    let (_folder, _database, app, certificate) = encrypted_with(|settings| {
        settings.http.limits.head_within = Duration::from_secs(1);
    })
    .await;
    let mut silent = TcpStream::connect(app.address).await.unwrap();
    cut_off(&mut silent).await;
    let mut slow = certificate.connect(app.address, b"http/1.1").await.unwrap();
    slow.write_all(b"GET /events HTTP/1.1\r\nHost: x\r\nX-Slow: ").await.unwrap();
    cut_off(&mut slow).await;
}

async fn cut_off(slow: &mut (impl AsyncReadExt + Unpin)) {
    let mut answer = Vec::new();
    let ended = timeout(Duration::from_mins(2), slow.read_to_end(&mut answer)).await;
    assert!(ended.is_ok(), "it keeps a connection");
}

//! Connecting by the URL: with which encryption, and to which server.

use std::{fs, path::PathBuf};

use event_piper::store::{error::ErrorChain, server::Server};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

use crate::support::postgres::{Database, TestServer};

/// A certificate authority of our own, as a file for `sslrootcert`.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    file: PathBuf,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        let name = format!("authority {:08x}", fastrand::u32(..));
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let file = std::env::temp_dir().join(format!("ep-root-{:08x}.pem", fastrand::u32(..)));
        fs::write(&file, issuer.pem()).unwrap();
        Self { issuer, file }
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.file);
    }
}

/// A server with a certificate of this authority for this host name.
async fn encrypted(authority: &Authority, host: &str) -> TestServer {
    let server = TestServer::start_own("").await;
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new([host.to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &authority.issuer).unwrap();
    server.write("server.crt", &certificate.pem());
    server.write("server.key", &key.serialize_pem());
    let client = crate::support::postgres::connect(&server.url("postgres")).await;
    client.batch_execute("alter system set ssl = on").await.unwrap();
    server.restart(crate::support::postgres::Stop::Fast).await;
    server
}

/// Whether the connection is encrypted, or why there is none.
async fn attempt(url: &str) -> Result<bool, String> {
    let server = Server::parse(url).map_err(|error| ErrorChain(&error).to_string())?;
    let client = server.client().await.map_err(|error| ErrorChain(&error).to_string())?;
    let encrypted = "select ssl from pg_stat_ssl where pid = pg_backend_pid()";
    Ok(client.query_one(encrypted, &[]).await.unwrap().get(0))
}

fn with(server: &TestServer, host: &str, tls: &str) -> String {
    let url = server.tcp_url("postgres").replace("127.0.0.1", host);
    format!("{url}?{tls}")
}

#[tokio::test]
async fn each_sslmode_verifies_what_libpq_verifies() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let server = encrypted(&ours, "localhost").await;
    let (right, wrong) = (ours.file.display(), theirs.file.display());
    for (host, tls, expected) in [
        ("localhost", "sslmode=disable".to_owned(), Ok(false)),
        ("localhost", String::new(), Ok(true)),
        ("localhost", "sslmode=prefer".to_owned(), Ok(true)),
        ("localhost", "sslmode=require".to_owned(), Ok(true)),
        ("127.0.0.1", "sslmode=require".to_owned(), Ok(true)),
        ("127.0.0.1", format!("sslmode=require&sslrootcert={right}"), Ok(true)),
        ("localhost", format!("sslmode=require&sslrootcert={wrong}"), Err("UnknownIssuer")),
        ("127.0.0.1", format!("sslmode=verify-ca&sslrootcert={right}"), Ok(true)),
        ("localhost", format!("sslmode=verify-ca&sslrootcert={wrong}"), Err("UnknownIssuer")),
        ("localhost", format!("sslmode=verify-full&sslrootcert={right}"), Ok(true)),
        ("localhost", format!("sslmode=verify-full&sslrootcert={wrong}"), Err("UnknownIssuer")),
        (
            "127.0.0.1",
            format!("sslmode=verify-full&sslrootcert={right}"),
            Err("not valid for name"),
        ),
    ] {
        let got = attempt(&with(&server, host, &tls)).await;
        match (&got, &expected) {
            (Ok(got), Ok(expected)) => assert_eq!(got, expected, "{host} {tls}"),
            (Err(got), Err(expected)) => assert!(got.contains(expected), "{host} {tls}: {got}"),
            _ => panic!("{host} {tls}: {got:?}"),
        }
    }
}

#[tokio::test]
async fn rejects_a_server_without_required_encryption() {
    let database = Database::create_empty().await;
    let url = database.tcp_url();
    assert_eq!(attempt(&format!("{url}?sslmode=prefer")).await, Ok(false));
    for mode in ["require", "verify-ca", "verify-full"] {
        let authority = Authority::new();
        let root = authority.file.display();
        let refused =
            attempt(&format!("{url}?sslmode={mode}&sslrootcert={root}")).await.unwrap_err();
        assert!(refused.contains("does not support TLS"), "{refused}");
    }
}

#[tokio::test]
async fn a_unix_socket_needs_no_encryption() {
    let database = Database::create_empty().await;
    assert_eq!(attempt(&format!("{}&sslmode=require", database.url())).await, Ok(false));
}

#[tokio::test]
async fn names_an_invalid_root_certificate() {
    let file = std::env::temp_dir().join(format!("ep-no-root-{:08x}.pem", fastrand::u32(..)));
    fs::write(&file, "no certificate").unwrap();
    let url = format!("host=h sslmode=verify-ca sslrootcert={}", file.display());
    let refused = attempt(&url).await.unwrap_err();
    fs::remove_file(&file).unwrap();
    assert!(refused.contains(file.to_str().unwrap()), "{refused}");
}

#[tokio::test]
async fn connections_have_an_application_name() {
    let database = Database::create_empty().await;
    let server = Server::parse(&database.url()).unwrap();
    for (server, expected) in [(server.clone(), "event-piper"), (server.named("other"), "other")] {
        let client = server.client().await.unwrap();
        let name =
            client.query_one("select current_setting('application_name')", &[]).await.unwrap();
        assert_eq!(name.get::<_, String>(0), expected);
        let pooled = server.pool(1).get().await.unwrap();
        let name =
            pooled.query_one("select current_setting('application_name')", &[]).await.unwrap();
        assert_eq!(name.get::<_, String>(0), expected);
    }
}

#[tokio::test]
async fn errors_show_the_servers_message() {
    let database = Database::create_empty().await;
    let client = database.connect().await;
    let error = client.batch_execute("select 1/0").await.unwrap_err();
    assert_eq!(ErrorChain(&error).to_string(), "db error: ERROR: division by zero");
}

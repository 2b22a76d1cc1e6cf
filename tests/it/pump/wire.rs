//! The requests that an aggregator receives.

use std::{path::PathBuf, sync::Arc};

use event_piper::pump::sign::SigningKey;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};

use super::{
    aggregator::{Aggregator, Fault},
    fed,
    process::{PumpProcess, command},
    write,
};
use crate::support::{eventually, postgres::Database, scratch::Scratch};

#[tokio::test]
async fn requests_have_a_signature_and_the_token() {
    let (database, folder) = (Database::create().await, Scratch::new());
    let text = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let (key, token) = (folder.path().join("key"), folder.path().join("token"));
    std::fs::write(&key, text).unwrap();
    std::fs::write(&token, "s3cret\n").unwrap();
    write(&database, 3).await;
    let aggregator = Aggregator::start().await;
    let flags =
        ["--signing-key-file", key.to_str().unwrap(), "--token-file", token.to_str().unwrap()];
    let pump = PumpProcess::start(&database.url(), &aggregator, &flags);
    pump.until("live").await;
    let signer = SigningKey::parse(text).unwrap();
    let store = aggregator.store();
    assert_eq!(store.headers.len(), 2);
    for (headers, body) in &store.headers {
        assert_eq!(headers["authorization"], "Bearer s3cret");
        assert_eq!(headers["content-type"], "application/json");
        let timestamp = headers["webhook-timestamp"].parse().unwrap();
        let signed = signer.sign(&headers["webhook-id"], timestamp, body);
        assert_eq!(headers["webhook-signature"], signed);
    }
    assert_ne!(store.headers[0].0["webhook-id"], store.headers[1].0["webhook-id"]);
    assert!(!pump.log().contains("s3cret"));
}

/// A certificate authority for both sides, and the files with certificates and keys.
struct Trust {
    folder: Scratch,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Trust {
    fn new() -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let folder = Scratch::new();
        std::fs::write(folder.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { folder, issuer }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Creates a certificate for this name and its key, and returns their files.
    fn certify(&self, name: &str) -> [PathBuf; 2] {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &*self.issuer).unwrap();
        let files = [self.file(&format!("{name}.pem")), self.file(&format!("{name}.key"))];
        std::fs::write(&files[0], certificate.pem()).unwrap();
        std::fs::write(&files[1], key.serialize_pem()).unwrap();
        files
    }

    /// The TLS configuration of an aggregator at 127.0.0.1 that requires client certificates.
    fn acceptor(&self) -> tokio_rustls::TlsAcceptor {
        let provider = Arc::new(ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.file("ca.pem")).unwrap()).unwrap();
        let callers = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone());
        let [certificate, key] = self.certify("127.0.0.1");
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(callers.build().unwrap())
            .with_single_cert(
                vec![CertificateDer::from_pem_file(certificate).unwrap()],
                PrivateKeyDer::from_pem_file(key).unwrap(),
            )
            .unwrap();
        Arc::new(config).into()
    }
}

#[tokio::test]
async fn supports_client_certificates() {
    let (database, trust) = (Database::create().await, Trust::new());
    write(&database, 3).await;
    let aggregator = Aggregator::start_with(Some(trust.acceptor())).await;
    let [certificate, key] = trust.certify("pump");
    let to = aggregator.url().replace("http:", "https:");
    let roots = trust.file("ca.pem");
    let url = database.url();
    let stranger = ["--to", &to, "--name", "a", "--database-url", &url];
    let stranger = [&stranger[..], &["--ca-file", roots.to_str().unwrap()]].concat();
    let (certificate, key) = (certificate.to_str().unwrap(), key.to_str().unwrap());
    let own = ["--name", "b", "--certificate-file", certificate, "--key-file", key];
    let known: Vec<_> =
        stranger.iter().copied().filter(|it| !["--name", "a"].contains(it)).collect();
    let refused = PumpProcess::launch(&stranger);
    refused.eventually("it is refused", async || aggregator.store().strangers > 0).await;
    let let_in = PumpProcess::launch(&[&known[..], &own].concat());
    let_in.until("live").await;
    assert_eq!(aggregator.ids(), [1, 2, 3]);
    refused.until("backing-off").await;
}

#[tokio::test]
async fn a_repeated_request_has_the_same_id() {
    let database = Database::create().await;
    let aggregator = Aggregator::start().await;
    let key = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let pump = PumpProcess::start(&database.url(), &aggregator, &["--signing-key", key]);
    pump.until("live").await;
    aggregator.store().faults.push_back(Fault::Answer(503));
    write(&database, 1).await;
    fed(&database, &aggregator, &pump).await;
    let store = aggregator.store();
    let ids: Vec<_> = store.headers.iter().map(|(headers, _)| &headers["webhook-id"]).collect();
    assert_eq!(ids[1..], ["1", "1"]);
}

#[tokio::test]
async fn supports_the_fields_of_the_predecessor() {
    let database = Database::create().await;
    let client = database.connect().await;
    client
        .batch_execute(
            r#"insert into events (type, subscriber, payload, uid, metadata) values (
                'update', 'toto',
                '{"entity": "order", "entityId": "o-1", "data": {"total": 12345678901234567890},
                  "oldValues": {"a": 1}, "newValues": {"a": 2}, "columns": ["a"]}',
                'e5a2c0de-0000-4000-8000-000000000001', '{"principalId": "mia"}')"#,
        )
        .await
        .unwrap();
    let aggregator = Aggregator::start().await;
    aggregator.store().key = "cursor".into();
    let mut pump = PumpProcess::start(&database.url(), &aggregator, &["--fields", "predecessor"]);
    pump.until("live").await;
    {
        let store = aggregator.store();
        let event = &store.applied[&1];
        assert_eq!(event["id"], "e5a2c0de-0000-4000-8000-000000000001");
        assert_eq!((&event["entity"], &event["entityId"]), (&"order".into(), &"o-1".into()));
        assert_eq!(event["principalId"], "mia");
        assert_eq!(event["newValues"]["a"], 2);
        assert_eq!(event["columns"][0], "a");
        assert!(event["date"].is_string() && event["type"] == "update", "{event}");
        let body = String::from_utf8_lossy(&store.headers[0].1);
        assert!(body.contains("12345678901234567890"), "{body}");
    }
    // The latest event is recognized by its cursor.
    pump.kill().await;
    client.batch_execute("delete from event_piper_pumps").await.unwrap();
    pump.run();
    pump.until("live").await;
    assert_eq!(aggregator.store().repeats, 0);
}

#[tokio::test]
async fn delivers_only_matching_events() {
    let database = Database::create().await;
    let client = database.connect().await;
    let written = "insert into events (type, subscriber, payload, stream, version) values
        ('a', 'toto', '1', null, null), ('b', 'toto', '2', null, null),
        ('a', 'other', '3', 'order-1', 1), ('a', 'toto', '4', 'order-2', 1),
        ('a', 'toto', '5', 'person-1', 1)";
    client.batch_execute(written).await.unwrap();
    for (flags, expected) in [
        (&["--only-types", "b,c"][..], &[2][..]),
        (&["--only-subscribers", "other", "--only-types", "a"], &[3]),
        (&["--only-streams", "order-,item-"], &[3, 4]),
    ] {
        let aggregator = Aggregator::start().await;
        let named = [&["--name", flags[1]], flags].concat();
        let pump = PumpProcess::start(&database.url(), &aggregator, &named);
        pump.until("live").await;
        assert_eq!(aggregator.ids(), expected, "{flags:?}");
    }
}

#[tokio::test]
async fn pending_events_may_be_delivered_in_batches() {
    let database = Database::create().await;
    let aggregator = Aggregator::start().await;
    let flags = ["--catch-up", "batches", "--on-refusal", "set-aside"];
    let mut pump = PumpProcess::start(&database.url(), &aggregator, &flags);
    pump.until("live").await;
    pump.kill().await;
    write(&database, 50).await;
    pump.run();
    fed(&database, &aggregator, &pump).await;
    assert_eq!(aggregator.store().batches, [0, 50]);
    pump.kill().await;
    write(&database, 50).await;
    aggregator.store().refused.insert(77);
    pump.run();
    let complete = async || aggregator.ids().len() == 99;
    pump.eventually("all but the refused one have come", complete).await;
    let store = aggregator.store();
    assert_eq!((store.booted, &store.wrong, store.applied.contains_key(&77)), (1, &vec![], false));
}

#[tokio::test]
async fn batches_respect_both_limits() {
    let batches = async |flags: &[&str]| {
        let database = Database::create().await;
        write(&database, 25).await;
        let aggregator = Aggregator::start().await;
        let pump = PumpProcess::start(&database.url(), &aggregator, flags);
        pump.until("live").await;
        fed(&database, &aggregator, &pump).await;
        let store = aggregator.store();
        let bytes: Vec<_> = store.headers.iter().map(|(_, body)| body.len()).collect();
        (store.batches.clone(), bytes)
    };
    assert_eq!(batches(&["--batch-events", "10"]).await.0, [10, 10, 5, 0]);
    let (counts, bytes) = batches(&["--batch-bytes", "1000B"]).await;
    assert!(counts.len() > 3 && counts[0] > 1, "{counts:?}");
    assert!(bytes.iter().all(|bytes| *bytes <= 1000), "{bytes:?}");
    let alone = batches(&["--batch-bytes", "1B"]).await.0;
    assert_eq!(alone, [vec![1; 25], vec![0]].concat(), "one event may be larger");
}

#[tokio::test]
async fn supports_aggregators_that_close_every_connection() {
    let database = Database::create().await;
    write(&database, 30).await;
    let aggregator = Aggregator::start().await;
    aggregator.store().closes = true;
    let pump = PumpProcess::start(&database.url(), &aggregator, &["--batch-events", "10"]);
    pump.until("live").await;
    write(&database, 20).await;
    fed(&database, &aggregator, &pump).await;
    let store = aggregator.store();
    assert!(store.asked <= 3, "asked {} times", store.asked);
    assert_eq!(store.repeats, 0);
}

#[tokio::test]
async fn all_errors_in_settings_are_reported_together() {
    let flags =
        ["--to", "ftp://host", "--batch-events", "0", "--fields", "type=type", "--start", "x"];
    let output = command(&flags, "postgres://nowhere.invalid/d").await;
    assert_eq!(output.status.code(), Some(2));
    let says = String::from_utf8_lossy(&output.stderr).into_owned();
    for expected in ["--to: ", "--batch-events: ", "--fields: ", "--start: "] {
        assert!(says.contains(expected), "{expected} in {says}");
    }
    let output = command(&["--token", "hunter 2", "--to", "http://h"], "postgres://x.invalid/d");
    let says = String::from_utf8_lossy(&output.await.stderr).into_owned();
    assert!(says.contains("--token: ") && !says.contains("hunter"), "{says}");
}

#[tokio::test]
async fn the_role_of_the_pump_is_sufficient() {
    let database = Database::create().await;
    crate::roles::create(&database).await;
    let login = format!("pump_{}", database.name());
    let create = format!("create role {login} login; grant event_piper_pump to {login}");
    database.connect().await.batch_execute(&create).await.unwrap();
    let url = database.url().replace("user=postgres", &format!("user={login}"));
    write(&database, 10).await;
    let aggregator = Aggregator::start().await;
    aggregator.store().refused.insert(4);
    let flags = ["--on-refusal", "set-aside"];
    let pump = PumpProcess::start(&url, &aggregator, &flags);
    pump.until("live").await;
    assert_eq!(aggregator.ids(), [1, 2, 3, 5, 6, 7, 8, 9, 10]);
    aggregator.store().refused.clear();
    super::process::said(&["retry", "toto"], &url).await;
    let complete = async || (aggregator.ids().len() == 10).then_some(());
    eventually("the event that was set aside has come", complete).await;
}

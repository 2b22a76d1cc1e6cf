//! An issuer of tokens with keys of every kind, and with a JWKS address that can fail.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::{Json, Router, extract::State, http::StatusCode, routing::get};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use event_piper::access::{self, Modes, jwks::Source, token};
use jsonwebtoken::Algorithm;
use ring::{
    hmac,
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair,
        Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaKeyPair,
        RsaPublicKeyComponents,
    },
};
use rustls::pki_types::{PrivatePkcs8KeyDer, pem::PemObject};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::AbortHandle};

use crate::support::{
    app::{App, Settings},
    postgres::Database,
    sse_client::{Answer, Stream},
};

pub(crate) const NAME: &str = "https://issuer.example/";
pub(crate) const AUDIENCE: &str = "events";

/// A key for these tests only.
const RSA: &str = include_str!("rsa.pem");

/// Signs tokens.
pub(crate) struct Signer {
    pub(crate) id: String,
    algorithm: &'static str,
    key: Key,
}

enum Key {
    Rsa(RsaKeyPair),
    Curve(EcdsaKeyPair),
    Edwards(Ed25519KeyPair),
    Secret(hmac::Key),
    None,
}

impl Signer {
    /// A signer with a new key. All RSA signers share one key.
    pub(crate) fn new(id: &str, algorithm: &'static str) -> Self {
        let random = SystemRandom::new();
        let curve = |kind| {
            let key = EcdsaKeyPair::generate_pkcs8(kind, &random).unwrap();
            Key::Curve(EcdsaKeyPair::from_pkcs8(kind, key.as_ref(), &random).unwrap())
        };
        let key = match algorithm {
            "ES256" => curve(&ECDSA_P256_SHA256_FIXED_SIGNING),
            "ES384" => curve(&ECDSA_P384_SHA384_FIXED_SIGNING),
            "EdDSA" => {
                let key = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
                Key::Edwards(Ed25519KeyPair::from_pkcs8(key.as_ref()).unwrap())
            }
            "none" => Key::None,
            _ => {
                let key = PrivatePkcs8KeyDer::from_pem_slice(RSA.as_bytes()).unwrap();
                Key::Rsa(RsaKeyPair::from_pkcs8(key.secret_pkcs8_der()).unwrap())
            }
        };
        Self { id: id.to_owned(), algorithm, key }
    }

    /// A signer with these bytes as its HMAC secret.
    pub(crate) fn secret(secret: &[u8]) -> Self {
        let key = Key::Secret(hmac::Key::new(hmac::HMAC_SHA256, secret));
        Self { id: String::new(), algorithm: "HS256", key }
    }

    /// A token with these claims.
    pub(crate) fn token(&self, claims: &Value) -> String {
        let mut header = json!({"typ": "JWT", "alg": self.algorithm});
        if !self.id.is_empty() {
            header["kid"] = self.id.as_str().into();
        }
        self.token_with(&header, claims)
    }

    pub(crate) fn token_with(&self, header: &Value, claims: &Value) -> String {
        let [header, claims] =
            [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
        let message = format!("{header}.{claims}");
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(self.sign(message.as_bytes())))
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.key {
            Key::Rsa(key) => {
                let mut signature = vec![0; key.public().modulus_len()];
                let how = if self.algorithm.starts_with("PS") {
                    key.sign(&RSA_PSS_SHA256, &random, message, &mut signature)
                } else {
                    key.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature)
                };
                how.map(|()| signature).unwrap()
            }
            Key::Curve(key) => key.sign(&random, message).unwrap().as_ref().to_vec(),
            Key::Edwards(key) => key.sign(message).as_ref().to_vec(),
            Key::Secret(key) => hmac::sign(key, message).as_ref().to_vec(),
            Key::None => Vec::new(),
        }
    }

    /// The public key, as it is published.
    pub(crate) fn jwk(&self) -> Value {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let mut jwk = match &self.key {
            Key::Rsa(key) => {
                let key = RsaPublicKeyComponents::<Vec<u8>>::from(key.public());
                json!({"kty": "RSA", "n": text(&key.n), "e": text(&key.e)})
            }
            Key::Curve(key) => {
                let point = &key.public_key().as_ref()[1..];
                let (x, y) = point.split_at(point.len() / 2);
                let curve = if x.len() == 32 { "P-256" } else { "P-384" };
                json!({"kty": "EC", "crv": curve, "x": text(x), "y": text(y)})
            }
            Key::Edwards(key) => {
                json!({"kty": "OKP", "crv": "Ed25519", "x": text(key.public_key().as_ref())})
            }
            Key::Secret(_) | Key::None => json!({}),
        };
        jwk["use"] = "sig".into();
        jwk["kid"] = self.id.as_str().into();
        jwk
    }

    /// The public key as the bytes of a PEM file, to be misused as an HMAC secret.
    pub(crate) fn public_bytes(&self) -> Vec<u8> {
        match &self.key {
            Key::Rsa(key) => key.public().as_ref().to_vec(),
            _ => self.jwk().to_string().into_bytes(),
        }
    }
}

/// Valid claims for this consumer.
pub(crate) fn claims(consumer: &str) -> Value {
    json!({"iss": NAME, "aud": AUDIENCE, "sub": consumer, "exp": seconds() + 3600})
}

/// The same, with added or replaced claims. A claim of `null` is removed.
pub(crate) fn claims_with(consumer: &str, more: &Value) -> Value {
    let mut claims = claims(consumer);
    let all = claims.as_object_mut().unwrap();
    for (name, value) in more.as_object().unwrap() {
        if value.is_null() {
            all.remove(name);
        } else {
            all.insert(name.clone(), value.clone());
        }
    }
    claims
}

pub(crate) fn seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

pub(crate) fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

/// Settings that trust the issuer with these keys.
pub(crate) fn believing(keys: Source, algorithms: &[Algorithm]) -> Settings {
    let issuer = token::Issuer {
        name: NAME.into(),
        audience: vec![AUDIENCE.into()],
        algorithms: algorithms.to_vec(),
        keys,
        consumer_claim: "sub".into(),
        rights_claim: "event_piper".into(),
        leeway: Duration::ZERO,
    };
    let modes = Modes { jwt: true, ..Modes::OPEN };
    let access = access::Settings { modes, issuers: vec![issuer], ..access::Settings::default() };
    Settings { access, ..Settings::default() }
}

pub(crate) const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// A gateway that accepts tokens signed with [`SECRET`], with changed settings.
pub(crate) async fn app_with(turn: impl FnOnce(&mut Settings)) -> (Database, App, Signer) {
    let database = Database::create().await;
    let mut settings = believing(Source::Secret(SECRET.into()), &[Algorithm::HS256]);
    turn(&mut settings);
    let app = App::start_with(&database.url(), settings).await;
    (database, app, Signer::secret(SECRET.as_bytes()))
}

/// The web server of an issuer.
pub(crate) struct Issuer {
    address: SocketAddr,
    published: Arc<Published>,
    serving: Option<AbortHandle>,
}

#[derive(Default)]
struct Published {
    keys: Mutex<Option<Value>>,
    asked: AtomicUsize,
}

impl Issuer {
    /// Starts to publish the keys of these signers.
    pub(crate) async fn start(signers: &[&Signer]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut issuer = Self { address, published: Arc::default(), serving: None };
        issuer.publish(signers);
        issuer.serve(listener);
        issuer
    }

    pub(crate) fn source(&self) -> Source {
        Source::Url(format!("http://{}/jwks", self.address).parse().unwrap())
    }

    pub(crate) fn publish(&self, signers: &[&Signer]) {
        let keys: Vec<_> = signers.iter().map(|signer| signer.jwk()).collect();
        *self.published.keys.lock().unwrap() = Some(json!({ "keys": keys }));
    }

    /// Makes the server respond with an error.
    pub(crate) fn fail(&self) {
        *self.published.keys.lock().unwrap() = None;
    }

    /// Stops the server.
    pub(crate) fn stop(&mut self) {
        self.serving.take().unwrap().abort();
    }

    pub(crate) fn asked(&self) -> usize {
        self.published.asked.load(Ordering::SeqCst)
    }

    fn serve(&mut self, listener: TcpListener) {
        let routes = Router::new().route("/jwks", get(jwks)).with_state(self.published.clone());
        let serving = tokio::spawn(async move { axum::serve(listener, routes).await });
        self.serving = Some(serving.abort_handle());
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        self.serving.take().inspect(AbortHandle::abort);
    }
}

async fn jwks(State(published): State<Arc<Published>>) -> Result<Json<Value>, StatusCode> {
    published.asked.fetch_add(1, Ordering::SeqCst);
    let keys = published.keys.lock().unwrap().clone();
    keys.map(Json).ok_or(StatusCode::SERVICE_UNAVAILABLE)
}

/// Sends a GET request with a token.
pub(super) async fn with(app: &App, path: &str, token: &str) -> Answer {
    app.get(path, &[("Authorization", &bearer(token))]).await
}

/// Opens a stream with a token.
pub(super) async fn follow(app: &App, path: &str, token: &str) -> Stream {
    Stream::open(app.address, path, &[("Authorization", &bearer(token))]).await.joined().await
}

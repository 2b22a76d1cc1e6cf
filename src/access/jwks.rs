//! The keys that an issuer signs with: from a file, a setting, or its JWKS address.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use jsonwebtoken::{
    Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse},
};
use reqwest::{Client, Url, redirect};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::kept::{Floor, Kept, NotFetched};
use crate::{backoff::Policy, web};

/// Where an issuer's keys are.
#[derive(Clone, Debug)]
pub enum Source {
    /// At this address, as a JSON Web Key Set (RFC 7517).
    Url(Url),
    /// In this file: a public key as PEM, or a JSON Web Key or a set of them.
    File(PathBuf),
    /// A secret that the issuer shares with us.
    Secret(SecretString),
}

/// Fetches that a token's unknown `kid` causes. Anybody can make such a token, so fetches that
/// bring nothing new become rare; a token whose key was not looked for since it was shown is no bad
/// one, and its bearer is asked to come back.
const FLOOR: Floor = Floor {
    intervals: Policy::new(Duration::from_secs(1), Duration::from_secs(10)),
    patience: Duration::from_secs(2),
};
/// An issuer that is slower than this is down.
const WITHIN: Duration = Duration::from_secs(5);
/// A set of keys is a few kilobytes.
const LARGEST: usize = 256 << 10;
/// An issuer has two or three at a time.
const MOST: usize = 64;

/// Why keys cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The issuer cannot be reached.
    #[error("asking {url} for its keys")]
    Fetch {
        /// Its JWKS address.
        url: Url,
        /// What happened.
        source: reqwest::Error,
    },
    /// The issuer answers something else.
    #[error("asking {url} for its keys: {what}")]
    Answer {
        /// Its JWKS address.
        url: Url,
        /// What is wrong about it.
        what: String,
    },
    /// The file cannot be read.
    #[error("reading the keys in {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What happened.
        source: std::io::Error,
    },
    /// There is no key in it that can be used.
    #[error("there is no public key to check signatures with in {place}")]
    None {
        /// Where they were looked for.
        place: String,
    },
    /// The issuer was asked a moment ago, and is not asked again yet.
    #[error("the issuer was asked for its keys a moment ago")]
    TooSoon,
}

impl From<NotFetched<KeysError>> for KeysError {
    fn from(not: NotFetched<Self>) -> Self {
        match not {
            NotFetched::Failed(error) => error,
            NotFetched::TooSoon(_) => Self::TooSoon,
        }
    }
}

/// Whether there is a key in this file that can be used.
pub fn check_file(path: &Path) -> Result<(), KeysError> {
    let failed = |source| KeysError::Read { path: path.to_owned(), source };
    let text = std::fs::read(path).map_err(failed)?;
    if KeySet::parse(&text).keys.is_empty() {
        return Err(KeysError::None { place: path.display().to_string() });
    }
    Ok(())
}

/// The keys of one issuer.
#[derive(Debug)]
pub(super) struct Keys {
    source: Source,
    client: Client,
    kept: Kept<KeySet>,
}

/// What one fetch brought. Two are the same when their texts are.
#[derive(Debug)]
pub(super) struct KeySet {
    keys: Vec<Key>,
    text: [u8; 32],
}

impl PartialEq for KeySet {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

/// A key, and what it may be used for: never more than one family of algorithms.
#[derive(Clone, Debug)]
pub(super) struct Key {
    id: Option<String>,
    pub(super) public: DecodingKey,
    /// None of a secret, of which nothing is shown to anybody.
    pub(super) print: Option<Fingerprint>,
    algorithms: Vec<Algorithm>,
}

/// Tells a key from every other by what it is, whatever it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint([u8; 12]);

impl Fingerprint {
    fn of(key: &DecodingKey) -> Self {
        let hash = match key.kind() {
            DecodingKeyKind::SecretOrDer(der) => Sha256::digest(der),
            DecodingKeyKind::RsaModulusExponent { n, e } => Sha256::digest([&n[..], e].concat()),
        };
        Self(std::array::from_fn(|at| hash[at]))
    }
}

/// A public key of an issuer's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssuerKey {
    /// Whose it is.
    pub issuer: Box<str>,
    /// Which one.
    pub print: Fingerprint,
}

impl Keys {
    pub(super) fn new(source: Source) -> Self {
        let client = web::client().timeout(WITHIN).redirect(redirect::Policy::none());
        let client = client.build().expect("these settings make a client");
        Self { source, client, kept: Kept::new(FLOOR) }
    }

    /// Fetches them, as is done from time to time: a key that the issuer has withdrawn is
    /// forgotten.
    pub(super) async fn renew(&self) -> Result<(), KeysError> {
        self.kept.renew(self.fetch()).await
    }

    /// Whether any were ever had.
    pub(super) fn are_known(&self) -> bool {
        self.kept.get().is_some()
    }

    /// The key of this name for this algorithm, asking the issuer again when there is none.
    pub(super) async fn find(
        &self,
        id: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<Option<Key>, KeysError> {
        let known = self.kept.get();
        let found = known.as_ref().and_then(|keys| keys.find(id, algorithm));
        if found.is_some() || matches!(self.source, Source::Secret(_)) && known.is_some() {
            return Ok(found);
        }
        let more = self.kept.beyond(known.as_ref(), self.fetch()).await?;
        Ok(more.and_then(|keys| keys.find(id, algorithm)))
    }

    /// Another key in the place of this one, with which a signature was wrong: the issuer may
    /// have put it there since, under the same name or under none.
    pub(super) async fn instead(
        &self,
        tried: &Key,
        id: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<Option<Key>, KeysError> {
        if tried.print.is_none() {
            return Ok(None);
        }
        let known = self.kept.get();
        let more = self.kept.beyond(known.as_ref(), self.fetch()).await?;
        let found = more.and_then(|keys| keys.find(id, algorithm));
        Ok(found.filter(|found| found.print != tried.print))
    }

    /// Whether this key is published, asking the issuer again when it is not known to be. As long
    /// as no key at all is known, nothing speaks against it.
    pub(super) async fn has(&self, print: Fingerprint) -> Result<bool, KeysError> {
        let known = self.kept.get();
        if known.as_ref().is_some_and(|keys| keys.has(print)) {
            return Ok(true);
        }
        let more = self.kept.beyond(known.as_ref(), self.fetch()).await?;
        Ok(more.is_none_or(|keys| keys.has(print)))
    }

    /// Whether this key is not known to be withdrawn.
    pub(super) fn had(&self, print: Fingerprint) -> bool {
        self.kept.get().is_none_or(|keys| keys.has(print))
    }

    /// Waits until this key is published no more.
    pub(super) fn withdrawn(&self, print: Fingerprint) -> impl Future<Output = ()> + Send + use<> {
        self.kept.until(move |keys| !keys.has(print))
    }

    async fn fetch(&self) -> Result<KeySet, KeysError> {
        let (text, place) = match &self.source {
            Source::Secret(secret) => return Ok(KeySet::of_secret(secret)),
            Source::Url(url) => (self.download(url).await?, url.to_string()),
            Source::File(path) => {
                let text = tokio::fs::read(path).await;
                let failed = |source| KeysError::Read { path: path.clone(), source };
                (text.map_err(failed)?, path.display().to_string())
            }
        };
        let keys = KeySet::parse(&text);
        if keys.keys.is_empty() { Err(KeysError::None { place }) } else { Ok(keys) }
    }

    async fn download(&self, url: &Url) -> Result<Vec<u8>, KeysError> {
        let failed = |source: reqwest::Error| KeysError::Fetch {
            url: url.clone(),
            source: source.without_url(),
        };
        let wrong = |what: String| KeysError::Answer { url: url.clone(), what };
        let mut answer = self.client.get(url.clone()).send().await.map_err(failed)?;
        if answer.status() != reqwest::StatusCode::OK {
            return Err(wrong(format!("it answers {}", answer.status())));
        }
        let mut text = Vec::new();
        while let Some(part) = answer.chunk().await.map_err(failed)? {
            text.extend_from_slice(&part);
            if text.len() > LARGEST {
                return Err(wrong(format!("the answer is longer than {LARGEST} bytes")));
            }
        }
        Ok(text)
    }
}

impl KeySet {
    fn of_secret(secret: &SecretString) -> Self {
        let key = DecodingKey::from_secret(secret.expose_secret().as_bytes());
        let algorithms = AlgorithmFamily::Hmac.algorithms().to_vec();
        let key = Key { id: None, public: key, print: None, algorithms };
        Self { keys: vec![key], text: [0; 32] }
    }

    /// Those that can be used, of what may hold others too.
    fn parse(text: &[u8]) -> Self {
        let keys = match serde_json::from_slice::<Value>(text) {
            Ok(mut json) => match json.get_mut("keys").map(Value::take) {
                Some(Value::Array(keys)) => keys.into_iter().take(MOST).filter_map(jwk).collect(),
                Some(_) => Vec::new(),
                None => jwk(json).into_iter().collect(),
            },
            Err(_) => pem(text).into_iter().collect(),
        };
        Self { keys, text: Sha256::digest(text).into() }
    }

    fn has(&self, print: Fingerprint) -> bool {
        self.keys.iter().any(|key| key.print == Some(print))
    }

    /// A key without a name is for tokens with a name that no other has; a token without one
    /// needs the only key there is for its algorithm.
    fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Option<Key> {
        let mut fitting = self.keys.iter().filter(|key| key.algorithms.contains(&algorithm));
        match id {
            Some(_) => {
                let named = fitting.clone().find(|key| key.id.as_deref() == id);
                named.or_else(|| fitting.find(|key| key.id.is_none())).cloned()
            }
            None => fitting.next().filter(|_| fitting.next().is_none()).cloned(),
        }
    }
}

/// A key to check signatures with. A secret has no place in a published set.
fn jwk(json: Value) -> Option<Key> {
    let jwk: Jwk = serde_json::from_value(json).ok()?;
    if !matches!(jwk.common.public_key_use, None | Some(PublicKeyUse::Signature)) {
        return None;
    }
    let mut algorithms = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => AlgorithmFamily::Rsa.algorithms().to_vec(),
        AlgorithmParameters::EllipticCurve(it) if it.curve == EllipticCurve::P256 => {
            vec![Algorithm::ES256]
        }
        AlgorithmParameters::EllipticCurve(it) if it.curve == EllipticCurve::P384 => {
            vec![Algorithm::ES384]
        }
        AlgorithmParameters::OctetKeyPair(it) if it.curve == EllipticCurve::Ed25519 => {
            vec![Algorithm::EdDSA]
        }
        _ => return None,
    };
    if let Some(only) = jwk.common.key_algorithm {
        algorithms.retain(|algorithm| is(only, *algorithm));
    }
    let key = DecodingKey::from_jwk(&jwk).ok()?;
    let print = Some(Fingerprint::of(&key));
    let key = Key { id: jwk.common.key_id, public: key, print, algorithms };
    (!key.algorithms.is_empty()).then_some(key)
}

fn is(only: KeyAlgorithm, algorithm: Algorithm) -> bool {
    only.to_string() == format!("{algorithm:?}")
}

fn pem(text: &[u8]) -> Option<Key> {
    let rsa = || {
        let key = DecodingKey::from_rsa_pem(text).ok()?;
        Some((key, AlgorithmFamily::Rsa.algorithms().to_vec()))
    };
    let curve = || {
        let key = DecodingKey::from_ec_pem(text).ok()?;
        // An uncompressed point: its length tells the curve.
        let algorithm = match key.try_get_as_bytes().ok()?.len() {
            65 => Algorithm::ES256,
            97 => Algorithm::ES384,
            _ => return None,
        };
        Some((key, vec![algorithm]))
    };
    let edwards = || Some((DecodingKey::from_ed_pem(text).ok()?, vec![Algorithm::EdDSA]));
    let (key, algorithms) = rsa().or_else(curve).or_else(edwards)?;
    Some(Key { id: None, print: Some(Fingerprint::of(&key)), public: key, algorithms })
}

#[cfg(test)]
mod tests {
    use axum::{Router, http::StatusCode, response::Redirect, routing::get};
    use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519};
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn a_pem_file_is_for_the_algorithms_of_its_key_only() {
        for (kind, algorithm) in [
            (&PKCS_ECDSA_P256_SHA256, Algorithm::ES256),
            (&PKCS_ECDSA_P384_SHA384, Algorithm::ES384),
            (&PKCS_ED25519, Algorithm::EdDSA),
        ] {
            let pair = KeyPair::generate_for(kind).unwrap();
            let keys = KeySet::parse(pair.public_key_pem().as_bytes());
            assert!(keys.find(Some("any"), algorithm).is_some(), "{algorithm:?}");
            for other in [Algorithm::HS256, Algorithm::RS256] {
                assert!(keys.find(None, other).is_none(), "{algorithm:?} as {other:?}");
            }
        }
    }

    #[test]
    fn of_a_set_only_public_keys_for_signatures_count() {
        let json = r#"{"keys": [
            {"kty": "RSA", "kid": "enc", "use": "enc", "alg": "RSA-OAEP", "n": "AQAB", "e": "AQAB"},
            {"kty": "RSA", "kid": "sealed", "use": "enc", "n": "AQAB", "e": "AQAB"},
            {"kty": "RSA", "kid": "sealer", "use": "enc", "alg": "RS256", "n": "AQAB", "e": "AQAB"},
            {"kty": "oct", "kid": "secret", "k": "c2VjcmV0"},
            {"kty": "XYZ", "kid": "new"},
            {"kty": "EC", "kid": "odd", "crv": "P-521", "x": "AQAB", "y": "AQAB"},
            {"kty": "RSA", "kid": "a", "alg": "RS256", "n": "AQAB", "e": "AQAB"},
            {"kty": "RSA", "kid": "b", "use": "sig", "n": "AQAB", "e": "AQAB"}
        ]}"#;
        let keys = KeySet::parse(json.as_bytes());
        assert_eq!(keys.keys.len(), 2);
        assert!(keys.find(Some("a"), Algorithm::RS256).is_some());
        assert!(keys.find(Some("a"), Algorithm::PS256).is_none(), "the key says which");
        assert!(keys.find(Some("b"), Algorithm::PS256).is_some());
        assert!(keys.find(Some("secret"), Algorithm::HS256).is_none());
        assert!(keys.find(Some("c"), Algorithm::RS256).is_none());
        assert!(keys.find(None, Algorithm::RS256).is_none(), "two would do: which?");
        assert!(keys.find(None, Algorithm::PS256).is_some());
    }

    const SET: &str = r#"{"keys": [{"kty": "RSA", "kid": "a", "n": "AQAB", "e": "AQAB"}]}"#;

    #[test]
    fn an_issuer_has_so_many_keys_and_no_more() {
        let key = r#"{"kty": "RSA", "n": "AQAB", "e": "AQAB"}"#;
        let keys = KeySet::parse(format!("[{}]", [key; MOST + 1].join(",")).as_bytes());
        assert!(keys.keys.is_empty(), "an array alone is no set");
        let set = format!(r#"{{"keys": [{}]}}"#, [key; MOST + 1].join(","));
        assert_eq!(KeySet::parse(set.as_bytes()).keys.len(), MOST);
    }

    #[tokio::test]
    async fn only_a_whole_set_of_keys_from_the_address_itself_takes_the_place_of_what_is_known() {
        let long = |more| SET.to_owned() + &" ".repeat(LARGEST - SET.len() + more);
        let router = Router::new()
            .route("/keys", get(async || SET))
            .route("/longest", get(async move || long(0)))
            .route("/too-long", get(async move || long(1)))
            .route("/moved", get(async || Redirect::temporary("/keys")))
            .route("/made", get(async || (StatusCode::CREATED, SET)))
            .route("/emptied", get(async || r#"{"keys": []}"#));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(axum::serve(listener, router).into_future());
        for (path, counts) in [
            ("keys", true),
            ("longest", true),
            ("too-long", false),
            ("moved", false),
            ("made", false),
            ("emptied", false),
            ("nowhere", false),
        ] {
            let keys = Keys::new(Source::Url(format!("http://{address}/{path}").parse().unwrap()));
            assert_eq!(keys.renew().await.is_ok(), counts, "{path}");
            assert_eq!(keys.are_known(), counts, "{path}");
        }
        serving.abort();
    }

    #[test]
    fn what_is_no_key_is_none() {
        for text in ["", "{}", "[]", r#"{"keys": 1}"#, "-----BEGIN PUBLIC KEY-----", "secret"] {
            assert!(KeySet::parse(text.as_bytes()).keys.is_empty(), "{text}");
        }
    }
}

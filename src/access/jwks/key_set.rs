//! A set of keys, as it was fetched, and the algorithms that each key may be used for.

use jsonwebtoken::{
    Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse},
};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// The number of keys of a set that are read. An issuer has two or three at a time.
const MAX_KEYS: usize = 64;

/// The keys of one fetch. Two sets are equal if their texts are.
#[derive(Debug)]
pub(in crate::access) struct KeySet {
    keys: Vec<Key>,
    text: [u8; 32],
}

impl PartialEq for KeySet {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

/// A key, and the algorithms that it may be used for, which are always of one family.
#[derive(Clone, Debug)]
pub(in crate::access) struct Key {
    id: Option<String>,
    pub(in crate::access) public: DecodingKey,
    /// `None` for a shared secret, of which nothing may be shown.
    pub(in crate::access) print: Option<Fingerprint>,
    algorithms: Vec<Algorithm>,
}

/// Identifies a public key by its content: part of a hash. The `kid` plays no part.
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

impl KeySet {
    pub(super) fn of_secret(secret: &SecretString) -> Self {
        let key = DecodingKey::from_secret(secret.expose_secret().as_bytes());
        let algorithms = AlgorithmFamily::Hmac.algorithms().to_vec();
        let key = Key { id: None, public: key, print: None, algorithms };
        Self { keys: vec![key], text: [0; 32] }
    }

    /// Reads the usable keys from a JWKS, a JWK or a PEM file. Others are ignored.
    pub(super) fn parse(text: &[u8]) -> Self {
        let keys = match serde_json::from_slice::<Value>(text) {
            Ok(mut json) => match json.get_mut("keys").map(Value::take) {
                Some(Value::Array(keys)) => {
                    keys.into_iter().take(MAX_KEYS).filter_map(jwk).collect()
                }
                Some(_) => Vec::new(),
                None => jwk(json).into_iter().collect(),
            },
            Err(_) => pem(text).into_iter().collect(),
        };
        Self { keys, text: Sha256::digest(text).into() }
    }

    /// Whether it contains no usable key.
    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    pub(super) fn has(&self, print: Fingerprint) -> bool {
        self.keys.iter().any(|key| key.print == Some(print))
    }

    /// The key for a token with this `kid`. A key without an id serves tokens whose `kid` no other key
    /// has. A token without a `kid` is served only if one key alone is for its algorithm.
    pub(super) fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Option<Key> {
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

/// The key of a JWK, if it can verify signatures. A shared secret in a published set is ignored.
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
        // The point is not compressed, so its length tells the curve.
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
    use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519};

    use super::*;

    #[test]
    fn a_pem_key_is_only_for_its_own_algorithms() {
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
    fn only_public_keys_for_signatures_are_read_from_a_set() {
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
        assert!(keys.find(Some("a"), Algorithm::PS256).is_none(), "the key names its algorithm");
        assert!(keys.find(Some("b"), Algorithm::PS256).is_some());
        assert!(keys.find(Some("secret"), Algorithm::HS256).is_none());
        assert!(keys.find(Some("c"), Algorithm::RS256).is_none());
        assert!(keys.find(None, Algorithm::RS256).is_none(), "two keys are possible");
        assert!(keys.find(None, Algorithm::PS256).is_some());
    }

    #[test]
    fn the_number_of_keys_is_limited() {
        let key = r#"{"kty": "RSA", "n": "AQAB", "e": "AQAB"}"#;
        let keys = KeySet::parse(format!("[{}]", [key; MAX_KEYS + 1].join(",")).as_bytes());
        assert!(keys.keys.is_empty(), "an array alone is not a set");
        let set = format!(r#"{{"keys": [{}]}}"#, [key; MAX_KEYS + 1].join(","));
        assert_eq!(KeySet::parse(set.as_bytes()).keys.len(), MAX_KEYS);
    }

    #[test]
    fn other_texts_contain_no_key() {
        for text in ["", "{}", "[]", r#"{"keys": 1}"#, "-----BEGIN PUBLIC KEY-----", "secret"] {
            assert!(KeySet::parse(text.as_bytes()).keys.is_empty(), "{text}");
        }
    }
}

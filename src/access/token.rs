//! Tokens (JWT, RFC 7519): checks the issuer, the signature, the audience and the times of a token, and
//! reads its claims.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::future::join_all;
use jsonwebtoken::{
    Algorithm, Header, Validation,
    dangerous::insecure_decode_claims,
    decode, decode_header,
    errors::{Error, ErrorKind},
};
use serde_json::{Map, Value};
use tracing::warn;

use super::{
    crypto,
    denied::Denied,
    jwks::{IssuerKey, Key, Keys, KeysError, Source},
    principal::{Kind, Principal},
    rights::{Rights, what_is_wrong},
};
use crate::{consumer::ConsumerId, store::error::ErrorChain};

/// Longer tokens are refused without parsing.
pub const MAX_TOKEN_BYTES: usize = 8 << 10;

/// An issuer whose tokens are accepted.
#[derive(Clone, Debug)]
pub struct Issuer {
    /// The name in the claim `iss` of its tokens.
    pub name: String,
    /// The accepted audiences: the claim `aud` must contain one of these.
    pub audience: Vec<String>,
    /// The accepted algorithms.
    pub algorithms: Vec<Algorithm>,
    /// The source of its keys.
    pub keys: Source,
    /// The claim that names the consumer.
    pub consumer_claim: String,
    /// The claim that contains the rights, in the form of [`Rights`].
    pub rights_claim: String,
    /// The accepted difference between the clocks.
    pub leeway: Duration,
}

/// The reason for refusing a token whose signature is wrong.
const SIGNATURE: &str = "signature";

/// Checks tokens.
#[derive(Debug)]
pub(super) struct Tokens(Vec<Trusted>);

#[derive(Debug)]
struct Trusted {
    issuer: Issuer,
    keys: Keys,
}

type Claims = Map<String, Value>;

impl Tokens {
    pub(super) fn new(issuers: Vec<Issuer>) -> Self {
        crypto::install();
        let trusted = |issuer: Issuer| Trusted { keys: Keys::new(issuer.keys.clone()), issuer };
        Self(issuers.into_iter().map(trusted).collect())
    }

    /// Fetches the keys of all issuers. After a failure the cached keys are used.
    pub(super) async fn refresh(&self) {
        join_all(self.0.iter().map(Trusted::refresh)).await;
    }

    /// Checks that a ticket, issued for a token that this key signed, is valid.
    pub(super) async fn check_issuer_key(&self, key: &IssuerKey) -> Result<(), Denied> {
        let withdrawn = || {
            Denied::revoked(
                "the token that the ticket was issued for is no longer accepted: its issuer has withdrawn the key",
            )
        };
        let trusted = self.of(&key.issuer).ok_or_else(withdrawn)?;
        let published = match trusted.keys.is_published(key.print).await {
            Ok(published) => published,
            Err(KeysError::TooSoon) => return Err(try_again_later()),
            Err(error) => {
                trusted.warn(&error);
                trusted.keys.was_published(key.print)
            }
        };
        if published { Ok(()) } else { Err(withdrawn()) }
    }

    /// Whether the issuer publishes a key, by the cached keys.
    pub(super) fn was_published(&self, key: &IssuerKey) -> bool {
        self.of(&key.issuer).is_some_and(|trusted| trusted.keys.was_published(key.print))
    }

    /// Waits until the issuer has withdrawn a key. `None`: the issuer is not trusted.
    pub(super) fn withdrawn(
        &self,
        key: &IssuerKey,
    ) -> Option<impl Future<Output = ()> + Send + use<>> {
        Some(self.of(&key.issuer)?.keys.withdrawn(key.print))
    }

    fn of(&self, issuer: &str) -> Option<&Trusted> {
        self.0.iter().find(|trusted| trusted.issuer.name == issuer)
    }

    /// The principal of a token.
    pub(super) async fn check(&self, token: &str) -> Result<Principal, Denied> {
        if token.len() > MAX_TOKEN_BYTES {
            let detail = format!("the token is longer than {MAX_TOKEN_BYTES} bytes");
            return Err(Denied::bad("too-long", detail));
        }
        let header = decode_header(token).map_err(|_| malformed())?;
        if header.crit.is_some() {
            // RFC 7515, section 4.1.11: critical headers must be understood.
            return Err(Denied::bad(
                "malformed",
                "the token has critical headers (crit), and none of them is supported",
            ));
        }
        let claims: Claims = insecure_decode_claims(token).map_err(|_| malformed())?;
        let issuer = claims.get("iss").and_then(Value::as_str).unwrap_or_default();
        let trusted = self.of(issuer).ok_or_else(|| {
            Denied::bad("wrong-issuer", "the token's issuer (iss) is not trusted")
        })?;
        trusted.check(token, &header).await
    }
}

impl Trusted {
    async fn check(&self, token: &str, header: &Header) -> Result<Principal, Denied> {
        let algorithm = header.alg;
        if !self.issuer.algorithms.contains(&algorithm) {
            let detail = format!("this issuer's tokens are not signed with {algorithm:?}");
            return Err(Denied::bad("algorithm", detail));
        }
        let id = header.kid.as_deref();
        let key = self.available(self.keys.find(id, algorithm).await)?;
        let key = key.ok_or_else(|| self.no_key(id))?;
        let checked = self.verify(token, algorithm, &key);
        let Err(denied) = checked.as_ref() else { return checked };
        if denied.reason != SIGNATURE {
            return checked;
        }
        // The signature is wrong by the known key, even if the issuer cannot be asked for another.
        match self.available(self.keys.find_replacement(&key, id, algorithm).await) {
            Ok(Some(other)) => self.verify(token, algorithm, &other),
            Ok(None) | Err(_) => checked,
        }
    }

    fn verify(&self, token: &str, with: Algorithm, key: &Key) -> Result<Principal, Denied> {
        let checked = decode::<Claims>(token, &key.public, &self.issuer.validation(with));
        let claims = checked.map_err(|error| wrong(&error))?.claims;
        let issuer = || self.issuer.name.as_str().into();
        let key = key.print.map(|print| IssuerKey { issuer: issuer(), print });
        self.issuer.principal(&claims, key)
    }

    async fn refresh(&self) {
        if let Err(error) = self.keys.refresh().await {
            self.warn(&error);
        }
    }

    /// Treats keys that cannot be fetched as unknown, after a warning.
    ///
    /// # Errors
    /// If the keys were not fetched again, so that the key may exist.
    fn available<T>(&self, found: Result<Option<T>, KeysError>) -> Result<Option<T>, Denied> {
        match found {
            Ok(found) => Ok(found),
            Err(KeysError::TooSoon) => Err(try_again_later()),
            Err(error) => {
                self.warn(&error);
                Ok(None)
            }
        }
    }

    fn warn(&self, error: &KeysError) {
        let known =
            if self.keys.are_known() { "using the cached keys" } else { "no keys are known" };
        let (issuer, error) = (&self.issuer.name, ErrorChain(error));
        warn!(issuer, %error, "cannot fetch the keys of an issuer; {known}");
    }

    fn no_key(&self, id: Option<&str>) -> Denied {
        if !self.keys.are_known() {
            return Denied::later(
                "the issuer's keys are not available at present, so its tokens cannot be checked",
            );
        }
        let detail = match id {
            Some(_) => "the token is signed with a key that its issuer has not published",
            None => "the token does not say which of its issuer's keys it is signed with (kid)",
        };
        Denied::bad("unknown-key", detail)
    }
}

impl Issuer {
    fn validation(&self, algorithm: Algorithm) -> Validation {
        let mut validation = Validation::new(algorithm);
        validation.leeway = self.leeway.as_secs();
        validation.validate_nbf = true;
        validation.set_issuer(&[&self.name]);
        validation.set_audience(&self.audience);
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        validation
    }

    /// The principal that the claims name. The signature has been verified.
    fn principal(&self, claims: &Claims, signed: Option<IssuerKey>) -> Result<Principal, Denied> {
        let consumer = match claim(claims, &self.consumer_claim) {
            None | Some(Value::Null) => None,
            Some(named) => Some(self.consumer(named)?),
        };
        let rights = claim(claims, &self.rights_claim).cloned().map(serde_json::from_value);
        let rights: Rights = rights
            .transpose()
            .map_err(|error| {
                let detail =
                    format!("the token's claim {:?}: {}", self.rights_claim, what_is_wrong(&error));
                Denied::bad("claims", detail)
            })?
            .unwrap_or_default();
        let subject = claims.get("sub").and_then(Value::as_str);
        let name = consumer.as_ref().map(ConsumerId::as_str).or(subject).unwrap_or(&self.name);
        let name: Box<str> = name.chars().take(ConsumerId::MAX_BYTES).collect();
        let expires = claims.get("exp").and_then(seconds).map(|exp| at(exp) + self.leeway);
        // A token is not valid at the time of `exp` any more (RFC 7519, section 4.1.4).
        if expires.is_none_or(|expires| expires <= SystemTime::now()) {
            return Err(wrong(&ErrorKind::ExpiredSignature.into()));
        }
        Ok(Principal::new(name, Kind::Token(signed), consumer, rights, expires))
    }

    fn consumer(&self, named: &Value) -> Result<ConsumerId, Denied> {
        let wrong = |why: String| {
            let detail =
                format!("the token's claim {:?} names no consumer: {why}", self.consumer_claim);
            Denied::bad("claims", detail)
        };
        let name = named.as_str().ok_or_else(|| wrong("it is not a string".into()))?;
        name.parse().map_err(|invalid: crate::consumer::InvalidConsumer| wrong(invalid.to_string()))
    }
}

/// Finds a claim by its name, which may be a URL and contain dots. If there is none, the parts between
/// the dots are taken as a path through nested objects.
fn claim<'a>(claims: &'a Claims, name: &str) -> Option<&'a Value> {
    claims.get(name).or_else(|| {
        let (first, rest) = name.split_once('.')?;
        claim(claims.get(first)?.as_object()?, rest)
    })
}

/// Whole seconds of a number, which may have a fraction.
fn seconds(value: &Value) -> Option<u64> {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the conversion saturates"
    )]
    value.as_u64().or_else(|| value.as_f64().map(|seconds| seconds as u64))
}

/// The time of a Unix time in seconds. Times in the far future are cut, so that they do not overflow.
fn at(seconds: u64) -> SystemTime {
    const LATEST: u64 = 1 << 40;
    UNIX_EPOCH + Duration::from_secs(seconds.min(LATEST))
}

fn try_again_later() -> Denied {
    Denied::later(
        "the token's key is not known yet, and the keys of its issuer were fetched a moment ago: try \
         again in a few seconds",
    )
}

fn malformed() -> Denied {
    Denied::bad(
        "malformed",
        "not a signed token: expected three parts of Base64, with a known algorithm",
    )
}

fn wrong(error: &Error) -> Denied {
    let (reason, detail) = match error.kind() {
        ErrorKind::ExpiredSignature => ("expired", "the token has expired (exp)".into()),
        ErrorKind::ImmatureSignature => ("not-yet", "the token is not valid yet (nbf)".into()),
        ErrorKind::InvalidIssuer => ("wrong-issuer", "the token is of another issuer (iss)".into()),
        ErrorKind::InvalidAudience => {
            ("wrong-audience", "the token is for another audience (aud)".into())
        }
        ErrorKind::MissingRequiredClaim(name) => ("claims", format!("the token has no {name}")),
        ErrorKind::InvalidClaimFormat(name) => {
            ("claims", format!("the token's {name} cannot be read"))
        }
        ErrorKind::InvalidSignature => (SIGNATURE, "the token's signature is wrong".into()),
        ErrorKind::InvalidAlgorithm => {
            ("algorithm", "the token's algorithm does not fit its key".into())
        }
        _ => return malformed(),
    };
    Denied::bad(reason, detail)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn issuer() -> Issuer {
        Issuer {
            name: "https://issuer.example".into(),
            audience: vec!["events".into()],
            algorithms: vec![Algorithm::HS256],
            keys: Source::Secret("0123456789abcdef0123456789abcdef".into()),
            consumer_claim: "sub".into(),
            rights_claim: "event_piper".into(),
            leeway: Duration::from_secs(5),
        }
    }

    fn claims(json: &Value) -> Claims {
        json.as_object().unwrap().clone()
    }

    #[test]
    fn a_claim_is_found_by_its_name_or_by_its_path() {
        let claims = claims(&json!({"https://a.example/r": 1, "a": {"b": {"c": 2}}, "a.b": 3}));
        assert_eq!(claim(&claims, "https://a.example/r"), Some(&json!(1)));
        assert_eq!(claim(&claims, "a.b.c"), Some(&json!(2)));
        assert_eq!(claim(&claims, "a.b"), Some(&json!(3)));
        assert_eq!(claim(&claims, "a.c"), None);
    }

    #[test]
    fn claims_give_the_consumer_and_the_rights() {
        let who = issuer().principal(
            &claims(&json!({
                "sub": "toto", "exp": 4_000_000_000_u64, "event_piper": {"write": ["shop-*"]},
            })),
            None,
        );
        let who = who.unwrap();
        assert!(who.may_read(&"toto".parse().unwrap()).is_ok());
        assert!(who.may_write_to(&"shop-1".parse().unwrap()).is_ok());
        assert_eq!(who.expires(), Some(UNIX_EPOCH + Duration::from_secs(4_000_000_005)));
    }

    #[test]
    fn rejects_claims_that_cannot_be_parsed() {
        for wrong in [
            json!({"sub": 7, "exp": 4e9}),
            json!({"sub": "", "exp": 4e9}),
            json!({"sub": "a\nb", "exp": 4e9}),
            json!({"sub": "x".repeat(2000), "exp": 4e9}),
            json!({"sub": "toto", "event_piper": "everything", "exp": 4e9}),
            json!({"sub": "toto", "event_piper": {"read": ["a\r\nb*"]}, "exp": 4e9}),
            json!({"sub": "toto", "event_piper": {"read": {"$regex": ".*"}}, "exp": 4e9}),
            json!({"sub": "toto", "event_piper": {"all": 1}, "exp": 4e9}),
        ] {
            let denied = issuer().principal(&claims(&wrong), None).unwrap_err();
            assert_eq!(denied.reason, "claims", "{wrong}");
        }
    }

    #[test]
    fn accepts_an_expiry_in_the_far_future() {
        for exp in [json!(u64::MAX), json!(1e300), json!(4e9 + 0.5)] {
            issuer().principal(&claims(&json!({"sub": "toto", "exp": exp})), None).unwrap();
        }
    }
}

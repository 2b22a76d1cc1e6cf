//! Tokens (JWT, RFC 7519): whether an issuer that is trusted has signed this one, for us, for
//! now, and what it says.

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
use crate::{consumer::ConsumerId, store::error::Chain};

/// Longer tokens are refused unread.
pub const LONGEST: usize = 8 << 10;

/// An issuer whose tokens are believed.
#[derive(Clone, Debug)]
pub struct Issuer {
    /// As its tokens name it in `iss`.
    pub name: String,
    /// Whom its tokens must be for, in `aud`: one of these.
    pub audience: Vec<String>,
    /// What it signs with; nothing else is looked at.
    pub algorithms: Vec<Algorithm>,
    /// Where its keys are.
    pub keys: Source,
    /// The claim that names the consumer.
    pub consumer_claim: String,
    /// The claim that says what may be read and written.
    pub rights_claim: String,
    /// How far our clock and its may differ.
    pub leeway: Duration,
}

/// Why a token is not believed that is signed with another key.
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

    /// Fetches the keys of every issuer. Those that cannot be had stay as they are.
    pub(super) async fn renew(&self) {
        join_all(self.0.iter().map(Trusted::renew)).await;
    }

    /// Whether a ticket for a token that was signed with this key is worth anything.
    pub(super) async fn still_counts(&self, key: &IssuerKey) -> Result<(), Denied> {
        let withdrawn = || {
            Denied::revoked(
                "the token that the ticket was given for is believed no more: its issuer has withdrawn the key",
            )
        };
        let trusted = self.of(&key.issuer).ok_or_else(withdrawn)?;
        let has = match trusted.keys.has(key.print).await {
            Ok(has) => has,
            Err(KeysError::TooSoon) => return Err(not_looked_up()),
            Err(error) => {
                trusted.complain(&error);
                trusted.keys.had(key.print)
            }
        };
        if has { Ok(()) } else { Err(withdrawn()) }
    }

    /// Whether this key is not known to be withdrawn.
    pub(super) fn counts(&self, key: &IssuerKey) -> bool {
        self.of(&key.issuer).is_some_and(|trusted| trusted.keys.had(key.print))
    }

    /// Waits until its issuer has withdrawn this key.
    pub(super) fn withdrawn(
        &self,
        key: &IssuerKey,
    ) -> Option<impl Future<Output = ()> + Send + use<>> {
        Some(self.of(&key.issuer)?.keys.withdrawn(key.print))
    }

    fn of(&self, issuer: &str) -> Option<&Trusted> {
        self.0.iter().find(|trusted| trusted.issuer.name == issuer)
    }

    /// Who shows this token.
    pub(super) async fn check(&self, token: &str) -> Result<Principal, Denied> {
        if token.len() > LONGEST {
            let detail = format!("the token is longer than {LONGEST} bytes");
            return Err(Denied::bad("too-long", detail));
        }
        let header = decode_header(token).map_err(|_| malformed())?;
        if header.crit.is_some() {
            // RFC 7515, section 4.1.11: what is critical has to be understood.
            return Err(Denied::bad(
                "malformed",
                "the token has critical headers, none of which is known here",
            ));
        }
        let claims: Claims = insecure_decode_claims(token).map_err(|_| malformed())?;
        let issuer = claims.get("iss").and_then(Value::as_str).unwrap_or_default();
        let trusted = self.of(issuer).ok_or_else(|| {
            Denied::bad("wrong-issuer", "the token's issuer (iss) is none that is trusted here")
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
        let key = self.looked_up(self.keys.find(id, algorithm).await)?;
        let key = key.ok_or_else(|| self.no_key(id))?;
        let checked = self.verify(token, algorithm, &key);
        let Err(denied) = checked.as_ref() else { return checked };
        if denied.reason != SIGNATURE {
            return checked;
        }
        // Of a key that is known the signature is wrong, whether the issuer could be asked or not.
        match self.looked_up(self.keys.instead(&key, id, algorithm).await) {
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

    async fn renew(&self) {
        if let Err(error) = self.keys.renew().await {
            self.complain(&error);
        }
    }

    /// What cannot be had is not there; what was not looked for may be.
    fn looked_up<T>(&self, found: Result<Option<T>, KeysError>) -> Result<Option<T>, Denied> {
        match found {
            Ok(found) => Ok(found),
            Err(KeysError::TooSoon) => Err(not_looked_up()),
            Err(error) => {
                self.complain(&error);
                Ok(None)
            }
        }
    }

    fn complain(&self, error: &KeysError) {
        let kept = if self.keys.are_known() { "those known are kept" } else { "none is known" };
        let (issuer, error) = (&self.issuer.name, Chain(error));
        warn!(issuer, %error, "an issuer's keys cannot be had; {kept}");
    }

    fn no_key(&self, id: Option<&str>) -> Denied {
        if !self.keys.are_known() {
            return Denied::later(
                "the issuer's keys cannot be had just now, so no token can be checked",
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

    /// Whom the claims speak of. They are the issuer's own words by now.
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
        // At that very moment it ends (RFC 7519, section 4.1.4), not a second later.
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
        let name = named.as_str().ok_or_else(|| wrong("it is no text".into()))?;
        name.parse().map_err(|invalid: crate::consumer::InvalidConsumer| wrong(invalid.to_string()))
    }
}

/// A claim by its whole name, which may be an address; else by way of the objects that the
/// parts between its dots name.
fn claim<'a>(claims: &'a Claims, name: &str) -> Option<&'a Value> {
    claims.get(name).or_else(|| {
        let (first, rest) = name.split_once('.')?;
        claim(claims.get(first)?.as_object()?, rest)
    })
}

/// A number of seconds, of which there may be fractions.
fn seconds(value: &Value) -> Option<u64> {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates")]
    value.as_u64().or_else(|| value.as_f64().map(|seconds| seconds as u64))
}

/// A moment so far away that nobody sees it is as good as any other such.
fn at(seconds: u64) -> SystemTime {
    const LATEST: u64 = 1 << 40;
    UNIX_EPOCH + Duration::from_secs(seconds.min(LATEST))
}

fn not_looked_up() -> Denied {
    Denied::later(
        "the key that the token is signed with is not known yet, and its issuer was asked a moment \
         ago: try again in a few seconds",
    )
}

fn malformed() -> Denied {
    Denied::bad(
        "malformed",
        "that is no signed token: expected three parts of Base64, with a known algorithm",
    )
}

fn wrong(error: &Error) -> Denied {
    let (reason, detail) = match error.kind() {
        ErrorKind::ExpiredSignature => ("expired", "the token has expired (exp)".into()),
        ErrorKind::ImmatureSignature => ("not-yet", "the token is not valid yet (nbf)".into()),
        ErrorKind::InvalidIssuer => {
            ("wrong-issuer", "the token's issuer (iss) is another one".into())
        }
        ErrorKind::InvalidAudience => {
            ("wrong-audience", "the token is for somebody else (aud)".into())
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
    fn a_claim_is_found_by_its_whole_name_or_by_its_path() {
        let claims = claims(&json!({"https://a.example/r": 1, "a": {"b": {"c": 2}}, "a.b": 3}));
        assert_eq!(claim(&claims, "https://a.example/r"), Some(&json!(1)));
        assert_eq!(claim(&claims, "a.b.c"), Some(&json!(2)));
        assert_eq!(claim(&claims, "a.b"), Some(&json!(3)));
        assert_eq!(claim(&claims, "a.c"), None);
    }

    #[test]
    fn claims_say_who_it_is_and_what_they_may() {
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
    fn claims_that_cannot_be_understood_are_a_bad_proof() {
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
    fn an_end_beyond_all_times_does_no_harm() {
        for exp in [json!(u64::MAX), json!(1e300), json!(4e9 + 0.5)] {
            issuer().principal(&claims(&json!({"sub": "toto", "exp": exp})), None).unwrap();
        }
    }
}

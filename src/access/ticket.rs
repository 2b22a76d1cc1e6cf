//! Tickets, for `EventSource` clients, which cannot send an `Authorization` header.
//!
//! A ticket is signed and contains everything that is needed to check it. Every instance with the same
//! key can check it without asking another. A ticket opens one stream, within [`USE_WITHIN`] after it
//! was issued. An `EventSource` that loses the stream requests the same URL again, with its position
//! in the header `Last-Event-ID`. With that header, the ticket opens the stream again for as long as
//! the credentials that it was issued for are valid. Each instance remembers the tickets that it has
//! seen used until [`USE_WITHIN`] is over. It does not know of tickets that were used elsewhere.

use std::{
    collections::HashMap,
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    hmac,
    rand::{SecureRandom, SystemRandom},
};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

pub use super::id::TicketId;
use super::{
    denied::Denied,
    jwks::IssuerKey,
    principal::{CredentialId, Kind, Principal},
    rights::Rights,
};
use crate::{consumer::ConsumerId, crash::Lock};

/// A ticket must be used for the first time within this time after it was issued.
pub const USE_WITHIN: Duration = Duration::from_secs(30);
/// A ticket is valid for at most this long, even if the credentials never expire.
pub const MAX_LIFETIME: Duration = Duration::from_hours(12);
/// The length of a ticket. It has to fit into a URL.
const MAX_TICKET_BYTES: usize = 4 << 10;
/// The number of used tickets that are remembered. It allows for thousands of tickets per second.
const MAX_USED_TICKETS: usize = 200_000;
/// Is signed in front of each ticket, so that a signature is valid for nothing else.
const SIGNATURE_DOMAIN: &[u8] = b"event-piper ticket 1\0";

/// A new ticket.
pub struct Issued {
    /// Identifies the ticket. It may be shown.
    pub id: TicketId,
    /// The ticket itself, a secret.
    pub text: String,
    /// When it expires: it does not open its stream again after this time.
    pub until: SystemTime,
}

/// Issues and checks tickets.
pub(super) struct Tickets {
    /// The first one signs; all of them verify.
    keys: Vec<hmac::Key>,
    /// The used tickets, each with the time of its eviction (Unix time in seconds).
    used: Lock<HashMap<TicketId, u64>>,
    random: SystemRandom,
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tickets").finish_non_exhaustive()
    }
}

/// The content of a ticket. It is not encrypted, so it contains no secrets. Times are Unix times in
/// seconds.
#[derive(Serialize, Deserialize)]
struct TicketClaims {
    #[serde(rename = "i")]
    id: TicketId,
    #[serde(rename = "n")]
    name: String,
    #[serde(rename = "c")]
    consumer: Option<String>,
    #[serde(rename = "r")]
    rights: Rights,
    #[serde(rename = "k")]
    key: Option<String>,
    #[serde(rename = "s")]
    signed: Option<IssuerKey>,
    /// The time before which the ticket must be used for the first time.
    #[serde(rename = "f")]
    first: u64,
    #[serde(rename = "u")]
    until: u64,
}

/// Why a ticket cannot be issued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoTicket {
    /// The ticket would not fit into a URL.
    #[error("the ticket would be too long: name fewer consumers, or name those that it is for")]
    TooLong,
    /// In a ticket the name would be a pattern, and would match other names.
    #[error("a ticket cannot be issued for a consumer with a star in its name")]
    Star,
}

impl Tickets {
    /// Without keys, a random one is used. No other instance accepts its tickets, and neither does this
    /// one after a restart.
    pub(super) fn new(keys: &[SecretString]) -> Self {
        let random = SystemRandom::new();
        let key = |secret: &SecretString| {
            hmac::Key::new(hmac::HMAC_SHA256, secret.expose_secret().as_bytes())
        };
        let mut keys: Vec<_> = keys.iter().map(key).collect();
        if keys.is_empty() {
            let own = hmac::Key::generate(hmac::HMAC_SHA256, &random);
            keys.push(own.expect("the system has random numbers"));
        }
        Self { keys, used: Lock::default(), random }
    }

    /// Issues a ticket for everything that the principal may follow, or for these consumers only.
    pub(super) fn issue(
        &self,
        who: &Principal,
        consumers: Option<&[ConsumerId]>,
    ) -> Result<Issued, NoTicket> {
        let now = SystemTime::now();
        let longest = now + MAX_LIFETIME;
        let until = who.expires().map_or(longest, |expires| expires.min(longest));
        let mut id = TicketId([0; 12]);
        self.random.fill(&mut id.0).expect("the system has random numbers");
        let (key, signed) = match who.credential() {
            Some(CredentialId::Key(key)) => (Some(key.to_string()), None),
            Some(CredentialId::Issuer(key)) => (None, Some(key.clone())),
            None => (None, None),
        };
        let claims = TicketClaims {
            id,
            name: who.name().to_string(),
            consumer: consumer(who, consumers),
            rights: rights(who, consumers)?,
            key,
            signed,
            first: seconds(now + USE_WITHIN),
            until: seconds(until),
        };
        let text = self.sign(&serde_json::to_vec(&claims).expect("a ticket is JSON"));
        if text.len() > MAX_TICKET_BYTES {
            Err(NoTicket::TooLong)
        } else {
            Ok(Issued { id, text, until })
        }
    }

    fn sign(&self, claims: &[u8]) -> String {
        let tag = hmac::sign(&self.keys[0], &[SIGNATURE_DOMAIN, claims].concat());
        let [claims, tag] = [claims, tag.as_ref()].map(|part| URL_SAFE_NO_PAD.encode(part));
        format!("{claims}.{tag}")
    }

    /// The principal of a ticket. [`redeem`](Self::redeem) checks whether the ticket may still be used,
    /// when its stream opens.
    pub(super) fn check(&self, text: &str, again: bool) -> Result<Principal, Denied> {
        self.check_at(text, again, SystemTime::now())
    }

    fn check_at(&self, text: &str, again: bool, now: SystemTime) -> Result<Principal, Denied> {
        let claims = self.verified(text).ok_or_else(|| {
            Denied::bad("ticket", "not a ticket of this gateway: expected one from POST /tickets")
        })?;
        let now = seconds(now);
        if now >= claims.until {
            return Err(Denied::bad(
                "expired",
                "the ticket has expired with the token or key that it was issued for",
            ));
        }
        if !again && now >= claims.first {
            return Err(not_used_in_time());
        }
        let key = claims.key.map(|key| key.parse());
        let key = key
            .transpose()
            .map_err(|()| Denied::bad("ticket", "the ticket contains an invalid key id"))?;
        let credential = key.map(CredentialId::Key).or(claims.signed.map(CredentialId::Issuer));
        let kind = Kind::Ticket { id: claims.id, again, credential };
        let consumer = claims.consumer.and_then(|name| name.parse().ok());
        let expires = Some(UNIX_EPOCH + Duration::from_secs(claims.until));
        Ok(Principal::new(claims.name, kind, consumer, claims.rights, expires))
    }

    fn verified(&self, text: &str) -> Option<TicketClaims> {
        let (claims, tag) = text.split_once('.').filter(|_| text.len() <= MAX_TICKET_BYTES)?;
        let (claims, tag) =
            (URL_SAFE_NO_PAD.decode(claims).ok()?, URL_SAFE_NO_PAD.decode(tag).ok()?);
        let signed = [SIGNATURE_DOMAIN, &claims].concat();
        // The comparison takes constant time.
        self.keys.iter().find(|key| hmac::verify(key, &signed, &tag).is_ok())?;
        serde_json::from_slice(&claims).ok()
    }

    /// Marks a ticket as used. After that it only resumes its stream.
    pub(super) fn redeem(&self, id: TicketId, again: bool) -> Result<(), Denied> {
        let now = seconds(SystemTime::now());
        let first_until = now + USE_WITHIN.as_secs();
        let mut used = self.used.lock();
        if used.len() >= MAX_USED_TICKETS {
            used.retain(|_, until| *until > now);
        }
        if used.len() >= MAX_USED_TICKETS {
            return Err(Denied::later("too many tickets are in use at present"));
        }
        if used.insert(id, first_until).is_some() && !again {
            return Err(Denied::bad(
                "ticket-used",
                "the ticket has been used: it opens one stream, and only resumes it with Last-Event-ID",
            ));
        }
        Ok(())
    }

    /// Removes the used tickets that are too old for a first use.
    pub(super) fn evict(&self) {
        let now = seconds(SystemTime::now());
        let mut used = self.used.lock();
        used.retain(|_, until| *until > now);
        if used.capacity() > 4 * used.len() + 1024 {
            used.shrink_to_fit();
        }
    }
}

fn not_used_in_time() -> Denied {
    let detail = format!(
        "the ticket was not used within {} s: expected a new one from POST /tickets",
        USE_WITHIN.as_secs()
    );
    Denied::bad("ticket-late", detail)
}

fn consumer(who: &Principal, consumers: Option<&[ConsumerId]>) -> Option<String> {
    let consumer = match consumers {
        Some([one]) => Some(one),
        Some(_) => None,
        None => who.consumer(),
    };
    consumer.map(|consumer| consumer.as_str().to_owned())
}

fn rights(who: &Principal, consumers: Option<&[ConsumerId]>) -> Result<Rights, NoTicket> {
    let Some(consumers) = consumers else { return Ok(who.rights().to_follow()) };
    if consumers.iter().any(|consumer| consumer.as_str().contains('*')) {
        return Err(NoTicket::Star);
    }
    let read = super::rights::Patterns::new(consumers.iter().map(ConsumerId::as_str));
    Ok(Rights { read: Some(read.map_err(|_| NoTicket::TooLong)?), ..Rights::default() })
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn toto(expires: Option<SystemTime>) -> Principal {
        let rights = r#"{"read": ["toto", "team-*"], "write": "*", "metrics": true}"#;
        let rights = serde_json::from_str(rights).unwrap();
        Principal::new("toto", Kind::Token(None), "toto".parse().ok(), rights, expires)
    }

    fn keys(texts: &[&str]) -> Vec<SecretString> {
        texts.iter().map(|text| (*text).into()).collect()
    }

    #[test]
    fn instances_with_the_same_key_accept_a_ticket() {
        let issued = Tickets::new(&keys(&["a"])).issue(&toto(None), None).unwrap();
        for (others, accepted) in
            [(&["a"][..], true), (&["b", "a"], true), (&["b"], false), (&[], false)]
        {
            let checked = Tickets::new(&keys(others)).check(&issued.text, false);
            assert_eq!(checked.is_ok(), accepted, "{others:?}");
        }
    }

    #[test]
    fn a_ticket_grants_nothing_but_following() {
        let tickets = Tickets::new(&[]);
        let who = tickets.check(&tickets.issue(&toto(None), None).unwrap().text, false).unwrap();
        assert!(who.may_read(&"team-a".parse().unwrap()).is_ok());
        assert!(who.may_write_to(&"toto".parse().unwrap()).is_err());
        assert!(who.may_see_metrics().is_err());
        let team: ConsumerId = "team-a".parse().unwrap();
        let one = tickets.issue(&toto(None), Some(std::slice::from_ref(&team))).unwrap();
        let who = tickets.check(&one.text, false).unwrap();
        assert_eq!(who.consumer(), Some(&team));
        assert!(who.may_read(&"toto".parse().unwrap()).is_err());
    }

    #[test]
    fn a_ticket_expires_with_its_credentials_or_earlier() {
        let (tickets, now) = (Tickets::new(&[]), SystemTime::now());
        let until = |expires| tickets.issue(&toto(expires), None).unwrap().until;
        let soon = now + Duration::from_mins(1);
        assert_eq!(until(Some(soon)), soon);
        for long in [None, Some(now + 2 * MAX_LIFETIME)] {
            let until = until(long);
            assert!(now + MAX_LIFETIME <= until && until <= SystemTime::now() + MAX_LIFETIME);
        }
    }

    #[test]
    fn a_ticket_opens_one_stream_and_resumes_it() {
        let tickets = Tickets::new(&[]);
        let id = tickets.issue(&toto(None), None).unwrap().id;
        assert!(tickets.redeem(id, false).is_ok());
        assert!(tickets.redeem(id, false).is_err());
        assert!(tickets.redeem(id, true).is_ok());
        let other = tickets.issue(&toto(None), None).unwrap().id;
        assert!(tickets.redeem(other, true).is_ok(), "it was first used at another instance");
        assert!(tickets.redeem(other, false).is_err());
    }

    #[test]
    fn an_expired_ticket_is_refused() {
        let tickets = Tickets::new(&[]);
        let past = SystemTime::now() - Duration::from_secs(1);
        let issued = tickets.issue(&toto(Some(past)), None).unwrap();
        assert!(tickets.check(&issued.text, false).is_err());
        assert!(tickets.check(&issued.text, true).is_err());
        let endless = tickets.issue(&toto(None), None).unwrap();
        assert!(endless.until <= SystemTime::now() + MAX_LIFETIME);
    }

    #[test]
    fn only_the_first_use_must_be_soon() {
        let tickets = Tickets::new(&[]);
        let text = tickets.issue(&toto(None), None).unwrap().text;
        let late = SystemTime::now() + USE_WITHIN + Duration::from_secs(1);
        assert_eq!(tickets.check_at(&text, false, late).unwrap_err().reason, "ticket-late");
        assert!(tickets.check_at(&text, true, late).is_ok());
    }

    #[test]
    fn a_star_in_a_name_does_not_become_a_pattern() {
        let star: ConsumerId = "team-*".parse().unwrap();
        let asked = Tickets::new(&[]).issue(&toto(None), Some(&[star]));
        assert_eq!(asked.err(), Some(NoTicket::Star));
    }

    #[test]
    fn the_number_of_used_tickets_is_limited() {
        let tickets = Tickets::new(&[]);
        let id = |number: usize| {
            let mut id = TicketId([0; 12]);
            id.0[..8].copy_from_slice(&number.to_be_bytes());
            id
        };
        assert!((0..MAX_USED_TICKETS).all(|number| tickets.redeem(id(number), false).is_ok()));
        assert!(tickets.redeem(id(MAX_USED_TICKETS), false).is_err());
    }

    #[test]
    fn a_ticket_that_was_changed_anywhere_is_refused() {
        let tickets = Tickets::new(&[]);
        let text = tickets.issue(&toto(None), None).unwrap().text;
        for at in 0..text.len() {
            let mut changed = text.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            assert!(tickets.check(&changed, true).is_err(), "{changed}");
        }
        for wrong in ["", ".", "..", &text[1..], &"A".repeat(5000)] {
            assert!(tickets.check(wrong, true).is_err(), "{wrong}");
        }
    }
}

//! Tickets: what an `EventSource`, which can set no header, shows instead of a token.
//!
//! A ticket is signed, and says all there is to say; so every instance that has the same key
//! can check it, and none needs to be asked. It opens one stream within half a minute. An
//! `EventSource` that has lost that stream comes back to the same address, and says in the
//! header `Last-Event-ID` how far it had got: with that header the ticket opens the stream
//! again, for as long as the token that it was given for is valid. An instance remembers which
//! tickets it has seen used until that half minute is over; another instance does not know.

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
    principal::{Kind, Principal, Root},
    rights::Rights,
};
use crate::{consumer::ConsumerId, crash::Lock};

/// A ticket is first used within this time.
pub const USE_WITHIN: Duration = Duration::from_secs(30);
/// A proof without an end does not make a ticket without one.
pub const LONGEST_LIFE: Duration = Duration::from_hours(12);
/// It has to fit into an address, with room to spare.
const LONGEST: usize = 4 << 10;
/// As many used tickets are remembered: thousands a second.
const MOST_USED: usize = 200_000;
/// What the key signs here, so that it signs nothing else in the same words.
const DOMAIN: &[u8] = b"event-piper ticket 1\0";

/// A ticket that was just made.
pub struct Issued {
    /// Its name.
    pub id: TicketId,
    /// What is shown for it.
    pub text: String,
    /// Until when it opens its stream again.
    pub until: SystemTime,
}

/// Makes and checks tickets.
pub(super) struct Tickets {
    /// The first one signs; all of them check.
    keys: Vec<hmac::Key>,
    used: Lock<HashMap<TicketId, u64>>,
    random: SystemRandom,
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tickets").finish_non_exhaustive()
    }
}

/// What a ticket says. It can be read by whoever has it, so there is no secret in it.
#[derive(Serialize, Deserialize)]
struct Said {
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
    /// The first use comes before this.
    #[serde(rename = "f")]
    first: u64,
    #[serde(rename = "u")]
    until: u64,
}

/// Why there can be no ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoTicket {
    /// It would not fit into an address.
    #[error("there are too many rights for one ticket: name the consumers that it shall be for")]
    TooLong,
    /// In a ticket the name would be a pattern, and so more than it is.
    #[error("a consumer whose name has a star in it cannot be asked for by a ticket")]
    Star,
}

impl Tickets {
    /// Without keys one is made up, which no other instance has, and none after a restart.
    pub(super) fn new(keys: &[SecretString]) -> Self {
        let random = SystemRandom::new();
        let key = |secret: &SecretString| {
            hmac::Key::new(hmac::HMAC_SHA256, secret.expose_secret().as_bytes())
        };
        let mut keys: Vec<_> = keys.iter().map(key).collect();
        if keys.is_empty() {
            let own = hmac::Key::generate(hmac::HMAC_SHA256, &random);
            keys.push(own.expect("there is randomness"));
        }
        Self { keys, used: Lock::default(), random }
    }

    /// A ticket for what this one may follow, or of that only these consumers.
    pub(super) fn issue(
        &self,
        who: &Principal,
        consumers: Option<&[ConsumerId]>,
    ) -> Result<Issued, NoTicket> {
        let now = SystemTime::now();
        let longest = now + LONGEST_LIFE;
        let until = who.expires().map_or(longest, |expires| expires.min(longest));
        let mut id = TicketId([0; 12]);
        self.random.fill(&mut id.0).expect("there is randomness");
        let (key, signed) = match who.root() {
            Some(Root::Key(key)) => (Some(key.to_string()), None),
            Some(Root::Issuer(key)) => (None, Some(key.clone())),
            None => (None, None),
        };
        let said = Said {
            id,
            name: who.name().to_string(),
            consumer: consumer(who, consumers),
            rights: rights(who, consumers)?,
            key,
            signed,
            first: seconds(now + USE_WITHIN),
            until: seconds(until),
        };
        let text = self.sign(&serde_json::to_vec(&said).expect("a ticket is JSON"));
        if text.len() > LONGEST { Err(NoTicket::TooLong) } else { Ok(Issued { id, text, until }) }
    }

    fn sign(&self, said: &[u8]) -> String {
        let tag = hmac::sign(&self.keys[0], &[DOMAIN, said].concat());
        let [said, tag] = [said, tag.as_ref()].map(|part| URL_SAFE_NO_PAD.encode(part));
        format!("{said}.{tag}")
    }

    /// Who shows this ticket. Whether it may still be used is asked by [`redeem`](Self::redeem),
    /// when its stream is about to open.
    pub(super) fn check(&self, text: &str, again: bool) -> Result<Principal, Denied> {
        self.check_at(text, again, SystemTime::now())
    }

    fn check_at(&self, text: &str, again: bool, now: SystemTime) -> Result<Principal, Denied> {
        let said = self.verified(text).ok_or_else(|| {
            Denied::bad(
                "ticket",
                "that is no ticket of this gateway's: expected one of POST /tickets",
            )
        })?;
        let now = seconds(now);
        if now >= said.until {
            return Err(Denied::bad(
                "expired",
                "the ticket has expired with the token that it was given for",
            ));
        }
        if !again && now >= said.first {
            return Err(late());
        }
        let key = said.key.map(|key| key.parse());
        let key = key.transpose().map_err(|()| Denied::bad("ticket", "the ticket names no key"))?;
        let root = key.map(Root::Key).or(said.signed.map(Root::Issuer));
        let kind = Kind::Ticket { id: said.id, again, root };
        let consumer = said.consumer.and_then(|name| name.parse().ok());
        let expires = Some(UNIX_EPOCH + Duration::from_secs(said.until));
        Ok(Principal::new(said.name, kind, consumer, said.rights, expires))
    }

    fn verified(&self, text: &str) -> Option<Said> {
        let (said, tag) = text.split_once('.').filter(|_| text.len() <= LONGEST)?;
        let (said, tag) = (URL_SAFE_NO_PAD.decode(said).ok()?, URL_SAFE_NO_PAD.decode(tag).ok()?);
        let signed = [DOMAIN, &said].concat();
        // Compares in constant time.
        self.keys.iter().find(|key| hmac::verify(key, &signed, &tag).is_ok())?;
        serde_json::from_slice(&said).ok()
    }

    /// Uses the ticket: the first time it opens its stream, later it only opens it again.
    pub(super) fn redeem(&self, id: TicketId, again: bool) -> Result<(), Denied> {
        let now = seconds(SystemTime::now());
        let first_until = now + USE_WITHIN.as_secs();
        let mut used = self.used.lock();
        if used.len() >= MOST_USED {
            used.retain(|_, until| *until > now);
        }
        if used.len() >= MOST_USED {
            return Err(Denied::later("too many tickets are being used"));
        }
        if used.insert(id, first_until).is_some() && !again {
            return Err(Denied::bad(
                "ticket-used",
                "the ticket was used already: it opens one stream, and with Last-Event-ID the same again",
            ));
        }
        Ok(())
    }

    /// Forgets the used tickets whose time for a first use is over.
    pub(super) fn forget(&self) {
        let now = seconds(SystemTime::now());
        let mut used = self.used.lock();
        used.retain(|_, until| *until > now);
        if used.capacity() > 4 * used.len() + 1024 {
            used.shrink_to_fit();
        }
    }
}

fn late() -> Denied {
    let detail = format!(
        "the ticket was not used within {} s: expected a new one of POST /tickets",
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
    fn another_instance_with_the_same_key_believes_it_and_no_other() {
        let issued = Tickets::new(&keys(&["a"])).issue(&toto(None), None).unwrap();
        for (others, believed) in
            [(&["a"][..], true), (&["b", "a"], true), (&["b"], false), (&[], false)]
        {
            let checked = Tickets::new(&keys(others)).check(&issued.text, false);
            assert_eq!(checked.is_ok(), believed, "{others:?}");
        }
    }

    #[test]
    fn it_is_for_following_and_nothing_else() {
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
    fn it_ends_with_its_proof_and_never_later_than_it_may() {
        let (tickets, now) = (Tickets::new(&[]), SystemTime::now());
        let until = |expires| tickets.issue(&toto(expires), None).unwrap().until;
        let soon = now + Duration::from_mins(1);
        assert_eq!(until(Some(soon)), soon);
        for long in [None, Some(now + 2 * LONGEST_LIFE)] {
            let until = until(long);
            assert!(now + LONGEST_LIFE <= until && until <= SystemTime::now() + LONGEST_LIFE);
        }
    }

    #[test]
    fn it_is_used_once_and_then_only_to_come_back() {
        let tickets = Tickets::new(&[]);
        let id = tickets.issue(&toto(None), None).unwrap().id;
        assert!(tickets.redeem(id, false).is_ok());
        assert!(tickets.redeem(id, false).is_err());
        assert!(tickets.redeem(id, true).is_ok());
        let other = tickets.issue(&toto(None), None).unwrap().id;
        assert!(tickets.redeem(other, true).is_ok(), "its first use was elsewhere");
        assert!(tickets.redeem(other, false).is_err());
    }

    #[test]
    fn it_ends_with_what_it_was_given_for() {
        let tickets = Tickets::new(&[]);
        let past = SystemTime::now() - Duration::from_secs(1);
        let issued = tickets.issue(&toto(Some(past)), None).unwrap();
        assert!(tickets.check(&issued.text, false).is_err());
        assert!(tickets.check(&issued.text, true).is_err());
        let endless = tickets.issue(&toto(None), None).unwrap();
        assert!(endless.until <= SystemTime::now() + LONGEST_LIFE);
    }

    #[test]
    fn its_first_use_is_within_a_moment_and_who_comes_back_has_longer() {
        let tickets = Tickets::new(&[]);
        let text = tickets.issue(&toto(None), None).unwrap().text;
        let late = SystemTime::now() + USE_WITHIN + Duration::from_secs(1);
        assert_eq!(tickets.check_at(&text, false, late).unwrap_err().reason, "ticket-late");
        assert!(tickets.check_at(&text, true, late).is_ok());
    }

    #[test]
    fn a_star_in_a_name_becomes_no_pattern() {
        let star: ConsumerId = "team-*".parse().unwrap();
        let asked = Tickets::new(&[]).issue(&toto(None), Some(&[star]));
        assert_eq!(asked.err(), Some(NoTicket::Star));
    }

    #[test]
    fn as_many_are_remembered_as_there_is_room_for() {
        let tickets = Tickets::new(&[]);
        let id = |number: usize| {
            let mut id = TicketId([0; 12]);
            id.0[..8].copy_from_slice(&number.to_be_bytes());
            id
        };
        assert!((0..MOST_USED).all(|number| tickets.redeem(id(number), false).is_ok()));
        assert!(tickets.redeem(id(MOST_USED), false).is_err());
    }

    #[test]
    fn a_change_anywhere_makes_it_worthless() {
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

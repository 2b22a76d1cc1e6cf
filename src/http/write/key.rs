//! `Idempotency-Key`: a name for a whole request, out of which its events get their uids.
//!
//! A key that is a UUID names its one event itself. Of any other, and for several events or
//! lines, the uids are derived: the same key of the same principal at the same address gives the same
//! ones. Keys of two principals never meet: neither can take, or guess at, what the other writes.

use axum::http::HeaderMap;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::{
    access::principal::{Kind, Principal},
    event::draft::Draft,
    http::error::Problem,
};

/// The header's name.
const KEY: &str = "idempotency-key";
/// As long as a key may be.
const LONGEST: usize = 256;

/// A request's key, at the address that it was sent to.
#[derive(Debug)]
pub(super) struct Key {
    /// Whose it is; empty in the open mode, where nobody is told from anybody else.
    owner: Box<str>,
    path: Box<str>,
    text: Box<str>,
}

impl Key {
    /// The one that the headers have, if they have one.
    pub(super) fn of(
        (headers, path): (&HeaderMap, &str),
        who: &Principal,
    ) -> Result<Option<Self>, Problem> {
        let mut keys = headers.get_all(KEY).iter();
        let Some(key) = keys.next() else { return Ok(None) };
        let text = key.to_str().unwrap_or_default().trim().trim_matches('"');
        if text.is_empty() || text.len() > LONGEST || keys.next().is_some() {
            let detail =
                format!("Idempotency-Key is one text of 1 to {LONGEST} printable characters");
            return Err(Problem::bad_request(detail));
        }
        Ok(Some(Self { owner: owner(who), path: path.into(), text: text.into() }))
    }

    /// The `uid` that it makes for the event in this place of the request.
    pub(super) fn uid(&self, at: u64) -> Uuid {
        // None of these has a line break: addresses and headers cannot, and names are quoted.
        let digest = Sha256::digest(format!("{}{}\n{}\n{at}", self.owner, self.path, self.text));
        Uuid::new_v8(std::array::from_fn(|at| digest[at]))
    }
}

/// A name is of its kind: that of a key is not that of a token's subject.
fn owner(who: &Principal) -> Box<str> {
    match who.kind() {
        Kind::Anybody => "".into(),
        kind => format!("{}\n{:?}\n", kind.as_str(), &**who.name()).into(),
    }
}

/// Gives events without a `uid` the one that the request's key makes.
pub(super) fn apply(
    request: (&HeaderMap, &str),
    who: &Principal,
    drafts: &mut [Draft],
) -> Result<(), Problem> {
    let Some(key) = Key::of(request, who)? else { return Ok(()) };
    let own = Uuid::parse_str(&key.text).ok().filter(|_| drafts.len() == 1);
    for (at, draft) in (0..).zip(drafts) {
        draft.uid.get_or_insert_with(|| own.unwrap_or_else(|| key.uid(at)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_owner_address_key_or_place_is_another_event() {
        let key = |owner: &str, path: &str, text: &str| Key {
            owner: owner.into(),
            path: path.into(),
            text: text.into(),
        };
        let one = key("", "/events", "key").uid(0);
        assert_eq!(one, key("", "/events", "key").uid(0));
        for other in [
            key("token\n\"shop\"\n", "/events", "key").uid(0),
            key("key\n\"shop\"\n", "/events", "key").uid(0),
            key("", "/streams/a", "key").uid(0),
            key("", "/events", "yek").uid(0),
            key("", "/events", "key").uid(1),
        ] {
            assert_ne!(one, other);
        }
    }
}

//! `Idempotency-Key`: identifies a request, and determines the uids of its events.
//!
//! A key that is a UUID is the uid of a single event. For other keys, and for several events or lines, the
//! uids are derived: the same key of the same principal at the same path gives the same uids. The keys of
//! two principals never give the same uids, so neither can take or guess those of the other.

use axum::http::HeaderMap;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::{
    access::principal::{Kind, Principal},
    event::draft::Draft,
    http::error::Problem,
};

/// The name of the header.
const HEADER: &str = "idempotency-key";
/// The greatest length of a key.
const MAX_KEY_BYTES: usize = 256;

/// The key of a request, with its owner and path.
#[derive(Debug)]
pub(super) struct Key {
    /// The principal. Empty in the open mode, which has only one.
    owner: Box<str>,
    path: Box<str>,
    text: Box<str>,
}

impl Key {
    /// The key in the headers. `None`: there is none.
    pub(super) fn of(
        (headers, path): (&HeaderMap, &str),
        who: &Principal,
    ) -> Result<Option<Self>, Problem> {
        let mut keys = headers.get_all(HEADER).iter();
        let Some(key) = keys.next() else { return Ok(None) };
        let text = key.to_str().unwrap_or_default().trim().trim_matches('"');
        if text.is_empty() || text.len() > MAX_KEY_BYTES || keys.next().is_some() {
            let detail = format!(
                "expected one Idempotency-Key of 1 to {MAX_KEY_BYTES} printable characters"
            );
            return Err(Problem::bad_request(detail));
        }
        Ok(Some(Self { owner: owner(who), path: path.into(), text: text.into() }))
    }

    /// The `uid` of the event at this index of the request.
    pub(super) fn uid(&self, at: u64) -> Uuid {
        // Line breaks separate the parts unambiguously: paths and headers contain none, and names are quoted.
        let digest = Sha256::digest(format!("{}{}\n{}\n{at}", self.owner, self.path, self.text));
        Uuid::new_v8(std::array::from_fn(|at| digest[at]))
    }
}

/// Identifies the principal. It includes the kind, because a key and the subject of a token may have the
/// same name.
fn owner(who: &Principal) -> Box<str> {
    match who.kind() {
        Kind::Open => "".into(),
        kind => format!("{}\n{:?}\n", kind.as_str(), &**who.name()).into(),
    }
}

/// Sets the `uid` of drafts that have none from the key of the request, if it has one.
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
    fn uids_depend_on_owner_path_key_and_index() {
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

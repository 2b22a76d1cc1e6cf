//! `Idempotency-Key`: a name for a whole request, out of which its events get their uids.
//!
//! A key that is a UUID names its one event itself. Of any other, and for several events, the
//! uids are derived: the same key at the same address gives the same ones.

use axum::http::HeaderMap;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::{event::draft::Draft, http::error::Problem};

/// The header's name.
const KEY: &str = "idempotency-key";
/// As long as a key may be.
const LONGEST: usize = 256;

/// Gives events without a `uid` the one that the request's key makes.
pub(super) fn apply(headers: &HeaderMap, path: &str, drafts: &mut [Draft]) -> Result<(), Problem> {
    let mut keys = headers.get_all(KEY).iter();
    let Some(key) = keys.next() else { return Ok(()) };
    let key = key.to_str().unwrap_or_default().trim().trim_matches('"');
    if key.is_empty() || key.len() > LONGEST || keys.next().is_some() {
        let detail = format!("Idempotency-Key is one text of 1 to {LONGEST} printable characters");
        return Err(Problem::bad_request(detail));
    }
    let own = Uuid::parse_str(key).ok().filter(|_| drafts.len() == 1);
    for (at, draft) in drafts.iter_mut().enumerate() {
        draft.uid.get_or_insert_with(|| own.unwrap_or_else(|| derived(path, key, at)));
    }
    Ok(())
}

fn derived(path: &str, key: &str, at: usize) -> Uuid {
    let digest = Sha256::digest(format!("{path}\n{key}\n{at}"));
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    Uuid::new_v8(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_address_key_or_place_is_another_event() {
        let one = derived("/events", "key", 0);
        assert_eq!(one, derived("/events", "key", 0));
        for other in [
            derived("/streams/a", "key", 0),
            derived("/events", "yek", 0),
            derived("/events", "key", 1),
        ] {
            assert_ne!(one, other);
        }
    }
}

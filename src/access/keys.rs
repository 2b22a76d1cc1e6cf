//! Keys of writers and machines: `ep_`, an id, `_`, and a secret. Only a hash of the secret is stored.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::rand::{SecureRandom, SystemRandom};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tracing::{info, warn};

pub use super::id::KeyId;
use super::{
    denied::Denied,
    kept::{Cached, MinInterval, NotFetched},
    principal::{Kind, Principal},
    rights::Rights,
};
use crate::store::{
    error::ErrorChain,
    keys::{KeyTable, KeysError, StoredKey},
};

/// The beginning of every key. It tells keys from tokens, and lets scanners find leaked keys.
pub(super) const KEY_PREFIX: &str = "ep_";
/// How often an unknown key may cause the table to be read. The key was created a moment ago, or it
/// is a guess.
const REFETCH_INTERVAL: MinInterval = MinInterval::fixed(Duration::from_millis(200));
/// The length of a secret: 256 random bits.
const SECRET_BYTES: usize = 32;

/// A new key. Its text is not stored anywhere, so it can be shown only now.
pub struct NewKey {
    /// Identifies the key. It may be shown.
    pub id: KeyId,
    /// The key itself, a secret.
    pub text: String,
    /// The SHA-256 of the secret, which is stored.
    pub hash: [u8; 32],
}

impl NewKey {
    /// Generates a random key.
    ///
    /// # Panics
    /// If the operating system has no random numbers.
    #[must_use]
    pub fn generate() -> Self {
        let (mut id, mut secret) = ([0; 8], [0; SECRET_BYTES]);
        let random = SystemRandom::new();
        random
            .fill(&mut id)
            .and_then(|()| random.fill(&mut secret))
            .expect("the system has random numbers");
        let id = KeyId(u64::from_be_bytes(id));
        let text = format!("{KEY_PREFIX}{id}_{}", URL_SAFE_NO_PAD.encode(secret));
        Self { id, text, hash: Sha256::digest(secret).into() }
    }
}

/// A key in a request.
struct PresentedKey {
    id: KeyId,
    hash: [u8; 32],
}

impl PresentedKey {
    fn parse(text: &str) -> Option<Self> {
        let (id, secret) = text.strip_prefix(KEY_PREFIX)?.split_once('_')?;
        let secret = URL_SAFE_NO_PAD.decode(secret).ok().filter(|it| it.len() == SECRET_BYTES)?;
        Some(Self { id: id.parse().ok()?, hash: Sha256::digest(secret).into() })
    }
}

/// Checks keys by the table of keys, which is cached.
#[derive(Debug)]
pub(super) struct KeyRing {
    table: KeyTable,
    cached: Cached<KeyMap>,
    failing: AtomicBool,
}

type KeyMap = HashMap<KeyId, Key>;

#[derive(Debug, PartialEq)]
struct Key {
    name: String,
    hash: [u8; 32],
    rights: Rights,
    expires: Option<SystemTime>,
}

impl KeyRing {
    pub(super) fn new(table: KeyTable) -> Self {
        Self { table, cached: Cached::new(REFETCH_INTERVAL), failing: AtomicBool::new(false) }
    }

    /// Reads the table as part of the periodic refresh.
    pub(super) async fn refresh(&self) {
        let read = self.cached.refresh(self.read()).await;
        self.log_change(read.err());
    }

    /// The principal of a key.
    pub(super) async fn check(&self, text: &str) -> Result<Principal, Denied> {
        let presented = PresentedKey::parse(text).ok_or_else(|| {
            Denied::bad(
                "malformed",
                "not a key: expected ep_..., as `event-piper keys create` printed it",
            )
        })?;
        let keys = self.keys_with(presented.id).await?;
        let key = keys.get(&presented.id);
        // The comparison takes the same time whether the key is known or not.
        let hash = key.map_or([0; 32], |key| key.hash);
        let same = bool::from(hash.ct_eq(&presented.hash));
        match key {
            Some(key) if same => key.principal(presented.id),
            _ => Err(Denied::bad("unknown-key", "the key is not known, or was revoked")),
        }
    }

    /// The cached keys, read again if this key is not among them.
    async fn keys_with(&self, id: KeyId) -> Result<Arc<KeyMap>, Denied> {
        let known = match self.cached.get() {
            Some(keys) if keys.contains_key(&id) => return Ok(keys),
            known => match self.cached.refetch_if_stale(known.as_ref(), self.read()).await {
                Ok(keys) => keys,
                Err(NotFetched::Failed(error)) => {
                    self.log_change(Some(error));
                    known
                }
                Err(NotFetched::TooSoon(_)) => None,
            },
        };
        known.ok_or_else(|| Denied::later("the keys cannot be read at present"))
    }

    /// Checks that the key of a ticket is valid. If it is not cached, the table is read again.
    pub(super) async fn check_id(&self, id: KeyId) -> Result<(), Denied> {
        if self.keys_with(id).await?.contains_key(&id) {
            return Ok(());
        }
        Err(Denied::revoked(
            "the key that the ticket was issued for has been revoked, or has expired",
        ))
    }

    /// Whether a key is among the cached ones.
    pub(super) fn is_known(&self, id: KeyId) -> bool {
        self.cached.get().is_some_and(|keys| keys.contains_key(&id))
    }

    /// Waits until a key is no longer in the table.
    pub(super) fn revoked(&self, id: KeyId) -> impl Future<Output = ()> + Send + use<> {
        self.cached.until(move |keys| !keys.contains_key(&id))
    }

    async fn read(&self) -> Result<KeyMap, KeysError> {
        Ok(self.table.current().await?.into_iter().filter_map(Key::read).collect())
    }

    /// Logs the first failure of a series, and its end.
    fn log_change(&self, error: Option<KeysError>) {
        let failing = error.is_some();
        if self.failing.swap(failing, Ordering::Relaxed) == failing {
            return;
        }
        if let Some(error) = error {
            warn!("cannot read event_piper_keys; using the cached keys: {}", ErrorChain(&error));
        } else {
            info!("event_piper_keys can be read again");
        }
    }
}

impl Key {
    /// The key of a row. `None`, after a warning, if the row cannot be parsed.
    fn read(stored: StoredKey) -> Option<(KeyId, Self)> {
        let StoredKey { id, name, hash, rights, expires, .. } = stored;
        let rights = serde_json::from_str(&rights);
        let (Ok(id), Ok(hash), Ok(rights)) = (id.parse(), hash.try_into(), rights) else {
            warn!(key.id = id, "ignoring a row of event_piper_keys that cannot be parsed");
            return None;
        };
        Some((id, Self { name, hash, rights, expires }))
    }

    fn principal(&self, id: KeyId) -> Result<Principal, Denied> {
        if self.expires.is_some_and(|expires| expires <= SystemTime::now()) {
            return Err(Denied::bad("expired", "the key has expired"));
        }
        let consumer = self.rights.read.as_ref().map_or(Some(&*self.name), |read| read.only_name());
        let consumer = consumer.and_then(|name| name.parse().ok());
        let rights = self.rights.clone();
        Ok(Principal::new(self.name.as_str(), Kind::Key(id), consumer, rights, self.expires))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_recognized_by_the_hash_of_its_secret() {
        let (one, two) = (NewKey::generate(), NewKey::generate());
        assert_ne!(one.text, two.text);
        let presented = PresentedKey::parse(&one.text).unwrap();
        assert_eq!((presented.id, presented.hash), (one.id, one.hash));
        assert_eq!(one.id.to_string().parse(), Ok(one.id));
    }

    /// The table is not necessarily read again before that.
    #[test]
    fn a_cached_key_expires_in_time() {
        let now = SystemTime::now();
        let hour = Duration::from_hours(1);
        for (expires, counts) in [(None, true), (Some(now + hour), true), (Some(now), false)] {
            let (name, rights) = ("toto".to_owned(), Rights::default());
            let key = Key { name, hash: [0; 32], rights, expires };
            assert_eq!(key.principal(KeyId(1)).is_ok(), counts, "{expires:?}");
        }
    }

    #[test]
    fn rejects_what_is_not_a_key() {
        let key = NewKey::generate().text;
        for wrong in [
            "",
            "ep_",
            "ep__",
            &key[1..],
            &key[..key.len() - 1],
            &format!("{key}A"),
            &key.replace("ep_", "ep_+"),
            &format!("ep_00_{}", "A".repeat(43)),
        ] {
            assert!(PresentedKey::parse(wrong).is_none(), "{wrong}");
        }
    }
}

//! Keys of writers and machines: `ep_`, a name, `_`, and a secret of which only a hash is kept.

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
    kept::{Floor, Kept, NotFetched},
    principal::{Kind, Principal},
    rights::Rights,
};
use crate::store::{
    error::Chain,
    keys::{KeyTable, KeysError, StoredKey},
};

/// What every key begins with: found at once where it does not belong, and no token does.
pub(super) const PREFIX: &str = "ep_";
/// A key that is not known yet is looked for in the table, at most this often: it was made a
/// moment ago, or it is a guess.
const FLOOR: Floor = Floor::fixed(Duration::from_millis(200));
/// 256 random bits.
const SECRET: usize = 32;

/// A key that was just made: the only time that it can be seen whole.
pub struct NewKey {
    /// Its name.
    pub id: KeyId,
    /// The key, for whom it is made.
    pub text: String,
    /// What is stored of it.
    pub hash: [u8; 32],
}

impl NewKey {
    /// A key that nobody can guess.
    ///
    /// # Panics
    /// When the operating system has no random numbers.
    #[must_use]
    pub fn generate() -> Self {
        let (mut id, mut secret) = ([0; 8], [0; SECRET]);
        let random = SystemRandom::new();
        random.fill(&mut id).and_then(|()| random.fill(&mut secret)).expect("there is randomness");
        let id = KeyId(u64::from_be_bytes(id));
        let text = format!("{PREFIX}{id}_{}", URL_SAFE_NO_PAD.encode(secret));
        Self { id, text, hash: Sha256::digest(secret).into() }
    }
}

/// A key as somebody shows it.
struct Shown {
    id: KeyId,
    hash: [u8; 32],
}

impl Shown {
    fn parse(text: &str) -> Option<Self> {
        let (id, secret) = text.strip_prefix(PREFIX)?.split_once('_')?;
        let secret = URL_SAFE_NO_PAD.decode(secret).ok().filter(|it| it.len() == SECRET)?;
        Some(Self { id: id.parse().ok()?, hash: Sha256::digest(secret).into() })
    }
}

/// The keys that count.
#[derive(Debug)]
pub(super) struct KeyRing {
    table: KeyTable,
    kept: Kept<Ring>,
    failing: AtomicBool,
}

type Ring = HashMap<KeyId, Key>;

#[derive(Debug, PartialEq)]
struct Key {
    name: String,
    hash: [u8; 32],
    rights: Rights,
    expires: Option<SystemTime>,
}

impl KeyRing {
    pub(super) fn new(table: KeyTable) -> Self {
        Self { table, kept: Kept::new(FLOOR), failing: AtomicBool::new(false) }
    }

    /// Reads the table again, as is done from time to time.
    pub(super) async fn renew(&self) {
        let read = self.kept.renew(self.read()).await;
        self.note(read.err());
    }

    /// Who shows this key.
    pub(super) async fn check(&self, text: &str) -> Result<Principal, Denied> {
        let shown = Shown::parse(text).ok_or_else(|| {
            Denied::bad("malformed", "that is no key: expected ep_..., as it was made")
        })?;
        let ring = self.with(shown.id).await?;
        let key = ring.get(&shown.id);
        // Compared in the same time whatever there is to compare with.
        let hash = key.map_or([0; 32], |key| key.hash);
        let same = bool::from(hash.ct_eq(&shown.hash));
        match key {
            Some(key) if same => key.principal(shown.id),
            _ => Err(Denied::bad("unknown-key", "the key is not known, or was revoked")),
        }
    }

    /// Those known, and more where this one is not among them.
    async fn with(&self, id: KeyId) -> Result<Arc<Ring>, Denied> {
        let known = match self.kept.get() {
            Some(ring) if ring.contains_key(&id) => return Ok(ring),
            known => match self.kept.beyond(known.as_ref(), self.read()).await {
                Ok(ring) => ring,
                Err(NotFetched::Failed(error)) => {
                    self.note(Some(error));
                    known
                }
                Err(NotFetched::TooSoon(_)) => None,
            },
        };
        known.ok_or_else(|| Denied::later("the keys cannot be read just now"))
    }

    /// Whether a ticket of this key is worth anything: the key may be younger than what is known.
    pub(super) async fn still_counts(&self, id: KeyId) -> Result<(), Denied> {
        if self.with(id).await?.contains_key(&id) {
            return Ok(());
        }
        Err(Denied::revoked("the key that the ticket was given for was revoked, or has expired"))
    }

    /// Whether this key counts, as far as is known.
    pub(super) fn counts(&self, id: KeyId) -> bool {
        self.kept.get().is_some_and(|ring| ring.contains_key(&id))
    }

    /// Waits until this key counts no more.
    pub(super) fn revoked(&self, id: KeyId) -> impl Future<Output = ()> + Send + use<> {
        self.kept.until(move |ring| !ring.contains_key(&id))
    }

    async fn read(&self) -> Result<Ring, KeysError> {
        Ok(self.table.current().await?.into_iter().filter_map(Key::read).collect())
    }

    /// One line when it begins, and one when it is over.
    fn note(&self, error: Option<KeysError>) {
        let failing = error.is_some();
        if self.failing.swap(failing, Ordering::Relaxed) == failing {
            return;
        }
        if let Some(error) = error {
            warn!("the keys cannot be read; those known are kept: {}", Chain(&error));
        } else {
            info!("the keys can be read again");
        }
    }
}

impl Key {
    /// A row that cannot be understood is no key.
    fn read(stored: StoredKey) -> Option<(KeyId, Self)> {
        let StoredKey { id, name, hash, rights, expires, .. } = stored;
        let rights = serde_json::from_str(&rights);
        let (Ok(id), Ok(hash), Ok(rights)) = (id.parse(), hash.try_into(), rights) else {
            warn!(key.id = id, "a row of event_piper_keys cannot be understood");
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
    fn a_key_is_known_again_by_its_hash_alone() {
        let (one, two) = (NewKey::generate(), NewKey::generate());
        assert_ne!(one.text, two.text);
        let shown = Shown::parse(&one.text).unwrap();
        assert_eq!((shown.id, shown.hash), (one.id, one.hash));
        assert_eq!(one.id.to_string().parse(), Ok(one.id));
    }

    /// The table may not be read again before that.
    #[test]
    fn a_key_ends_when_it_was_to_end() {
        let now = SystemTime::now();
        let hour = Duration::from_hours(1);
        for (expires, counts) in [(None, true), (Some(now + hour), true), (Some(now), false)] {
            let (name, rights) = ("toto".to_owned(), Rights::default());
            let key = Key { name, hash: [0; 32], rights, expires };
            assert_eq!(key.principal(KeyId(1)).is_ok(), counts, "{expires:?}");
        }
    }

    #[test]
    fn what_is_no_key_is_none() {
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
            assert!(Shown::parse(wrong).is_none(), "{wrong}");
        }
    }
}

//! The keys that an issuer signs with: from a file, a setting, or its JWKS address.

mod key_set;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use jsonwebtoken::Algorithm;
use reqwest::{Client, Url, redirect};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

pub use self::key_set::Fingerprint;
pub(super) use self::key_set::Key;
use self::key_set::KeySet;
use super::kept::{Floor, Kept, NotFetched};
use crate::{backoff::Policy, web};

/// Where an issuer's keys are.
#[derive(Clone, Debug)]
pub enum Source {
    /// At this address, as a JSON Web Key Set (RFC 7517).
    Url(Url),
    /// In this file: a public key as PEM, or a JSON Web Key or a set of them.
    File(PathBuf),
    /// A secret that the issuer shares with us.
    Secret(SecretString),
}

/// Fetches that a token's unknown `kid` causes. Anybody can make such a token, so fetches that
/// bring nothing new become rare; a token whose key was not looked for since it was shown is no bad
/// one, and its bearer is asked to come back.
const FLOOR: Floor = Floor {
    intervals: Policy::new(Duration::from_secs(1), Duration::from_secs(10)),
    patience: Duration::from_secs(2),
};
/// An issuer that is slower than this is down.
const WITHIN: Duration = Duration::from_secs(5);
/// A set of keys is a few kilobytes.
const LARGEST: usize = 256 << 10;

/// Why keys cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The issuer cannot be reached.
    #[error("asking {url} for its keys")]
    Fetch {
        /// Its JWKS address.
        url: Url,
        /// What happened.
        source: reqwest::Error,
    },
    /// The issuer answers something else.
    #[error("asking {url} for its keys: {what}")]
    Answer {
        /// Its JWKS address.
        url: Url,
        /// What is wrong about it.
        what: String,
    },
    /// The file cannot be read.
    #[error("reading the keys in {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What happened.
        source: std::io::Error,
    },
    /// There is no key in it that can be used.
    #[error("there is no public key to check signatures with in {place}")]
    None {
        /// Where they were looked for.
        place: String,
    },
    /// The issuer was asked a moment ago, and is not asked again yet.
    #[error("the issuer was asked for its keys a moment ago")]
    TooSoon,
}

impl From<NotFetched<KeysError>> for KeysError {
    fn from(not: NotFetched<Self>) -> Self {
        match not {
            NotFetched::Failed(error) => error,
            NotFetched::TooSoon(_) => Self::TooSoon,
        }
    }
}

/// Whether there is a key in this file that can be used.
pub fn check_file(path: &Path) -> Result<(), KeysError> {
    let failed = |source| KeysError::Read { path: path.to_owned(), source };
    let text = std::fs::read(path).map_err(failed)?;
    if KeySet::parse(&text).is_empty() {
        return Err(KeysError::None { place: path.display().to_string() });
    }
    Ok(())
}

/// The keys of one issuer.
#[derive(Debug)]
pub(super) struct Keys {
    source: Source,
    client: Client,
    kept: Kept<KeySet>,
}

/// A public key of an issuer's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssuerKey {
    /// Whose it is.
    pub issuer: Box<str>,
    /// Which one.
    pub print: Fingerprint,
}

impl Keys {
    pub(super) fn new(source: Source) -> Self {
        let client = web::client().timeout(WITHIN).redirect(redirect::Policy::none());
        let client = client.build().expect("these settings make a client");
        Self { source, client, kept: Kept::new(FLOOR) }
    }

    /// Fetches them, as is done from time to time: a key that the issuer has withdrawn is
    /// forgotten.
    pub(super) async fn renew(&self) -> Result<(), KeysError> {
        self.kept.renew(self.fetch()).await
    }

    /// Whether any were ever had.
    pub(super) fn are_known(&self) -> bool {
        self.kept.get().is_some()
    }

    /// The key of this name for this algorithm, asking the issuer again when there is none.
    pub(super) async fn find(
        &self,
        id: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<Option<Key>, KeysError> {
        let known = self.kept.get();
        let found = known.as_ref().and_then(|keys| keys.find(id, algorithm));
        if found.is_some() || matches!(self.source, Source::Secret(_)) && known.is_some() {
            return Ok(found);
        }
        let more = self.kept.beyond(known.as_ref(), self.fetch()).await?;
        Ok(more.and_then(|keys| keys.find(id, algorithm)))
    }

    /// Another key in the place of this one, with which a signature was wrong: the issuer may
    /// have put it there since, under the same name or under none.
    pub(super) async fn instead(
        &self,
        tried: &Key,
        id: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<Option<Key>, KeysError> {
        if tried.print.is_none() {
            return Ok(None);
        }
        let known = self.kept.get();
        let more = self.kept.beyond(known.as_ref(), self.fetch()).await?;
        let found = more.and_then(|keys| keys.find(id, algorithm));
        Ok(found.filter(|found| found.print != tried.print))
    }

    /// Whether this key is published, asking the issuer again when it is not known to be. As long
    /// as no key at all is known, nothing speaks against it.
    pub(super) async fn has(&self, print: Fingerprint) -> Result<bool, KeysError> {
        let known = self.kept.get();
        if known.as_ref().is_some_and(|keys| keys.has(print)) {
            return Ok(true);
        }
        let more = self.kept.beyond(known.as_ref(), self.fetch()).await?;
        Ok(more.is_none_or(|keys| keys.has(print)))
    }

    /// Whether this key is not known to be withdrawn.
    pub(super) fn had(&self, print: Fingerprint) -> bool {
        self.kept.get().is_none_or(|keys| keys.has(print))
    }

    /// Waits until this key is published no more.
    pub(super) fn withdrawn(&self, print: Fingerprint) -> impl Future<Output = ()> + Send + use<> {
        self.kept.until(move |keys| !keys.has(print))
    }

    async fn fetch(&self) -> Result<KeySet, KeysError> {
        let (text, place) = match &self.source {
            Source::Secret(secret) => return Ok(KeySet::of_secret(secret)),
            Source::Url(url) => (self.download(url).await?, url.to_string()),
            Source::File(path) => {
                let text = tokio::fs::read(path).await;
                let failed = |source| KeysError::Read { path: path.clone(), source };
                (text.map_err(failed)?, path.display().to_string())
            }
        };
        let keys = KeySet::parse(&text);
        if keys.is_empty() { Err(KeysError::None { place }) } else { Ok(keys) }
    }

    async fn download(&self, url: &Url) -> Result<Vec<u8>, KeysError> {
        let failed = |source: reqwest::Error| KeysError::Fetch {
            url: url.clone(),
            source: source.without_url(),
        };
        let wrong = |what: String| KeysError::Answer { url: url.clone(), what };
        let mut answer = self.client.get(url.clone()).send().await.map_err(failed)?;
        if answer.status() != reqwest::StatusCode::OK {
            return Err(wrong(format!("it answers {}", answer.status())));
        }
        let mut text = Vec::new();
        while let Some(part) = answer.chunk().await.map_err(failed)? {
            text.extend_from_slice(&part);
            if text.len() > LARGEST {
                return Err(wrong(format!("the answer is longer than {LARGEST} bytes")));
            }
        }
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use axum::{Router, http::StatusCode, response::Redirect, routing::get};
    use tokio::net::TcpListener;

    use super::*;

    const SET: &str = r#"{"keys": [{"kty": "RSA", "kid": "a", "n": "AQAB", "e": "AQAB"}]}"#;

    #[tokio::test]
    async fn only_a_whole_set_of_keys_from_the_address_itself_takes_the_place_of_what_is_known() {
        let long = |more| SET.to_owned() + &" ".repeat(LARGEST - SET.len() + more);
        let router = Router::new()
            .route("/keys", get(async || SET))
            .route("/longest", get(async move || long(0)))
            .route("/too-long", get(async move || long(1)))
            .route("/moved", get(async || Redirect::temporary("/keys")))
            .route("/made", get(async || (StatusCode::CREATED, SET)))
            .route("/emptied", get(async || r#"{"keys": []}"#));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(axum::serve(listener, router).into_future());
        for (path, counts) in [
            ("keys", true),
            ("longest", true),
            ("too-long", false),
            ("moved", false),
            ("made", false),
            ("emptied", false),
            ("nowhere", false),
        ] {
            let keys = Keys::new(Source::Url(format!("http://{address}/{path}").parse().unwrap()));
            assert_eq!(keys.renew().await.is_ok(), counts, "{path}");
            assert_eq!(keys.are_known(), counts, "{path}");
        }
        serving.abort();
    }
}

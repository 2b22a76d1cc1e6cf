//! The keys of an issuer of tokens: from its JWKS address, from a file, or a shared secret.

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
use super::kept::{Cached, MinInterval, NotFetched};
use crate::{backoff::Policy, web};

/// Where the keys of an issuer are.
#[derive(Clone, Debug)]
pub enum Source {
    /// At this address, as a JSON Web Key Set (RFC 7517, JWKS).
    Url(Url),
    /// In this file: a public key as PEM, a JSON Web Key, or a set of these.
    File(PathBuf),
    /// A secret that the issuer shares with this program.
    Secret(SecretString),
}

/// The interval of fetches that tokens with an unknown `kid` cause. Anyone can send such tokens, so
/// fetches that change nothing become rare. Until the key of a token was looked for, the token is not
/// bad, and the client is asked to try again.
const REFETCH_INTERVAL: MinInterval = MinInterval {
    intervals: Policy::new(Duration::from_secs(1), Duration::from_secs(10)),
    max_wait: Duration::from_secs(2),
};
/// An issuer that takes longer to answer counts as down.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// The largest accepted answer. A set of keys has a few kilobytes.
const MAX_ANSWER_BYTES: usize = 256 << 10;

/// Why keys are not available.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The issuer cannot be reached.
    #[error("fetching the keys from {url}")]
    Fetch {
        /// Its JWKS address.
        url: Url,
        /// The cause.
        source: reqwest::Error,
    },
    /// The answer of the issuer is not a set of keys.
    #[error("fetching the keys from {url}: {what}")]
    Answer {
        /// Its JWKS address.
        url: Url,
        /// What is wrong with it.
        what: String,
    },
    /// The file cannot be read.
    #[error("reading the keys in {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// None of the keys can verify signatures.
    #[error("{place} contains no public key that can verify signatures")]
    None {
        /// The address or the path.
        place: String,
    },
    /// The last fetch was too recent for another one.
    #[error("the issuer's keys were fetched a moment ago")]
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

/// Checks that a file contains a usable key.
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
    cached: Cached<KeySet>,
}

/// A public key of an issuer, as principals and tickets refer to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssuerKey {
    /// The name of the issuer.
    pub issuer: Box<str>,
    /// Identifies the key among the keys of the issuer.
    pub print: Fingerprint,
}

impl Keys {
    pub(super) fn new(source: Source) -> Self {
        let client = web::client().timeout(FETCH_TIMEOUT).redirect(redirect::Policy::none());
        let client = client.build().expect("these settings make a client");
        Self { source, client, cached: Cached::new(REFETCH_INTERVAL) }
    }

    /// Fetches the keys as part of the periodic refresh. Keys that the issuer has withdrawn are dropped.
    pub(super) async fn refresh(&self) -> Result<(), KeysError> {
        self.cached.refresh(self.fetch()).await
    }

    /// Whether keys were ever fetched.
    pub(super) fn are_known(&self) -> bool {
        self.cached.get().is_some()
    }

    /// The key with this id (`kid`) for this algorithm. If it is unknown, the keys are fetched again.
    pub(super) async fn find(
        &self,
        id: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<Option<Key>, KeysError> {
        let known = self.cached.get();
        let found = known.as_ref().and_then(|keys| keys.find(id, algorithm));
        if found.is_some() || matches!(self.source, Source::Secret(_)) && known.is_some() {
            return Ok(found);
        }
        let more = self.cached.refetch_if_stale(known.as_ref(), self.fetch()).await?;
        Ok(more.and_then(|keys| keys.find(id, algorithm)))
    }

    /// The key that has replaced a key with which a signature was wrong. The issuer may have replaced
    /// it under the same id, or without an id.
    pub(super) async fn find_replacement(
        &self,
        tried: &Key,
        id: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<Option<Key>, KeysError> {
        if tried.print.is_none() {
            return Ok(None);
        }
        let known = self.cached.get();
        let more = self.cached.refetch_if_stale(known.as_ref(), self.fetch()).await?;
        let found = more.and_then(|keys| keys.find(id, algorithm));
        Ok(found.filter(|found| found.print != tried.print))
    }

    /// Whether the issuer publishes this key. If it is unknown, the keys are fetched again. While no
    /// keys were ever fetched, a key counts as published.
    pub(super) async fn is_published(&self, print: Fingerprint) -> Result<bool, KeysError> {
        let known = self.cached.get();
        if known.as_ref().is_some_and(|keys| keys.has(print)) {
            return Ok(true);
        }
        let more = self.cached.refetch_if_stale(known.as_ref(), self.fetch()).await?;
        Ok(more.is_none_or(|keys| keys.has(print)))
    }

    /// Like [`is_published`](Self::is_published), by the keys that are cached.
    pub(super) fn was_published(&self, print: Fingerprint) -> bool {
        self.cached.get().is_none_or(|keys| keys.has(print))
    }

    /// Waits until the issuer no longer publishes this key.
    pub(super) fn withdrawn(&self, print: Fingerprint) -> impl Future<Output = ()> + Send + use<> {
        self.cached.until(move |keys| !keys.has(print))
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
            return Err(wrong(format!("the status of the answer is {}", answer.status())));
        }
        let mut text = Vec::new();
        while let Some(part) = answer.chunk().await.map_err(failed)? {
            text.extend_from_slice(&part);
            if text.len() > MAX_ANSWER_BYTES {
                return Err(wrong(format!("the answer is longer than {MAX_ANSWER_BYTES} bytes")));
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
    async fn accepts_only_a_whole_set_from_the_address_itself() {
        let long = |more| SET.to_owned() + &" ".repeat(MAX_ANSWER_BYTES - SET.len() + more);
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
            assert_eq!(keys.refresh().await.is_ok(), counts, "{path}");
            assert_eq!(keys.are_known(), counts, "{path}");
        }
        serving.abort();
    }
}

//! The description of an issuer of tokens, in settings or in a file with several issuers.

use std::{fs, path::PathBuf, time::Duration};

use jsonwebtoken::Algorithm;
use reqwest::Url;
use secrecy::SecretString;
use serde::Deserialize;

use super::value::secret;
use crate::{
    access::{
        jwks::{self, Source},
        token::Issuer,
    },
    config::value::Expected,
    store::error::ErrorChain,
};

type Parsed<T> = Result<T, Expected>;

/// An issuer as it is described, not checked yet.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(in crate::config) struct Written {
    pub(super) issuer: String,
    pub(super) audience: Vec<String>,
    pub(super) algorithms: Vec<String>,
    pub(super) jwks_url: Option<String>,
    pub(super) key_file: Option<PathBuf>,
    pub(super) secret_file: Option<PathBuf>,
    #[serde(skip)]
    pub(super) secret: Option<SecretString>,
    pub(super) consumer_claim: Option<String>,
    pub(super) rights_claim: Option<String>,
    #[serde(skip)]
    pub(super) places: Places,
}

/// The places where settings of an issuer were given, each with a colon, for errors that are found when
/// the settings are combined. Empty for issuers in a file.
#[derive(Default)]
pub(super) struct Places {
    pub(super) algorithms: String,
    pub(super) jwks_url: String,
    pub(super) key_file: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Several {
    #[serde(rename = "issuer")]
    issuers: Vec<Written>,
}

pub(in crate::config) fn several(path: &str) -> Parsed<Vec<Written>> {
    let text = fs::read_to_string(path).map_err(|e| format!("a file that can be read ({e})"))?;
    // Only the message: the excerpt of the file may contain a secret.
    let several: Result<Several, _> = toml::from_str(&text);
    Ok(several.map_err(|e| format!("a TOML file of [[issuer]] tables ({})", e.message()))?.issuers)
}

impl Written {
    pub(super) fn finish(self, claims: &(String, String, Duration)) -> Parsed<Issuer> {
        let name = self.issuer.clone();
        if name.is_empty() {
            return Err(
                "an issuer has no name: expected issuer = \"...\", the value of the claim iss"
                    .into(),
            );
        }
        if self.audience.is_empty() {
            return Err(format!(
                "the issuer {name:?} has no audience: expected the audience that its tokens must have"
            ));
        }
        let (consumer, rights, leeway) = claims;
        let consumer_claim = self.consumer_claim.clone().unwrap_or_else(|| consumer.clone());
        let rights_claim = self.rights_claim.clone().unwrap_or_else(|| rights.clone());
        let audience = self.audience.clone();
        let (given, place) = (self.algorithms.clone(), self.places.algorithms.clone());
        let keys = self.source()?;
        let algorithms = algorithms(&given, &keys).map_err(|wrong| format!("{place}{wrong}"))?;
        Ok(Issuer {
            name,
            audience,
            algorithms,
            keys,
            consumer_claim,
            rights_claim,
            leeway: *leeway,
        })
    }

    fn source(self) -> Parsed<Source> {
        let secret = match self.secret_file {
            Some(path) => Some(secret(
                &fs::read_to_string(&path)
                    .map_err(|e| format!("cannot read the file {} ({e})", path.display()))?,
            )?),
            None => self.secret,
        };
        match (self.jwks_url, self.key_file, secret) {
            (Some(url), None, None) => self::url(&url)
                .map(Source::Url)
                .map_err(|wrong| format!("{}{wrong}", self.places.jwks_url)),
            (None, Some(path), None) => jwks::check_file(&path)
                .map(|()| Source::File(path))
                .map_err(|error| format!("{}{}", self.places.key_file, ErrorChain(&error))),
            (None, None, Some(secret)) => Ok(Source::Secret(secret)),
            (None, None, None) => Err(format!(
                "the issuer {:?} has no keys: expected one of jwks-url, key-file, secret-file",
                self.issuer
            )),
            _ => Err(format!(
                "the issuer {:?} has several sources of keys: expected one of jwks-url, key-file, secret-file",
                self.issuer
            )),
        }
    }
}

/// The algorithms of an issuer. A shared secret is for HMAC only, and a public key is never for HMAC:
/// otherwise anyone could sign tokens with it.
fn algorithms(given: &[String], keys: &Source) -> Parsed<Vec<Algorithm>> {
    let is_secret = matches!(keys, Source::Secret(_));
    let fitting = |algorithm: &Algorithm| {
        is_secret == matches!(algorithm, Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512)
    };
    if given.is_empty() {
        let usual = [Algorithm::HS256, Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA];
        return Ok(usual.into_iter().filter(fitting).collect());
    }
    let parse = |name: &String| {
        let algorithm = name.parse::<Algorithm>().ok().filter(fitting);
        algorithm.ok_or_else(|| {
            let expected = if is_secret {
                "HS256, HS384, HS512"
            } else {
                "RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA"
            };
            format!(
                "{name:?} is not an algorithm for these keys: expected one or several of {expected}"
            )
        })
    };
    given.iter().map(parse).collect()
}

fn url(text: &str) -> Parsed<Url> {
    let url = text.parse::<Url>().ok();
    let url = url.filter(|it| ["http", "https"].contains(&it.scheme()) && it.has_host());
    // Published keys need no password, and the address appears in the log.
    let url = url.filter(|it| it.username().is_empty() && it.password().is_none());
    url.ok_or_else(|| {
        "the URL of the keys is wrong: expected one such as https://issuer.example/jwks.json, without a \
         password in it"
            .into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::value::tests::check;

    #[test]
    fn the_jwks_url_contains_no_secret() {
        check(
            url,
            &["https://i.example/jwks.json", "http://[::1]:80/"],
            &[
                "i.example",
                "file:///etc/keys",
                "https://u@i.example/",
                "https://:hunter2@i.example/",
            ],
        );
    }
}

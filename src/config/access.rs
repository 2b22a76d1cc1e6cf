//! The settings of who may do what.

use std::{collections::HashSet, fs, num::NonZeroU32, path::PathBuf, time::Duration};

use jsonwebtoken::Algorithm;
use reqwest::Url;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use super::{
    settings,
    value::{self, Expected},
    values::{Values, trimmed},
};
use crate::{
    access::{
        Limits, Modes, Settings,
        hosts::Hosts,
        jwks::{self, Source},
        networks::Networks,
        rights::{Rights, what_is_wrong},
        token::Issuer,
    },
    http::Place,
    nearest::did_you_mean,
    store::error::Chain,
};

type Parsed<T> = Result<T, Expected>;

/// A shorter secret can be found by trying.
const SHORTEST_SECRET: usize = 16;
/// A certificate's clock is not further off than this.
const LONGEST_LEEWAY: Duration = Duration::from_mins(5);

/// Everything about who may do what, at a gateway that listens there.
pub(super) fn settings(from: &mut Values, listen: &Place, origins: &[String]) -> Settings {
    let given = from.optional(&settings::AUTH);
    let modes = modes_at(listen, given, from);
    let issuers = issuers(from, modes);
    Settings {
        modes,
        issuers,
        trusted_proxies: from.setting(&settings::TRUSTED_PROXIES),
        header_rights: from.setting(&settings::HEADER_RIGHTS),
        metrics_from: from.setting(&settings::METRICS_FROM),
        cookie: from.optional(&settings::JWT_COOKIE),
        origins: origins.to_vec(),
        ticket_keys: from.optional(&settings::TICKET_KEY).unwrap_or_default(),
        refresh: from.setting(&settings::JWT_REFRESH),
        hosts: from.setting(&settings::ALLOWED_HOSTS),
        limits: Limits {
            streams: from.setting(&settings::MAX_STREAMS_PER_PRINCIPAL),
            requests: from.setting(&settings::MAX_REQUESTS_PER_PRINCIPAL),
            appends: from.setting(&settings::MAX_APPENDS_PER_PRINCIPAL),
            append_bytes: from.setting(&settings::MAX_APPEND_BYTES_PER_PRINCIPAL),
        },
    }
}

/// What `--auth` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chosen {
    pub(super) modes: Modes,
    /// Open on every address.
    anywhere: bool,
}

pub(super) const OPEN: Chosen = Chosen { modes: Modes::OPEN, anywhere: false };

/// Open is for this machine; anything wider is somebody's explicit choice.
fn modes_at(listen: &Place, given: Option<Chosen>, from: &mut Values) -> Modes {
    match given {
        Some(chosen) if chosen == OPEN && !listen.is_local() => from.wrong(format!(
            "--auth open: is for loopback addresses only, and --listen is {listen}: expected some \
             of trusted-header, jwt, keys, or open-anywhere where something else sees to it that \
             only this machine reaches that address"
        )),
        None if !listen.is_local() => from.wrong(format!(
            "--listen {listen}: reachable from other machines, so say who is believed: expected \
             --auth trusted-header (something in front authenticates callers and sets \
             X-Consumer-Id), jwt (tokens), keys (keys of our own), or a loopback address"
        )),
        _ => {}
    }
    given.map_or(Modes::OPEN, |chosen| chosen.modes)
}

/// One issuer as it is written down: in settings of its own, or in a file of several.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(super) struct Written {
    issuer: String,
    audience: Vec<String>,
    algorithms: Vec<String>,
    jwks_url: Option<String>,
    key_file: Option<PathBuf>,
    secret_file: Option<PathBuf>,
    #[serde(skip)]
    secret: Option<SecretString>,
    consumer_claim: Option<String>,
    rights_claim: Option<String>,
    #[serde(skip)]
    places: Places,
}

/// Where the settings of the one issuer are given, with a colon, for what is found wrong when they
/// are taken together; empty in a file of several.
#[derive(Default)]
struct Places {
    algorithms: String,
    jwks_url: String,
    key_file: String,
}

impl Places {
    fn of(from: &Values) -> Self {
        let place = |key| from.place_of(key).map(|it| format!("{it}: ")).unwrap_or_default();
        Self {
            algorithms: place(&settings::JWT_ALGORITHMS.key),
            jwks_url: place(&settings::JWT_JWKS_URL.key),
            key_file: place(&settings::JWT_KEY_FILE.key),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Several {
    #[serde(rename = "issuer")]
    issuers: Vec<Written>,
}

fn issuers(from: &mut Values, modes: Modes) -> Vec<Issuer> {
    let one = one(from);
    let several = from.optional(&settings::JWT_ISSUERS_FILE).unwrap_or_default();
    let claims = (
        from.setting(&settings::JWT_CONSUMER_CLAIM),
        from.setting(&settings::JWT_RIGHTS_CLAIM),
        from.setting(&settings::JWT_LEEWAY),
    );
    if !modes.jwt {
        return Vec::new();
    }
    let written = one.map(|one| ("--jwt-issuer", one)).into_iter();
    let written = written.chain(several.into_iter().map(|it| ("--jwt-issuers-file", it)));
    let issuers: Vec<_> = written
        .filter_map(|(place, written)| {
            let issuer = written.finish(&claims);
            issuer.map_err(|wrong| from.wrong(format!("{place}: {wrong}"))).ok()
        })
        .collect();
    let mut names = HashSet::new();
    if let Some(twice) = issuers.iter().find(|issuer| !names.insert(&issuer.name)) {
        from.wrong(format!("--jwt-issuers-file: the issuer {:?} is there twice", twice.name));
    }
    if issuers.is_empty() {
        from.wrong(
            "--auth jwt: says that tokens are believed, but not whose: expected --jwt-issuer, \
             --jwt-audience, and one of --jwt-jwks-url, --jwt-key-file, --jwt-secret-file"
                .into(),
        );
    }
    issuers
}

fn one(from: &mut Values) -> Option<Written> {
    let places = Places::of(from);
    let issuer = from.optional(&settings::JWT_ISSUER);
    let audience = from.optional(&settings::JWT_AUDIENCE);
    let algorithms = from.optional(&settings::JWT_ALGORITHMS);
    let jwks_url = from.optional(&settings::JWT_JWKS_URL);
    let key_file = from.optional(&settings::JWT_KEY_FILE);
    let secret = from.optional(&settings::JWT_SECRET);
    // What is given without the issuer is complained of where the settings are looked at together.
    Some(Written {
        issuer: issuer?,
        audience: audience.unwrap_or_default(),
        algorithms: algorithms.unwrap_or_default(),
        jwks_url,
        key_file,
        secret,
        places,
        ..Written::default()
    })
}

pub(super) fn several(path: &str) -> Parsed<Vec<Written>> {
    let text = fs::read_to_string(path).map_err(|e| format!("a file that can be read ({e})"))?;
    // The message alone: what stands around it is nobody's business.
    let several: Result<Several, _> = toml::from_str(&text);
    Ok(several.map_err(|e| format!("a TOML file of [[issuer]] tables ({})", e.message()))?.issuers)
}

impl Written {
    fn finish(self, claims: &(String, String, Duration)) -> Parsed<Issuer> {
        let name = self.issuer.clone();
        if name.is_empty() {
            return Err(
                "an issuer has no name: expected issuer = \"...\", as in the claim iss".into()
            );
        }
        if self.audience.is_empty() {
            return Err(format!(
                "the tokens of {name:?} may be for anybody: expected whom they must be for (audience)"
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
                    .map_err(|e| format!("the file {} cannot be read ({e})", path.display()))?,
            )?),
            None => self.secret,
        };
        match (self.jwks_url, self.key_file, secret) {
            (Some(url), None, None) => self::url(&url)
                .map(Source::Url)
                .map_err(|wrong| format!("{}{wrong}", self.places.jwks_url)),
            (None, Some(path), None) => jwks::check_file(&path)
                .map(|()| Source::File(path))
                .map_err(|error| format!("{}{}", self.places.key_file, Chain(&error))),
            (None, None, Some(secret)) => Ok(Source::Secret(secret)),
            (None, None, None) => Err(format!(
                "the keys of {:?} are nowhere: expected one of jwks-url, key-file, secret-file",
                self.issuer
            )),
            _ => Err(format!(
                "the keys of {:?} are in several places: expected one of jwks-url, key-file, secret-file",
                self.issuer
            )),
        }
    }
}

/// A secret is for HMAC alone, and a public key never: else anybody could sign with it.
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
            format!("{name:?} is no algorithm for these keys: expected some of {expected}")
        })
    };
    given.iter().map(parse).collect()
}

pub(super) fn modes(text: &str) -> Parsed<Chosen> {
    let expected = |meant: String| {
        format!(
            "open, open-anywhere, or some of trusted-header, jwt, keys, separated by commas{meant}"
        )
    };
    match text {
        "open" => return Ok(OPEN),
        "open-anywhere" => return Ok(Chosen { anywhere: true, ..OPEN }),
        _ => {}
    }
    let mut modes = Modes::OPEN;
    for mode in text.split(',').map(str::trim) {
        match mode {
            "trusted-header" => modes.trusted_header = true,
            "jwt" => modes.jwt = true,
            "keys" => modes.keys = true,
            other => {
                let known = ["open", "open-anywhere", "trusted-header", "jwt", "keys"];
                return Err(expected(did_you_mean(other, known)));
            }
        }
    }
    Ok(Chosen { modes, anywhere: false })
}

pub(super) fn networks(text: &str) -> Parsed<Networks> {
    text.parse().map_err(|()| {
        "addresses and networks separated by commas, such as 10.0.0.7 or 10.1.0.0/16".into()
    })
}

pub(super) fn hosts(text: &str) -> Parsed<Hosts> {
    text.parse().map_err(|()| {
        "names without a port, separated by commas, such as events.test or 192.168.1.7".into()
    })
}

/// More often would be an attack on the issuer, and less often no protection.
pub(super) fn refresh(text: &str) -> Parsed<Duration> {
    let bounds = Duration::from_secs(1)..=Duration::from_hours(24);
    let refresh = value::duration(text).ok().filter(|it| bounds.contains(it));
    refresh.ok_or_else(|| "a duration from 1s to 1day, such as 5m".into())
}

pub(super) fn rights(text: &str) -> Parsed<Rights> {
    serde_json::from_str(text).map_err(|e| {
        format!(r#"rights such as {{"write": ["shop-*"], "all": true}} ({})"#, what_is_wrong(&e))
    })
}

pub(super) fn list(text: &str) -> Parsed<Vec<String>> {
    let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
    let names: Vec<_> = names.map(ToOwned::to_owned).collect();
    if names.is_empty() { Err("names separated by commas".into()) } else { Ok(names) }
}

pub(super) fn name(text: &str) -> Parsed<String> {
    if text.trim().is_empty() { Err("a name".into()) } else { Ok(text.to_owned()) }
}

/// What a cookie may be called (RFC 6265, section 4.1.1).
pub(super) fn cookie(text: &str) -> Parsed<String> {
    let fine = |byte: u8| byte.is_ascii_graphic() && !b"()<>@,;:\\\"/[]?={}".contains(&byte);
    let named = !text.is_empty() && text.bytes().all(fine);
    if named { Ok(text.to_owned()) } else { Err("a cookie's name, such as token".into()) }
}

pub(super) fn leeway(text: &str) -> Parsed<Duration> {
    let short = value::duration(text).ok().filter(|it| *it <= LONGEST_LEEWAY);
    short.ok_or_else(|| format!("a duration of at most {LONGEST_LEEWAY:?}, such as 5s"))
}

fn url(text: &str) -> Parsed<Url> {
    let url = text.parse::<Url>().ok();
    let url = url.filter(|it| ["http", "https"].contains(&it.scheme()) && it.has_host());
    // What is published needs no password, and this address is written into the log.
    let url = url.filter(|it| it.username().is_empty() && it.password().is_none());
    url.ok_or_else(|| {
        "the keys' address is wrong: expected one such as https://issuer.example/jwks.json, without a \
         password in it"
            .into()
    })
}

pub(super) fn secret(text: &str) -> Parsed<SecretString> {
    let secret = SecretString::from(trimmed(text));
    if secret.expose_secret().len() < SHORTEST_SECRET {
        return Err(format!(
            "a secret of at least {SHORTEST_SECRET} bytes, better 32, such as openssl rand -base64 32 makes"
        ));
    }
    Ok(secret)
}

pub(super) fn ticket_keys(text: &str) -> Parsed<Vec<SecretString>> {
    text.lines().filter(|line| !line.trim().is_empty()).map(secret).collect()
}

/// A second's worth may come at once, and the largest event has to find room in it.
pub(super) fn byte_rate(text: &str) -> Parsed<NonZeroU32> {
    let bytes = value::size(text)?.min(u32::MAX as usize);
    let bytes = u32::try_from(bytes).ok().and_then(NonZeroU32::new);
    bytes.ok_or_else(|| "a size for a second, such as 32MiB".into())
}

pub(super) fn rate(text: &str) -> Parsed<NonZeroU32> {
    text.parse().map_err(|_| "a number from 1".into())
}

#[cfg(test)]
mod tests {
    use super::{super::value::tests::check, *};

    #[test]
    fn what_is_just_within_its_bounds_is_taken_and_nothing_beyond() {
        let (just, short) = ("x".repeat(SHORTEST_SECRET), "x".repeat(SHORTEST_SECRET - 1));
        check(secret, &[&just], &[&short, &format!(" {short} "), ""]);
        check(ticket_keys, &[&format!("{just}\n\n{just}\n")], &[&format!("{just}\n{short}")]);
        check(leeway, &["0s", "5m"], &["5m 1s", "-1s"]);
        check(refresh, &["1s", "1day"], &["999ms", "0s", "1day 1s"]);
        check(rate, &["1", "4294967295"], &["0", "-1", "4294967296"]);
    }

    #[test]
    fn the_keys_address_is_one_that_may_be_written_into_the_log() {
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

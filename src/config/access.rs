//! Builds the settings of access control.

pub(super) mod issuer;
pub(super) mod value;

use std::collections::HashSet;

use self::{
    issuer::{Places, Written},
    value::{Chosen, OPEN},
};
use super::{settings, values::Values};
use crate::{
    access::{Limits, Modes, Settings, token::Issuer},
    http::ListenAddress,
};

/// Builds the settings of access control for a gateway at this address.
pub(super) fn settings(from: &mut Values, listen: &ListenAddress, origins: &[String]) -> Settings {
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

/// The accepted kinds of credentials. The open mode is only for loopback addresses and Unix sockets,
/// unless it is chosen explicitly for all.
fn modes_at(listen: &ListenAddress, given: Option<Chosen>, from: &mut Values) -> Modes {
    match given {
        Some(chosen) if chosen == OPEN && !listen.is_local() => from.wrong(format!(
            "--auth open: is allowed on loopback addresses only, and --listen is {listen}: expected one or \
             several of trusted-header, jwt, keys, or open-anywhere if something else ensures that \
             only this machine reaches that address"
        )),
        None if !listen.is_local() => from.wrong(format!(
            "--listen {listen}: other machines can reach this address, so --auth is required: expected \
             trusted-header (a proxy authenticates callers and sets X-Consumer-Id), jwt (tokens of \
             an issuer), keys (API keys of EventPiper), or a loopback address"
        )),
        _ => {}
    }
    given.map_or(Modes::OPEN, |chosen| chosen.modes)
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
        from.wrong(format!("--jwt-issuers-file: the issuer {:?} is defined twice", twice.name));
    }
    if issuers.is_empty() {
        from.wrong(
            "--auth jwt: no issuer is configured: expected --jwt-issuer, --jwt-audience, and one of \
              --jwt-jwks-url, --jwt-key-file, --jwt-secret-file"
                .into(),
        );
    }
    issuers
}

fn one(from: &mut Values) -> Option<Written> {
    let places = places(from);
    let issuer = from.optional(&settings::JWT_ISSUER);
    let audience = from.optional(&settings::JWT_AUDIENCE);
    let algorithms = from.optional(&settings::JWT_ALGORITHMS);
    let jwks_url = from.optional(&settings::JWT_JWKS_URL);
    let key_file = from.optional(&settings::JWT_KEY_FILE);
    let secret = from.optional(&settings::JWT_SECRET);
    // `belonging` reports settings that are given without --jwt-issuer.
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

/// The places for error messages, with a colon.
fn places(from: &Values) -> Places {
    let place = |key| from.place_of(key).map(|it| format!("{it}: ")).unwrap_or_default();
    Places {
        algorithms: place(&settings::JWT_ALGORITHMS.key),
        jwks_url: place(&settings::JWT_JWKS_URL.key),
        key_file: place(&settings::JWT_KEY_FILE.key),
    }
}

//! Parsers of the values of access control. An error completes the sentence "expected ...".

use std::{num::NonZeroU32, time::Duration};

use secrecy::{ExposeSecret, SecretString};

use crate::{
    access::{
        Modes,
        hosts::Hosts,
        networks::Networks,
        rights::{Rights, what_is_wrong},
    },
    config::{
        value::{self, Expected},
        values::trimmed,
    },
    nearest::did_you_mean,
};

type Parsed<T> = Result<T, Expected>;

/// The minimum length of a secret in bytes. A shorter one could be guessed.
const SHORTEST_SECRET: usize = 16;
/// The largest accepted difference between the clocks of an issuer and of this machine.
const LONGEST_LEEWAY: Duration = Duration::from_mins(5);

/// The value of `--auth`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::config) struct Chosen {
    pub(in crate::config) modes: Modes,
    /// Whether the open mode applies to every address.
    anywhere: bool,
}

pub(in crate::config) const OPEN: Chosen = Chosen { modes: Modes::OPEN, anywhere: false };

pub(in crate::config) fn modes(text: &str) -> Parsed<Chosen> {
    let expected = |meant: String| {
        format!(
            "open, open-anywhere, or one or several of trusted-header, jwt, keys, separated by commas{meant}"
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

pub(in crate::config) fn networks(text: &str) -> Parsed<Networks> {
    text.parse().map_err(|()| {
        "addresses and networks separated by commas, such as 10.0.0.7 or 10.1.0.0/16".into()
    })
}

pub(in crate::config) fn hosts(text: &str) -> Parsed<Hosts> {
    text.parse().map_err(|()| {
        "names without a port, separated by commas, such as events.test or 192.168.1.7".into()
    })
}

/// The refresh interval of keys. A shorter one would overload the issuer, and a longer one would trust
/// withdrawn keys for too long.
pub(in crate::config) fn refresh(text: &str) -> Parsed<Duration> {
    let bounds = Duration::from_secs(1)..=Duration::from_hours(24);
    let refresh = value::duration(text).ok().filter(|it| bounds.contains(it));
    refresh.ok_or_else(|| "a duration from 1s to 1day, such as 5m".into())
}

pub(in crate::config) fn rights(text: &str) -> Parsed<Rights> {
    serde_json::from_str(text).map_err(|e| {
        format!(r#"rights such as {{"write": ["shop-*"], "all": true}} ({})"#, what_is_wrong(&e))
    })
}

pub(in crate::config) fn list(text: &str) -> Parsed<Vec<String>> {
    let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
    let names: Vec<_> = names.map(ToOwned::to_owned).collect();
    if names.is_empty() { Err("names separated by commas".into()) } else { Ok(names) }
}

pub(in crate::config) fn name(text: &str) -> Parsed<String> {
    if text.trim().is_empty() { Err("a name".into()) } else { Ok(text.to_owned()) }
}

/// The name of a cookie (RFC 6265, section 4.1.1).
pub(in crate::config) fn cookie(text: &str) -> Parsed<String> {
    let fine = |byte: u8| byte.is_ascii_graphic() && !b"()<>@,;:\\\"/[]?={}".contains(&byte);
    let named = !text.is_empty() && text.bytes().all(fine);
    if named { Ok(text.to_owned()) } else { Err("a cookie's name, such as token".into()) }
}

pub(in crate::config) fn leeway(text: &str) -> Parsed<Duration> {
    let short = value::duration(text).ok().filter(|it| *it <= LONGEST_LEEWAY);
    short.ok_or_else(|| format!("a duration of at most {LONGEST_LEEWAY:?}, such as 5s"))
}

pub(in crate::config) fn secret(text: &str) -> Parsed<SecretString> {
    let secret = SecretString::from(trimmed(text));
    if secret.expose_secret().len() < SHORTEST_SECRET {
        return Err(format!(
            "a secret of at least {SHORTEST_SECRET} bytes, preferably 32, for instance from openssl rand -base64 32"
        ));
    }
    Ok(secret)
}

pub(in crate::config) fn ticket_keys(text: &str) -> Parsed<Vec<SecretString>> {
    text.lines().filter(|line| !line.trim().is_empty()).map(secret).collect()
}

/// A number of bytes per second. The bytes of one second may come in a burst, which must have room for
/// the largest event.
pub(in crate::config) fn byte_rate(text: &str) -> Parsed<NonZeroU32> {
    let bytes = value::size(text)?.min(u32::MAX as usize);
    let bytes = u32::try_from(bytes).ok().and_then(NonZeroU32::new);
    bytes.ok_or_else(|| "a size per second, such as 32MiB".into())
}

pub(in crate::config) fn rate(text: &str) -> Parsed<NonZeroU32> {
    text.parse().map_err(|_| "a number from 1".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::value::tests::check;

    #[test]
    fn values_have_bounds() {
        let (just, short) = ("x".repeat(SHORTEST_SECRET), "x".repeat(SHORTEST_SECRET - 1));
        check(secret, &[&just], &[&short, &format!(" {short} "), ""]);
        check(ticket_keys, &[&format!("{just}\n\n{just}\n")], &[&format!("{just}\n{short}")]);
        check(leeway, &["0s", "5m"], &["5m 1s", "-1s"]);
        check(refresh, &["1s", "1day"], &["999ms", "0s", "1day 1s"]);
        check(rate, &["1", "4294967295"], &["0", "-1", "4294967296"]);
    }
}

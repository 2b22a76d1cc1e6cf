//! Parsers of the values of an aggregator's settings. An error completes the sentence "expected ...".

use std::path::PathBuf;

use reqwest::Url;
use secrecy::SecretString;

use crate::{
    config::value::Expected,
    pump::{CatchUp, OnRefusal, fields::Fields, resume::Start, sign::SigningKey},
};

pub(super) fn base(text: &str) -> Result<Url, Expected> {
    let url: Option<Url> = text.parse().ok();
    let plain = |url: &Url| {
        url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none()
    };
    let is_http = |url: &Url| url.has_host() && ["http", "https"].contains(&url.scheme());
    url.filter(|url| plain(url) && is_http(url))
        .ok_or_else(|| "a URL such as http://host:8080/, with no user, query or fragment".into())
}

#[expect(clippy::unnecessary_wraps, reason = "all parsers have the same type")]
pub(super) fn text(text: &str) -> Result<String, Expected> {
    Ok(text.to_owned())
}

#[expect(clippy::unnecessary_wraps, reason = "all parsers have the same type")]
pub(super) fn file(text: &str) -> Result<PathBuf, Expected> {
    Ok(text.into())
}

#[expect(clippy::unnecessary_wraps, reason = "all parsers have the same type")]
pub(super) fn list(text: &str) -> Result<Vec<String>, Expected> {
    let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
    Ok(items.map(ToOwned::to_owned).collect())
}

pub(super) fn fields(text: &str) -> Result<Fields, Expected> {
    text.parse().map_err(|error| format!("fields: {error}"))
}

pub(super) fn token(text: &str) -> Result<SecretString, Expected> {
    let right = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
    let expected = || "a token of printable ASCII, without spaces".to_owned();
    right.then(|| text.into()).ok_or_else(expected)
}

pub(super) fn signing_key(text: &str) -> Result<SigningKey, Expected> {
    SigningKey::parse(text)
        .ok_or_else(|| "a key of the form whsec_ and 24 to 64 bytes in Base64".into())
}

pub(super) fn path(text: &str) -> Result<String, Expected> {
    let path = text.trim_start_matches('/');
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_.~%".contains(&byte);
    let right = !path.is_empty() && path.bytes().all(plain);
    if right { Ok(path.to_owned()) } else { Err("a path such as events/import".into()) }
}

pub(super) fn start(text: &str) -> Result<Start, Expected> {
    match text {
        "beginning" => Ok(Start::Beginning),
        "now" => Ok(Start::Now),
        _ => Err("beginning or now".into()),
    }
}

pub(super) fn catch_up(text: &str) -> Result<CatchUp, Expected> {
    match text {
        "events" => Ok(CatchUp::Events),
        "batches" => Ok(CatchUp::Batches),
        _ => Err("events or batches".into()),
    }
}

pub(super) fn on_refusal(text: &str) -> Result<OnRefusal, Expected> {
    match text {
        "stop" => Ok(OnRefusal::Stop),
        "set-aside" => Ok(OnRefusal::SetAside),
        _ => Err("stop or set-aside".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::value::tests::check;

    #[test]
    fn the_url_has_no_user_query_or_fragment() {
        let wrong = ["h", "ftp://h/", "http://u@h/", "http://:p@h/", "http://h/?a", "http://h/#a"];
        check(base, &["http://h:8080/a", "https://h"], &wrong);
    }

    #[test]
    fn the_batch_path_is_plain() {
        assert_eq!(path("/events/import"), Ok("events/import".into()));
        check(path, &["a"], &["", "/", "a b", "a?b", "a\r\nb", "é"]);
    }

    #[test]
    fn a_token_is_printable_ascii() {
        check(token, &["a.b-c"], &["", "a b", "a\r\nb", "é"]);
    }
}

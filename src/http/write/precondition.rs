//! What a writer expects of a stream, as HTTP says it (RFC 9110, section 13.1).
//!
//! A stream's entity tag is its last version: `If-Match: "4"` appends behind version 4 only,
//! `If-Match: *` if there is anything, `If-None-Match: *` if there is nothing yet.

use axum::http::{HeaderMap, header};

use crate::{event::draft::Expected, http::error::Problem};

/// What the headers expect.
pub(super) fn of(headers: &HeaderMap) -> Result<Expected, Problem> {
    let text = |name| {
        let mut values = headers.get_all(name).iter();
        let value = values.next().map(|value| value.to_str().unwrap_or_default().trim());
        if values.next().is_some() { Err(unclear()) } else { Ok(value) }
    };
    let matching = match text(header::IF_MATCH)? {
        None => Expected::Any,
        Some("*") => Expected::Exists,
        Some(tag) => version(tag).ok_or_else(unclear)?,
    };
    let missing = match text(header::IF_NONE_MATCH)? {
        None => Expected::Any,
        Some("*") => Expected::Version(1),
        Some(_) => return Err(unclear()),
    };
    super::both(matching, missing)
}

/// A tag without its quotes is understood, too.
fn version(tag: &str) -> Option<Expected> {
    let quoted = tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"'));
    let digits = quoted.unwrap_or(tag);
    let digits = digits.bytes().all(|byte| byte.is_ascii_digit()).then_some(digits)?;
    let current: i64 = digits.parse().ok()?;
    Some(Expected::Version(current.checked_add(1)?))
}

fn unclear() -> Problem {
    Problem::bad_request(
        "expected one of: If-Match: \"4\" (the stream is at version 4), If-Match: * (it has \
         events), If-None-Match: * (it has none)",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_precondition_is_one_version_or_a_star() {
        let check = |name: header::HeaderName, value: &str| {
            let headers = HeaderMap::from_iter([(name, value.parse().unwrap())]);
            of(&headers).ok()
        };
        assert_eq!(of(&HeaderMap::new()), Ok(Expected::Any));
        assert_eq!(check(header::IF_MATCH, "\"4\""), Some(Expected::Version(5)));
        assert_eq!(check(header::IF_MATCH, "\"0\""), Some(Expected::Version(1)));
        assert_eq!(check(header::IF_MATCH, "*"), Some(Expected::Exists));
        assert_eq!(check(header::IF_NONE_MATCH, "*"), Some(Expected::Version(1)));
        assert_eq!(check(header::IF_MATCH, "4"), Some(Expected::Version(5)));
        for wrong in ["", "W/\"4\"", "\"x\"", "\"4\", \"5\"", "\"-1\"", "\"9223372036854775807\""] {
            assert_eq!(check(header::IF_MATCH, wrong), None, "{wrong} was taken");
        }
        assert_eq!(check(header::IF_NONE_MATCH, "\"4\""), None);
    }
}

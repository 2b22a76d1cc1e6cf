//! What a writer expects of a stream, as HTTP says it (RFC 9110, section 13.1).
//!
//! A stream's entity tag is its last version: `If-Match: "4"` appends behind version 4 only,
//! `If-Match: *` if there is anything, `If-None-Match: *` if there is nothing yet.

use axum::http::{HeaderMap, header};

use crate::{event::draft::Expected, http::error::Problem};

/// What the headers expect, if anything.
pub(super) fn of(headers: &HeaderMap) -> Result<Option<Expected>, Problem> {
    let text = |name| {
        let mut values = headers.get_all(name).iter();
        let value = values.next().map(|value| value.to_str().unwrap_or_default().trim());
        (value, values.next().is_some())
    };
    let (matching, twice) = text(header::IF_MATCH);
    let (missing, again) = text(header::IF_NONE_MATCH);
    match (matching, missing) {
        _ if twice || again => Err(unclear()),
        (None, None) => Ok(None),
        (Some("*"), None) => Ok(Some(Expected::Exists)),
        (None, Some("*")) => Ok(Some(Expected::Version(1))),
        (Some(tag), None) => version(tag).map(Some).ok_or_else(unclear),
        (_, Some(_)) => Err(unclear()),
    }
}

fn version(tag: &str) -> Option<Expected> {
    let digits = tag.strip_prefix('"')?.strip_suffix('"')?;
    let current: i64 = digits.parse().ok().filter(|version| *version >= 0)?;
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
        assert_eq!(of(&HeaderMap::new()), Ok(None));
        assert_eq!(check(header::IF_MATCH, "\"4\""), Some(Some(Expected::Version(5))));
        assert_eq!(check(header::IF_MATCH, "\"0\""), Some(Some(Expected::Version(1))));
        assert_eq!(check(header::IF_MATCH, "*"), Some(Some(Expected::Exists)));
        assert_eq!(check(header::IF_NONE_MATCH, "*"), Some(Some(Expected::Version(1))));
        for wrong in ["4", "W/\"4\"", "\"x\"", "\"4\", \"5\"", "\"-1\"", "\"9223372036854775807\""]
        {
            assert_eq!(check(header::IF_MATCH, wrong), None, "{wrong} was taken");
        }
        assert_eq!(check(header::IF_NONE_MATCH, "\"4\""), None);
    }
}

//! Preconditions on a stream in headers (RFC 9110, section 13.1).
//!
//! The entity tag of a stream is its last version. `If-Match: "4"` appends only after version 4,
//! `If-Match: *` only if the stream has events, `If-None-Match: *` only if it has none. A read with
//! `If-None-Match: "4"` gets a 304 while the stream is at version 4.

use axum::http::{HeaderMap, HeaderName, header};

use super::error::Problem;
use crate::event::draft::Expected;

/// The preconditions of a request.
#[derive(Debug)]
pub(super) struct Preconditions {
    matching: Tags,
    none_matching: Tags,
}

/// The value of one of the two headers.
#[derive(Debug, PartialEq, Eq)]
enum Tags {
    Absent,
    Any,
    Listed(Vec<Tag>),
}

/// An entity tag.
#[derive(Debug, PartialEq, Eq)]
struct Tag {
    weak: bool,
    /// `None`: the tag is valid, but is not a version.
    version: Option<i64>,
}

/// The result of evaluating the preconditions of a read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Holds,
    NotModified,
    Fails,
}

impl Preconditions {
    /// Parses the preconditions in the headers.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        Ok(Self {
            matching: Tags::of(headers, &header::IF_MATCH)?,
            none_matching: Tags::of(headers, &header::IF_NONE_MATCH)?,
        })
    }

    /// Whether the request has no preconditions.
    pub(super) fn are_absent(&self) -> bool {
        self.matching == Tags::Absent && self.none_matching == Tags::Absent
    }

    /// Evaluates the preconditions of a read of a stream whose last version is `current`.
    pub(super) fn of_read(&self, current: i64) -> Outcome {
        if !matches!(self.matching, Tags::Absent) && !self.matching.match_strongly(current) {
            Outcome::Fails
        } else if self.none_matching.match_weakly(current) {
            Outcome::NotModified
        } else {
            Outcome::Holds
        }
    }

    /// What the preconditions of an append expect of the stream. `current` looks up its last version, and is
    /// not called for `*`, nor for a single version in `If-Match`. If the stream changes after the lookup,
    /// the write itself detects the conflict.
    pub(super) async fn of_write<F>(&self, current: impl Fn() -> F) -> Result<Expected, Problem>
    where
        F: Future<Output = Result<i64, Problem>>,
    {
        let behind = |version: i64| Expected::Version(version.saturating_add(1));
        let matching = match &self.matching {
            Tags::Absent => Expected::Any,
            Tags::Any => Expected::Exists,
            Tags::Listed(tags) => match strong(tags).as_slice() {
                [] => return Err(never_matches(tags, current().await?)),
                [one] => behind(*one),
                [first, ..] => {
                    let current = current().await?;
                    let listed = strong(tags).contains(&current);
                    behind(if listed { current } else { *first })
                }
            },
        };
        let none_matching = match &self.none_matching {
            Tags::Absent => Expected::Any,
            Tags::Any => Expected::Version(1),
            listed @ Tags::Listed(_) => {
                let current = current().await?;
                if listed.match_weakly(current) {
                    let detail = format!(
                        "the stream is at version {current}, which If-None-Match lists: nothing \
                         was written"
                    );
                    return Err(Problem::precondition_failed(detail, current));
                }
                behind(current)
            }
        };
        combine(matching, none_matching)
    }

    /// Refuses preconditions on resources without an entity tag. If they were ignored, the client would
    /// take them for checked.
    pub(super) fn refuse(headers: &HeaderMap) -> Result<(), Problem> {
        if Self::of(headers)?.are_absent() {
            return Ok(());
        }
        Err(Problem::bad_request(
            "If-Match and If-None-Match refer to the version of a stream: use POST \
             /streams/{stream}",
        ))
    }
}

fn strong(tags: &[Tag]) -> Vec<i64> {
    tags.iter().filter(|tag| !tag.weak).filter_map(|tag| tag.version).collect()
}

fn never_matches(tags: &[Tag], current: i64) -> Problem {
    let detail = if tags.iter().any(|tag| tag.weak) {
        format!(
            "If-Match compares strongly, so a weak tag (W/\"...\") never matches (RFC 9110, section \
             13.1.1): the stream is at version {current}, so send If-Match: \"{current}\"; nothing \
             was written"
        )
    } else {
        format!(
            "no tag in If-Match is the version of a stream: the stream is at version {current}, so \
             send If-Match: \"{current}\"; nothing was written"
        )
    };
    Problem::precondition_failed(detail, current)
}

impl Tags {
    fn of(headers: &HeaderMap, name: &HeaderName) -> Result<Self, Problem> {
        let malformed = || {
            Problem::bad_request(format!(
                "{name} is malformed: expected a version in quotes such as \"4\", several of them \
                 separated by commas, or * for any"
            ))
        };
        let mut tags = Vec::new();
        let mut star = false;
        for value in headers.get_all(name) {
            let value = value.to_str().map_err(|_| malformed())?.trim_matches([' ', '\t']);
            if value == "*" {
                star = true;
            } else {
                tags.extend(listed(value).ok_or_else(malformed)?);
            }
        }
        match (star, tags.is_empty()) {
            (true, true) => Ok(Self::Any),
            (false, false) => Ok(Self::Listed(tags)),
            (false, true) if !headers.contains_key(name) => Ok(Self::Absent),
            _ => Err(malformed()),
        }
    }

    fn match_strongly(&self, current: i64) -> bool {
        match self {
            Self::Absent => false,
            Self::Any => current > 0,
            Self::Listed(tags) => strong(tags).contains(&current),
        }
    }

    fn match_weakly(&self, current: i64) -> bool {
        match self {
            Self::Absent => false,
            Self::Any => current > 0,
            Self::Listed(tags) => tags.iter().any(|tag| tag.version == Some(current)),
        }
    }
}

/// Parses a list of tags. Skips empty elements (RFC 9110, section 5.6.1), and accepts versions without
/// quotes. `None`: the list is malformed.
fn listed(mut rest: &str) -> Option<Vec<Tag>> {
    let mut tags = Vec::new();
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        if rest.is_empty() {
            return Some(tags);
        }
        let (weak, opaque) = rest.strip_prefix("W/").map_or((false, rest), |rest| (true, rest));
        let (text, behind) = if let Some(quoted) = opaque.strip_prefix('"') {
            quoted.split_once('"')?
        } else {
            let end = opaque.find(|it: char| !it.is_ascii_digit()).unwrap_or(opaque.len());
            (!weak && end > 0).then(|| opaque.split_at(end))?
        };
        if text.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
            return None;
        }
        tags.push(Tag { weak, version: version(text) });
        rest = behind.trim_start_matches([' ', '\t']);
        if !rest.is_empty() && !rest.starts_with(',') {
            return None;
        }
    }
}

fn version(text: &str) -> Option<i64> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

/// Combines two expectations. A conflict if both cannot hold.
pub(super) fn combine(one: Expected, other: Expected) -> Result<Expected, Problem> {
    one.and(other).ok_or_else(|| {
        Problem::conflict(
            "the versions of the stream that the address, the headers and the body expect exclude \
             each other: nothing was written",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &HeaderName, values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(name, value.parse().unwrap());
        }
        headers
    }

    fn read(name: &HeaderName, value: &str, current: i64) -> Outcome {
        Preconditions::of(&headers(name, &[value])).unwrap().of_read(current)
    }

    #[test]
    fn evaluates_the_preconditions_of_reads() {
        for (value, current, fails) in [
            ("\"4\"", 4, false),
            ("\"4\"", 5, true),
            ("W/\"4\"", 4, true),
            ("\"3\", \"4\"", 4, false),
            ("\"x\",W/\"4\" , \"4\"", 4, false),
            ("*", 1, false),
            ("*", 0, true),
            ("\"0\"", 0, false),
        ] {
            let expected = if fails { Outcome::Fails } else { Outcome::Holds };
            assert_eq!(read(&header::IF_MATCH, value, current), expected, "{value} at {current}");
        }
        for (value, current, same) in [
            ("\"1\"", 1, true),
            ("W/\"1\"", 1, true),
            ("\"1\"", 2, false),
            ("\"a,b\", \"2\"", 2, true),
            ("*", 1, true),
            ("*", 0, false),
        ] {
            let expected = if same { Outcome::NotModified } else { Outcome::Holds };
            let outcome = read(&header::IF_NONE_MATCH, value, current);
            assert_eq!(outcome, expected, "{value} at {current}");
        }
    }

    #[tokio::test]
    async fn evaluates_the_preconditions_of_writes() {
        let write = async |name: &HeaderName, values: &[&str], current: i64| {
            let preconditions = Preconditions::of(&headers(name, values)).ok()?;
            preconditions.of_write(async || Ok(current)).await.ok()
        };
        let version = Expected::Version;
        for (values, current, expected) in [
            (&[][..], 3, Some(Expected::Any)),
            (&["*"], 3, Some(Expected::Exists)),
            (&["\"4\""], 9, Some(version(5))),
            (&["4"], 9, Some(version(5))),
            (&["\"0\""], 9, Some(version(1))),
            (&["\"3\", \"4\""], 4, Some(version(5))),
            (&["\"3\"", "\"4\""], 4, Some(version(5))),
            (&["\"3\", \"4\""], 7, Some(version(4))),
            (&["W/\"4\", \"3\""], 4, Some(version(4))),
            (&["W/\"4\""], 4, None),
            (&["\"x\""], 4, None),
            (&["\"9223372036854775807\""], 4, Some(version(i64::MAX))),
        ] {
            let outcome = write(&header::IF_MATCH, values, current).await;
            assert_eq!(outcome, expected, "{values:?} at {current}");
        }
        for (value, current, expected) in [
            ("*", 3, Some(version(1))),
            ("\"4\"", 3, Some(version(4))),
            ("\"4\"", 4, None),
            ("W/\"4\"", 4, None),
        ] {
            let outcome = write(&header::IF_NONE_MATCH, &[value], current).await;
            assert_eq!(outcome, expected, "{value} at {current}");
        }
    }

    #[test]
    fn rejects_malformed_lists_of_tags() {
        for wrong in
            ["", "\"4", "4\"", "W/4", "w/\"4\"", "-1", "\"4\" \"5\"", "*, \"4\"", "\"a b\""]
        {
            assert!(Preconditions::of(&headers(&header::IF_MATCH, &[wrong])).is_err(), "{wrong}");
        }
        assert!(Preconditions::of(&headers(&header::IF_MATCH, &["*", "\"4\""])).is_err());
        assert!(Preconditions::refuse(&headers(&header::IF_MATCH, &["*"])).is_err());
        assert!(Preconditions::refuse(&HeaderMap::new()).is_ok());
    }
}

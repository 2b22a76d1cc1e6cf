//! The rights of principals: names, and patterns with `*`.

use serde::{Deserialize, Serialize};

use crate::{
    event::name::{self, InvalidName},
    nearest::nearest,
};

/// The rights of a principal. A right that is not given is not granted.
///
/// The JSON form is the same in the claim of a token, in the table of keys and in settings:
/// `{"read": ["toto", "team-*"], "write": "shop-*", "all": true}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rights {
    /// Consumers whose events may be read. `None`: the consumer with the principal's own name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read: Option<Patterns>,
    /// Consumers that events may be written for.
    #[serde(skip_serializing_if = "Patterns::is_empty")]
    pub write: Patterns,
    /// Streams that may be read.
    #[serde(skip_serializing_if = "Patterns::is_empty")]
    pub read_streams: Patterns,
    /// Streams that may be appended to.
    #[serde(skip_serializing_if = "Patterns::is_empty")]
    pub write_streams: Patterns,
    /// Whether the events of all consumers may be read.
    #[serde(skip_serializing_if = "is_false")]
    pub all: bool,
    /// Whether the console page may be used.
    #[serde(skip_serializing_if = "is_false")]
    pub console: bool,
    /// Whether the metrics may be read.
    #[serde(skip_serializing_if = "is_false")]
    pub metrics: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_false(value: &bool) -> bool {
    !value
}

/// The names of all rights.
const NAMES: [&str; 7] =
    ["read", "write", "read_streams", "write_streams", "all", "console", "metrics"];

/// A message about rights that cannot be parsed. It suggests the name that was probably meant.
#[must_use]
pub fn what_is_wrong(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let Some((_, rest)) = text.split_once("unknown field `") else { return text };
    let Some((name, _)) = rest.split_once('`') else { return text };
    let names = NAMES.join(", ");
    match nearest(name, NAMES) {
        Some(meant) => format!("there is no right `{name}`: did you mean {meant}?"),
        None => format!("there is no right `{name}`: expected some of {names}"),
    }
}

impl Rights {
    /// All rights.
    #[must_use]
    pub fn everything() -> Self {
        let any = || Patterns(Box::new([Pattern("*".into())]));
        Self {
            read: Some(any()),
            write: any(),
            read_streams: any(),
            write_streams: any(),
            all: true,
            console: true,
            metrics: true,
        }
    }

    /// The part of these rights that an event stream needs.
    #[must_use]
    pub(super) fn to_follow(&self) -> Self {
        Self {
            read: self.read.clone(),
            read_streams: self.read_streams.clone(),
            all: self.all,
            ..Self::default()
        }
    }
}

/// A list of names and patterns. It matches what one of them matches.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "OneOrMany")]
pub struct Patterns(Box<[Pattern]>);

/// Why a list of names and patterns is not valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPattern {
    /// No name can match it.
    #[error("a name or pattern {0}")]
    Name(InvalidName),
    /// There are more than [`Patterns::MAX`].
    #[error("there are more than {} names and patterns", Patterns::MAX)]
    TooMany,
}

impl Patterns {
    /// The number of names and patterns that a list may have.
    pub const MAX: usize = 256;

    /// Parses a list of names and patterns.
    pub fn new<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self, InvalidPattern> {
        let patterns = texts.into_iter().map(Pattern::parse).collect::<Result<Box<_>, _>>()?;
        if patterns.len() > Self::MAX { Err(InvalidPattern::TooMany) } else { Ok(Self(patterns)) }
    }

    /// Whether a name is listed or matches a pattern.
    #[must_use]
    pub(super) fn matches(&self, name: &str) -> bool {
        self.0.iter().any(|pattern| pattern.matches(name))
    }

    /// The name, if the list consists of one name.
    #[must_use]
    pub(super) fn only_name(&self) -> Option<&str> {
        match &*self.0 {
            [Pattern(one)] if !one.contains('*') => Some(one),
            _ => None,
        }
    }

    /// Whether the list is empty, so that nothing matches.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The names and patterns, as they were given.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|pattern| &*pattern.0)
    }
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a name or pattern, or a list of them")]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl TryFrom<OneOrMany> for Patterns {
    type Error = InvalidPattern;

    fn try_from(given: OneOrMany) -> Result<Self, InvalidPattern> {
        match given {
            OneOrMany::One(one) => Self::new([one.as_str()]),
            OneOrMany::Many(many) => Self::new(many.iter().map(String::as_str)),
        }
    }
}

/// A name in which `*` matches any text, including none. There is no other wildcard and no escape:
/// every other character matches itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
struct Pattern(Box<str>);

impl Pattern {
    fn parse(text: &str) -> Result<Self, InvalidPattern> {
        let text = if text.trim().is_empty() { "" } else { text };
        name::check(text).map(|()| Self(text.into())).map_err(InvalidPattern::Name)
    }

    /// Names with control characters never match: a `*` does not match them, and patterns have none.
    fn matches(&self, name: &str) -> bool {
        !name.chars().any(char::is_control) && glob(self.0.as_bytes(), name.as_bytes())
    }
}

/// Matches a pattern. It backtracks to the last `*` only, so that the time is bounded by the product of
/// both lengths, whatever the number of stars. Comparing bytes is enough, since no UTF-8 character
/// begins inside another one.
fn glob(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p, n));
            p += 1;
        } else if pattern.get(p) == Some(&name[n]) {
            (p, n) = (p + 1, n + 1);
        } else if let Some((at, taken)) = star {
            star = Some((at, taken + 1));
            (p, n) = (at + 1, taken + 1);
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &str, name: &str) -> bool {
        Patterns::new([pattern]).unwrap().matches(name)
    }

    #[test]
    fn only_a_star_is_a_wildcard() {
        for (pattern, name) in [
            ("toto", "toto"),
            ("*", "toto"),
            ("team-*", "team-"),
            ("team-*", "team-a/b c"),
            ("*-a-*", "x-a-a-y"),
            ("a*b*c", "a--b-b--c"),
            ("Ż*ć", "Żółć"),
            ("a?[b-c]\\d.+", "a?[b-c]\\d.+"),
            ("**", "x"),
        ] {
            assert!(matches(pattern, name), "{pattern} must match {name}");
        }
        for (pattern, name) in [
            ("toto", "toto2"),
            ("toto", "Toto"),
            ("toto", " toto"),
            ("team-*", "Team-a"),
            ("team-*", "my-team-a"),
            ("team-*", "team-a\nb"),
            ("*", "a\0b"),
            ("*", "\u{85}"),
            ("t?to", "toto"),
            ("[a-z]*", "toto"),
            (".*", "toto"),
            ("\\*", "toto"),
            ("a*b*c", "abcd"),
            ("%", "toto"),
        ] {
            assert!(!matches(pattern, name), "{pattern} must not match {name}");
        }
    }

    #[test]
    fn rejects_patterns_that_no_name_matches() {
        assert_eq!(Patterns::new([""]), Err(InvalidPattern::Name(InvalidName::Empty)));
        assert_eq!(Patterns::new([" "]), Err(InvalidPattern::Name(InvalidName::Empty)));
        assert_eq!(Patterns::new(["a\n*"]), Err(InvalidPattern::Name(InvalidName::Control)));
        let long = "*".repeat(1025);
        assert_eq!(Patterns::new([&*long]), Err(InvalidPattern::Name(InvalidName::TooLong)));
        assert_eq!(Patterns::new(["x"; 257]), Err(InvalidPattern::TooMany));
    }

    #[test]
    fn only_rights_in_the_json_are_granted() {
        let rights: Rights =
            serde_json::from_str(r#"{"read": "a*", "write": ["b"], "all": true}"#).unwrap();
        assert!(rights.read.as_ref().unwrap().matches("abc") && rights.write.matches("b"));
        assert!(rights.all && !rights.console && !rights.metrics);
        assert!(rights.read_streams.is_empty() && rights.write_streams.is_empty());
        let json = serde_json::to_string(&rights).unwrap();
        assert_eq!(json, r#"{"read":["a*"],"write":["b"],"all":true}"#);
        for wrong in [r#"{"read": 1}"#, r#"{"read": [1]}"#, r#"{"all": "yes"}"#, r#"{"read": ""}"#]
        {
            assert!(serde_json::from_str::<Rights>(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn a_pattern_matches_what_it_was_made_from(parts in prop::collection::vec("[a-c]{0,3}", 1..6), fill in "[a-c]{0,4}") {
            let pattern = parts.join("*");
            prop_assume!(!pattern.is_empty());
            prop_assert!(matches(&pattern, &parts.join(&fill)));
            let longer = matches(&pattern, &(parts.join(&fill) + "!"));
            prop_assert_eq!(longer, pattern.ends_with('*'));
        }

        #[test]
        fn many_stars_take_bounded_time(stars in 1..500_usize) {
            let pattern = format!("{}b", "a*".repeat(stars));
            prop_assert!(!matches(&pattern, &"a".repeat(1000)));
        }
    }
}

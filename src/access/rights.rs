//! What somebody may do: exact names, and patterns with `*`.

use serde::{Deserialize, Serialize};

use crate::{
    event::name::{self, InvalidName},
    nearest::nearest,
};

/// What somebody may do. Nothing, unless it is said.
///
/// The same form in a token's claim, in the table of keys, and in the settings:
/// `{"read": ["toto", "team-*"], "write": "shop-*", "all": true}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rights {
    /// Consumers whose events may be read. `None`: those of one's own name.
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
    /// Everything may be read, in one stream.
    #[serde(skip_serializing_if = "is_false")]
    pub all: bool,
    /// The page for people may be used.
    #[serde(skip_serializing_if = "is_false")]
    pub console: bool,
    /// The metrics may be read.
    #[serde(skip_serializing_if = "is_false")]
    pub metrics: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_false(value: &bool) -> bool {
    !value
}

/// Every right by its name.
const NAMES: [&str; 7] =
    ["read", "write", "read_streams", "write_streams", "all", "console", "metrics"];

/// Why rights cannot be understood, with the name that was probably meant.
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
    /// Everything there is.
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

    /// Of these, those that an event stream needs.
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

/// Names and patterns, of which one has to match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "OneOrMany")]
pub struct Patterns(Box<[Pattern]>);

/// What is not to be found in a list of rights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPattern {
    /// No name is like that, so it matches nothing.
    #[error("a name or pattern {0}")]
    Name(InvalidName),
    /// More than [`Patterns::MOST`].
    #[error("there are more than {} names and patterns", Patterns::MOST)]
    TooMany,
}

impl Patterns {
    /// As many names and patterns one list holds.
    pub const MOST: usize = 256;

    /// Takes these names and patterns.
    pub fn new<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self, InvalidPattern> {
        let patterns = texts.into_iter().map(Pattern::parse).collect::<Result<Box<_>, _>>()?;
        if patterns.len() > Self::MOST { Err(InvalidPattern::TooMany) } else { Ok(Self(patterns)) }
    }

    /// Whether one of them matches.
    #[must_use]
    pub(super) fn matches(&self, name: &str) -> bool {
        self.0.iter().any(|pattern| pattern.matches(name))
    }

    /// The one name that this is, if it is no more than that.
    #[must_use]
    pub(super) fn only_name(&self) -> Option<&str> {
        match &*self.0 {
            [Pattern(one)] if !one.contains('*') => Some(one),
            _ => None,
        }
    }

    /// Nothing matches.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// As they were written.
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

/// A name in which `*` stands for anything, also for nothing. There is no other wildcard and
/// nothing to escape: every other character stands for itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
struct Pattern(Box<str>);

impl Pattern {
    fn parse(text: &str) -> Result<Self, InvalidPattern> {
        let said = if text.trim().is_empty() { "" } else { text };
        name::check(said).map(|()| Self(said.into())).map_err(InvalidPattern::Name)
    }

    /// A `*` matches no control character, and no other part of a pattern has one.
    fn matches(&self, name: &str) -> bool {
        !name.chars().any(char::is_control) && glob(self.0.as_bytes(), name.as_bytes())
    }
}

/// Tries the shortest stretch for the last `*` first, and only ever goes back to that one: at
/// worst the product of both lengths, however many there are. Bytes are enough, for no
/// character of UTF-8 begins in the middle of another one.
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
    fn a_star_stands_for_anything_and_nothing_else_does() {
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
            assert!(matches(pattern, name), "{pattern} is to match {name}");
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
            assert!(!matches(pattern, name), "{pattern} is not to match {name}");
        }
    }

    #[test]
    fn what_can_match_no_name_is_no_pattern() {
        assert_eq!(Patterns::new([""]), Err(InvalidPattern::Name(InvalidName::Empty)));
        assert_eq!(Patterns::new([" "]), Err(InvalidPattern::Name(InvalidName::Empty)));
        assert_eq!(Patterns::new(["a\n*"]), Err(InvalidPattern::Name(InvalidName::Control)));
        let long = "*".repeat(1025);
        assert_eq!(Patterns::new([&*long]), Err(InvalidPattern::Name(InvalidName::TooLong)));
        assert_eq!(Patterns::new(["x"; 257]), Err(InvalidPattern::TooMany));
    }

    #[test]
    fn rights_are_read_from_json_and_what_is_not_said_is_not_granted() {
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
        fn many_stars_cost_no_more_than_the_product(stars in 1..500_usize) {
            let pattern = format!("{}b", "a*".repeat(stars));
            prop_assert!(!matches(&pattern, &"a".repeat(1000)));
        }
    }
}

//! JSON as a writer sent it, every digit of it, once it is known that PostgreSQL keeps it whole.
//!
//! `jsonb` refuses some of what RFC 8259 allows, and silently drops all but the last of members
//! with the same name. Both are refused here, with a sentence that says what and why, before
//! they can spoil a transaction that others share, or lose anything.

use std::{borrow::Cow, collections::HashSet};

/// A JSON text that `jsonb` takes, and keeps whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Json(Box<str>);

/// Why a JSON text cannot be kept whole.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidJson {
    /// Arrays and objects in each other.
    #[error("is nested more than {MOST_DEEP} deep")]
    TooDeep,
    /// Two members of an object bear one name.
    #[error("has two members named {0:?} in one object: only one of them could be kept")]
    Duplicate(String),
    /// PostgreSQL has no place for it.
    #[error("contains the character U+0000 (\\u0000), which PostgreSQL cannot store in JSON")]
    Nul,
    /// Half of a character.
    #[error("contains half of a surrogate pair (such as \\ud800), which is no character")]
    Surrogate,
    /// More digits than `numeric` has.
    #[error("contains a number with more digits than PostgreSQL can store: {0}")]
    Number(String),
}

/// PostgreSQL's own limit rests on its stack; this is well before it, and beyond what people
/// write.
const MOST_DEEP: usize = 128;
/// PostgreSQL's `numeric`: as many digits before the decimal point, and as many behind it.
const MOST_DIGITS: (i64, i64) = (131_072, 16_383);
/// Of what was refused as much is shown.
const SHOWN: usize = 40;

impl Json {
    /// Examines `text`, which must be well-formed JSON: a parser has seen it.
    pub fn examine(text: &str) -> Result<Self, InvalidJson> {
        Examination { rest: text, open: Vec::new() }.run()?;
        Ok(Self(text.trim().into()))
    }

    /// A JSON string of this text.
    #[must_use]
    pub fn string(text: &str) -> Self {
        Self(serde_json::Value::from(text).to_string().into())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// One pass over the text.
struct Examination<'a> {
    rest: &'a str,
    /// What is open around here; of an object the names so far.
    open: Vec<Option<HashSet<Cow<'a, str>>>>,
}

impl<'a> Examination<'a> {
    fn run(mut self) -> Result<(), InvalidJson> {
        while let Some(symbol) = self.rest.chars().next() {
            match symbol {
                '"' => self.string()?,
                '{' => self.enter(Some(HashSet::new()))?,
                '[' => self.enter(None)?,
                '}' | ']' => {
                    self.open.pop();
                    self.rest = &self.rest[1..];
                }
                '-' | '0'..='9' => self.number()?,
                other => self.rest = &self.rest[other.len_utf8()..],
            }
        }
        Ok(())
    }

    fn enter(&mut self, names: Option<HashSet<Cow<'a, str>>>) -> Result<(), InvalidJson> {
        if self.open.len() >= MOST_DEEP {
            return Err(InvalidJson::TooDeep);
        }
        self.open.push(names);
        self.rest = &self.rest[1..];
        Ok(())
    }

    /// A string: the name of a member, if a colon follows.
    fn string(&mut self) -> Result<(), InvalidJson> {
        let (string, rest) = self.rest.split_at(string_len(self.rest));
        self.rest = rest.trim_start_matches([' ', '\t', '\r', '\n']);
        let text = unescaped(string)?;
        let names = self.open.last_mut().and_then(Option::as_mut);
        let Some(names) = names.filter(|_| self.rest.starts_with(':')) else { return Ok(()) };
        if names.contains(&text) {
            return Err(InvalidJson::Duplicate(text.chars().take(SHOWN).collect()));
        }
        names.insert(text);
        Ok(())
    }

    fn number(&mut self) -> Result<(), InvalidJson> {
        let part = |byte: &u8| matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9');
        let (number, rest) = self.rest.split_at(self.rest.bytes().take_while(part).count());
        self.rest = rest;
        let (mantissa, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let len = |digits: &str| i64::try_from(digits.len()).unwrap_or(i64::MAX);
        // So long an exponent is beyond all limits.
        let exponent = exponent.parse::<i32>().map_or(i64::from(i32::MAX), i64::from);
        let fits =
            len(whole) + exponent <= MOST_DIGITS.0 && len(fraction) - exponent <= MOST_DIGITS.1;
        let shown = || number.chars().take(SHOWN).collect();
        if fits { Ok(()) } else { Err(InvalidJson::Number(shown())) }
    }
}

/// The text of a string literal. Most have no escapes, and are borrowed.
fn unescaped(literal: &str) -> Result<Cow<'_, str>, InvalidJson> {
    let inner = literal.trim_matches('"');
    if !literal.contains('\\') {
        return Ok(Cow::Borrowed(inner));
    }
    let text: String = serde_json::from_str(literal).map_err(|_| InvalidJson::Surrogate)?;
    if text.contains('\0') { Err(InvalidJson::Nul) } else { Ok(Cow::Owned(text)) }
}

/// The length of the string literal that `text` begins with, both quotes included.
fn string_len(text: &str) -> usize {
    let bytes = text.as_bytes();
    let mut at = 1;
    while let Some(next) = memchr::memchr2(b'"', b'\\', bytes.get(at..).unwrap_or_default()) {
        at += next;
        if bytes[at] == b'"' {
            return at + 1;
        }
        at += 2;
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(text: &str) -> Result<String, InvalidJson> {
        Json::examine(text).map(|json| json.as_str().to_owned())
    }

    #[test]
    fn what_can_be_kept_is_kept_as_it_is() {
        for text in [
            "null",
            "1e400",
            "-12345678901234567890.000000000000000000001E-5",
            r#"{"a":{"a":["a","a",{"a":1}]},"b":"a"}"#,
            r#"["\\u0000","a\"b","\ud83d\udc4b"]"#,
            r#"{"":1,"x" : ""}"#,
        ] {
            assert_eq!(check(text).as_deref(), Ok(text));
        }
    }

    #[test]
    fn what_would_be_lost_or_refused_later_is_refused() {
        use InvalidJson::{Duplicate, Nul, Number, Surrogate, TooDeep};
        assert_eq!(check(r#"{"a":1,"b":{"c":1,"c" :2}}"#), Err(Duplicate("c".into())));
        assert_eq!(check(r#"{"a":1,"\u0061":2}"#), Err(Duplicate("a".into())));
        assert_eq!(check(r#"["\u0000"]"#), Err(Nul));
        assert_eq!(check(r#"{"\u0000":1}"#), Err(Nul));
        assert_eq!(check(r#""\ud800""#), Err(Surrogate));
        assert_eq!(check("[1e131072]"), Err(Number("1e131072".into())));
        assert_eq!(check("1e-99999999999"), Err(Number("1e-99999999999".into())));
        assert_eq!(check(&("[".repeat(129) + &"]".repeat(129))), Err(TooDeep));
        assert!(check(&("[".repeat(128) + &"]".repeat(128))).is_ok());
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[\\[\\]{}\",:\\\\ue0-9.\u{e9} -]{0,60}") {
            let _ = check(&text);
        }
    }
}

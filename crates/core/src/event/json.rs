//! JSON as a writer sent it, every digit of it, once it is known that PostgreSQL keeps it whole.
//!
//! `jsonb` refuses some of what RFC 8259 allows, and silently drops all but the last of members
//! with the same name. Both are refused here, with a sentence that says what and why, before
//! they can spoil a transaction that others share, or lose anything.

use std::{borrow::Cow, collections::HashSet};

/// A JSON text that `jsonb` takes, and keeps whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Json {
    text: Box<str>,
    /// By how much it grows when its numbers are written out.
    growth: usize,
}

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
        let growth = Examination { rest: text, open: Vec::new(), growth: 0 }.run()?;
        Ok(Self { text: text.trim().into(), growth })
    }

    /// A JSON string of this text.
    #[must_use]
    pub fn string(text: &str) -> Self {
        Self { text: serde_json::Value::from(text).to_string().into(), growth: 0 }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// How many bytes it takes once its numbers are written out, as PostgreSQL prints them, and
    /// readers get them: `1e131071` becomes 131,072 digits.
    #[must_use]
    pub fn printed_len(&self) -> usize {
        self.text.len().saturating_add(self.growth)
    }
}

/// One pass over the text.
struct Examination<'a> {
    rest: &'a str,
    /// What is open around here; of an object the names so far.
    open: Vec<Option<HashSet<Cow<'a, str>>>>,
    /// By how much numbers grow that were written in short.
    growth: usize,
}

impl<'a> Examination<'a> {
    fn run(mut self) -> Result<usize, InvalidJson> {
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
        Ok(self.growth)
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
        let (before, behind) = (len(whole) + exponent, len(fraction) - exponent);
        if before > MOST_DIGITS.0 || behind > MOST_DIGITS.1 {
            return Err(InvalidJson::Number(number.chars().take(SHOWN).collect()));
        }
        let printed = before.max(1) + behind.max(0);
        self.growth += usize::try_from(printed).unwrap_or(0).saturating_sub(number.len());
        Ok(())
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

    #[test]
    fn numbers_in_short_count_as_they_are_written_out() {
        let printed = |text: &str| Json::examine(text).unwrap().printed_len();
        assert_eq!(printed("[1,2.50,-3]"), "[1,2.50,-3]".len());
        assert_eq!(printed("1e131071"), 131_072);
        assert_eq!(printed("[1e1000,1E-1000]"), "[,]".len() + 1001 + 1001);
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[\\[\\]{}\",:\\\\ue0-9.\u{e9} -]{0,60}") {
            let _ = check(&text);
        }
    }
}

//! JSON as a writer sent it, with every digit, after a check that PostgreSQL can store it without loss.
//!
//! `jsonb` refuses some texts that RFC 8259 allows, and silently drops all but the last of several members
//! with the same name. Both are refused here, with an error that says what is wrong, so that they cannot
//! spoil a transaction that other requests share, and nothing is lost.

use std::{borrow::Cow, collections::HashSet};

/// A JSON text that `jsonb` stores without loss.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Json {
    text: Box<str>,
    /// By how many bytes the text grows when its numbers are written out.
    growth: usize,
}

/// A JSON text that cannot be stored without loss.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidJson {
    /// Arrays and objects are nested too deep.
    #[error("is nested more than {MAX_DEPTH} deep")]
    TooDeep,
    /// Two members of an object have this name.
    #[error("has two members named {0:?} in one object: only one of them could be kept")]
    Duplicate(String),
    /// A string contains U+0000.
    #[error("contains the character U+0000 (\\u0000), which PostgreSQL cannot store in JSON")]
    Nul,
    /// A string contains an unpaired surrogate.
    #[error("contains half of a surrogate pair (such as \\ud800), which is not a character")]
    Surrogate,
    /// This number has more digits than `numeric` can store.
    #[error("contains a number with more digits than PostgreSQL can store: {0}")]
    Number(String),
}

/// The greatest depth. PostgreSQL's own limit depends on its stack; this is well below it, and beyond what
/// people write.
const MAX_DEPTH: usize = 128;
/// The most digits of PostgreSQL's `numeric`: before the decimal point, and behind it.
const MAX_DIGITS: (i64, i64) = (131_072, 16_383);
/// How many characters of a refused text an error shows.
const SHOWN_CHARS: usize = 40;

impl Json {
    /// Checks `text`, which must be well-formed JSON: a parser has accepted it.
    pub fn examine(text: &str) -> Result<Self, InvalidJson> {
        let growth = Examination { rest: text, open: Vec::new(), growth: 0 }.run()?;
        Ok(Self { text: text.trim().into(), growth })
    }

    /// Creates a JSON string with this text.
    #[must_use]
    pub fn string(text: &str) -> Self {
        Self { text: serde_json::Value::from(text).to_string().into(), growth: 0 }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The length in bytes once numbers are written out, as PostgreSQL prints them and readers get them:
    /// `1e131071` becomes 131,072 digits.
    #[must_use]
    pub fn printed_len(&self) -> usize {
        self.text.len().saturating_add(self.growth)
    }
}

/// One pass over the text.
struct Examination<'a> {
    rest: &'a str,
    /// The arrays and objects that are open here. For an object: the names of its members so far.
    open: Vec<Option<HashSet<Cow<'a, str>>>>,
    /// By how many bytes numbers grow that were written with an exponent.
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
        if self.open.len() >= MAX_DEPTH {
            return Err(InvalidJson::TooDeep);
        }
        self.open.push(names);
        self.rest = &self.rest[1..];
        Ok(())
    }

    /// Reads a string: the name of a member, if a colon follows.
    fn string(&mut self) -> Result<(), InvalidJson> {
        let (string, rest) = self.rest.split_at(string_len(self.rest));
        self.rest = rest.trim_start_matches([' ', '\t', '\r', '\n']);
        let text = unescaped(string)?;
        let names = self.open.last_mut().and_then(Option::as_mut);
        let Some(names) = names.filter(|_| self.rest.starts_with(':')) else { return Ok(()) };
        if names.contains(&text) {
            return Err(InvalidJson::Duplicate(text.chars().take(SHOWN_CHARS).collect()));
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
        // An exponent that does not fit is beyond all limits.
        let exponent = exponent.parse::<i32>().map_or(i64::from(i32::MAX), i64::from);
        let (before, behind) = (len(whole) + exponent, len(fraction) - exponent);
        if before > MAX_DIGITS.0 || behind > MAX_DIGITS.1 {
            return Err(InvalidJson::Number(number.chars().take(SHOWN_CHARS).collect()));
        }
        let printed = before.max(1) + behind.max(0);
        self.growth += usize::try_from(printed).unwrap_or(0).saturating_sub(number.len());
        Ok(())
    }
}

/// The text of a string literal. Most literals have no escapes, and are borrowed.
fn unescaped(literal: &str) -> Result<Cow<'_, str>, InvalidJson> {
    let inner = literal.trim_matches('"');
    if !literal.contains('\\') {
        return Ok(Cow::Borrowed(inner));
    }
    let text: String = serde_json::from_str(literal).map_err(|_| InvalidJson::Surrogate)?;
    if text.contains('\0') { Err(InvalidJson::Nul) } else { Ok(Cow::Owned(text)) }
}

/// The length of the string literal at the start of `text`, both quotes included.
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
    fn keeps_valid_json_unchanged() {
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
    fn rejects_json_that_postgresql_refuses_or_changes() {
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
    fn counts_numbers_as_they_are_written_out() {
        let printed = |text: &str| Json::examine(text).unwrap().printed_len();
        assert_eq!(printed("[1,2.50,-3]"), "[1,2.50,-3]".len());
        assert_eq!(printed("1e131071"), 131_072);
        assert_eq!(printed("[1e1000,1E-1000]"), "[,]".len() + 1001 + 1001);
    }

    proptest! {
        #[test]
        fn does_not_panic_on_any_text(text in "[\\[\\]{}\",:\\\\ue0-9.\u{e9} -]{0,60}") {
            let _ = check(&text);
        }
    }
}

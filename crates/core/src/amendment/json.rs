//! JSON in which numbers keep every digit: each number is a string that begins with a NUL.

use serde_json::Value;

use super::error::PatchError;

/// The mark that a number begins with while a payload is patched, as a character and in JSON.
const MARK: char = '\0';
const MARKED: &str = "\"\\u0000";

/// Returns the same text for all JSON texts that are equal as `jsonb`. A text that is nested too deep to be
/// parsed is returned as it is.
#[must_use]
pub fn canonical(json: &str) -> String {
    let Ok(mut value) = read(json) else { return json.to_owned() };
    normalize(&mut value);
    value.to_string()
}

fn normalize(value: &mut Value) {
    match value {
        Value::String(text) => {
            if let Some(number) = text.strip_prefix(MARK) {
                let Number { negative, digits, exponent } = Number::of(number);
                let sign = if negative { "-" } else { "" };
                *text = format!("{MARK}{sign}{digits}e{exponent}");
            }
        }
        Value::Array(values) => values.iter_mut().for_each(normalize),
        Value::Object(members) => members.values_mut().for_each(normalize),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

pub(super) fn read(json: &str) -> Result<Value, PatchError> {
    let unreadable = |error: serde_json::Error| PatchError::Unreadable(unmarked_text(&error));
    if json.contains(MARKED) {
        return Err(PatchError::Unreadable("a text begins with U+0000".into()));
    }
    serde_json::from_str(&with_marks(json)).map_err(unreadable)
}

pub(super) fn unmarked_text(error: &serde_json::Error) -> String {
    error.to_string().replace(MARK, "")
}

/// Turns each number into a marked string.
fn with_marks(json: &str) -> String {
    let mut out = String::with_capacity(json.len() + json.len() / 4);
    let mut rest = json;
    while let Some(next) = rest.find(|c: char| c == '"' || c == '-' || c.is_ascii_digit()) {
        out.push_str(&rest[..next]);
        rest = &rest[next..];
        let end = if rest.starts_with('"') { string_end(rest) } else { number_end(rest) };
        if rest.starts_with('"') {
            out.push_str(&rest[..end]);
        } else {
            out.extend([MARKED, &rest[..end], "\""]);
        }
        rest = &rest[end..];
    }
    out + rest
}

/// Turns each marked string back into a number.
pub(super) fn without_marks(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    let mut rest = json;
    while let Some(next) = rest.find('"') {
        out.push_str(&rest[..next]);
        rest = &rest[next..];
        let (text, behind) = rest.split_at(string_end(rest));
        let number = text.strip_prefix(MARKED).and_then(|it| it.strip_suffix('"'));
        out.push_str(number.unwrap_or(text));
        rest = behind;
    }
    out + rest
}

/// The length of the JSON string at the start of the text, both quotes included.
fn string_end(text: &str) -> usize {
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

fn number_end(text: &str) -> usize {
    let of_number = |c: char| c.is_ascii_digit() || matches!(c, '-' | '+' | '.' | 'e' | 'E');
    text.find(|c| !of_number(c)).unwrap_or(text.len())
}

pub(super) fn is_same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::String(one), Value::String(other)) => {
            one == other
                || match (one.strip_prefix(MARK), other.strip_prefix(MARK)) {
                    (Some(one), Some(other)) => Number::of(one) == Number::of(other),
                    _ => false,
                }
        }
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len()
                && one.iter().zip(other).all(|(one, other)| is_same(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            let has = |(name, value): (&String, &Value)| {
                other.get(name).is_some_and(|other| is_same(value, other))
            };
            one.len() == other.len() && one.iter().all(has)
        }
        _ => one == other,
    }
}

/// A number's value: its sign, its digits without zeros at both ends, and the power of ten of the last digit.
#[derive(PartialEq, Eq)]
struct Number {
    negative: bool,
    digits: String,
    exponent: i64,
}

impl Number {
    fn of(text: &str) -> Self {
        let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let digits = [whole.trim_start_matches('-'), fraction].concat();
        let digits = digits.trim_start_matches('0');
        let short = digits.trim_end_matches('0');
        if short.is_empty() {
            return Self { negative: false, digits: String::new(), exponent: 0 };
        }
        let length = |text: &str| i64::try_from(text.len()).unwrap_or(i64::MAX);
        // PostgreSQL accepts no larger exponent.
        let exponent = i64::from(exponent.parse::<i32>().unwrap_or(i32::MAX));
        Self {
            negative: whole.starts_with('-'),
            exponent: exponent - length(fraction) + length(digits) - length(short),
            digits: short.to_owned(),
        }
    }
}

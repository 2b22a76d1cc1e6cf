//! What an event says once it is corrected.
//!
//! An amendment's payload is the patch: an array is a JSON Patch (RFC 6902), anything else a
//! merge patch (RFC 7396). Amendments apply in the order of their ids, all of them or none.
//!
//! Numbers keep every digit: while a payload is worked on, each stands as a text that begins
//! with a NUL, which no text in PostgreSQL's `jsonb` does. What a patch can make of a payload
//! is bounded, in depth and in what it copies.

use json_patch::{Patch, PatchOperation, jsonptr::Pointer, merge, patch};
use serde_json::Value;

use crate::event::EventId;

/// A payload at work.
#[derive(Clone, Debug)]
pub struct Draft {
    value: Value,
    /// Bytes, roughly, that patches have copied within it.
    copied: usize,
}

/// Why a patch cannot be applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    /// The payload or the patch cannot be worked on.
    #[error("it cannot be read: {0}")]
    Unreadable(String),
    /// It is an array, and no JSON Patch.
    #[error("it is an array, and no JSON Patch: {0}")]
    NoPatch(String),
    /// An operation does not fit the payload.
    #[error("operation {number} ({path:?}): {why}")]
    Operation {
        /// Which, counted from 1.
        number: usize,
        /// What it points to.
        path: String,
        /// Why it does not fit.
        why: String,
    },
}

/// An amendment that cannot be applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("amendment {amendment} does not apply: {misfit}")]
pub struct Unamended {
    /// Which.
    pub amendment: EventId,
    /// Why.
    pub misfit: Misfit,
}

/// As deep as values may be nested: what reads JSON here goes no deeper either.
const DEEPEST: usize = 127;
/// As much as the amendments of one event may copy. Copies of copies double.
const MOST_COPIED: usize = 16 << 20;
/// What a number begins with while it is worked on, as a character and in JSON.
const MARK: char = '\0';
const MARKED: &str = "\"\\u0000";

impl Draft {
    /// Begins with the payload as it was written.
    pub fn of(payload: &str) -> Result<Self, Misfit> {
        Ok(Self { value: read(payload)?, copied: 0 })
    }

    /// Applies one patch. After an error the draft is of no use.
    pub fn apply(&mut self, patch: &str) -> Result<(), Misfit> {
        let patch = read(patch)?;
        if !patch.is_array() {
            merge(&mut self.value, &patch);
            return Ok(());
        }
        let no_patch = |error: serde_json::Error| Misfit::NoPatch(unmarked_text(&error));
        let Patch(operations) = serde_json::from_value(patch).map_err(no_patch)?;
        for (at, operation) in operations.iter().enumerate() {
            let path = operation.path().to_string();
            let misfit = |why| Misfit::Operation { number: at + 1, path, why };
            self.operate(operation).map_err(misfit)?;
        }
        Ok(())
    }

    /// The payload as corrected, as compact JSON.
    #[must_use]
    pub fn finish(self) -> String {
        without_marks(&self.value.to_string())
    }

    fn operate(&mut self, operation: &PatchOperation) -> Result<(), String> {
        let (path, new) = match operation {
            PatchOperation::Test(test) => return self.test(&test.path, &test.value),
            PatchOperation::Remove(_) => (None, None),
            PatchOperation::Add(add) => (Some(&add.path), Some(&add.value)),
            PatchOperation::Replace(replace) => (Some(&replace.path), Some(&replace.value)),
            PatchOperation::Move(it) => (Some(&it.path), it.from.resolve(&self.value).ok()),
            PatchOperation::Copy(it) => (Some(&it.path), it.from.resolve(&self.value).ok()),
        };
        if let (Some(path), Some(new)) = (path, new) {
            let (size, depth) = measure(new);
            if path.count() + depth > DEEPEST {
                return Err(format!("the payload would be nested deeper than {DEEPEST}"));
            }
            if matches!(operation, PatchOperation::Copy(_)) {
                self.copied += size;
            }
        }
        if self.copied > MOST_COPIED {
            return Err(format!("more than {MOST_COPIED} bytes would be copied"));
        }
        let once = std::slice::from_ref(operation);
        patch(&mut self.value, once).map_err(|error| error.kind.to_string())
    }

    /// As the standard says, numbers are the same when they are of the same value.
    fn test(&self, path: &Pointer, expected: &Value) -> Result<(), String> {
        match path.resolve(&self.value) {
            Ok(found) if same(found, expected) => Ok(()),
            Ok(_) => Err("the value is another one".into()),
            Err(_) => Err("there is no such value".into()),
        }
    }
}

fn read(json: &str) -> Result<Value, Misfit> {
    let unreadable = |error: serde_json::Error| Misfit::Unreadable(unmarked_text(&error));
    if json.contains(MARKED) {
        return Err(Misfit::Unreadable("a text begins with U+0000".into()));
    }
    serde_json::from_str(&with_marks(json)).map_err(unreadable)
}

fn unmarked_text(error: &serde_json::Error) -> String {
    error.to_string().replace(MARK, "")
}

/// Each number as a marked text.
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

/// Each marked text as the number that it was.
fn without_marks(json: &str) -> String {
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

/// The length of the JSON string that this begins with, both quotes included.
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

/// How many bytes a value takes, roughly, and how deep it is.
fn measure(value: &Value) -> (usize, usize) {
    let within = |(bytes, depth): (usize, usize), inner: &Value| {
        let (more, deeper) = measure(inner);
        (bytes + more, depth.max(deeper + 1))
    };
    let itself = size_of::<Value>();
    match value {
        Value::String(text) => (itself + text.len(), 0),
        Value::Array(values) => values.iter().fold((itself, 1), within),
        Value::Object(members) => {
            let names: usize = members.keys().map(String::len).sum();
            members.values().fold((itself + names, 1), within)
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => (itself, 0),
    }
}

fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::String(one), Value::String(other)) => {
            one == other
                || match (one.strip_prefix(MARK), other.strip_prefix(MARK)) {
                    (Some(one), Some(other)) => plain(one) == plain(other),
                    _ => false,
                }
        }
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            let has = |(name, value): (&String, &Value)| {
                other.get(name).is_some_and(|other| same(value, other))
            };
            one.len() == other.len() && one.iter().all(has)
        }
        _ => one == other,
    }
}

/// A number without the zeros behind its point, and zero without a sign. PostgreSQL prints no
/// exponents; where there is one, the number is taken as it is written.
fn plain(number: &str) -> &str {
    let exponent = number.contains(['e', 'E']);
    let short = if number.contains('.') && !exponent {
        number.trim_end_matches('0').trim_end_matches('.')
    } else {
        number
    };
    if short == "-0" { "0" } else { short }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn amended(payload: &str, patches: &[&str]) -> Result<String, String> {
        let mut draft = Draft::of(payload).map_err(|misfit| misfit.to_string())?;
        for patch in patches {
            draft.apply(patch).map_err(|misfit| misfit.to_string())?;
        }
        Ok(draft.finish())
    }

    #[test]
    fn the_example_of_the_merge_patch_standard() {
        let payload = r#"{"title": "Goodbye!", "author": {"givenName": "John", "familyName": "Doe"},
            "tags": ["example", "sample"], "content": "This will be unchanged"}"#;
        let patch = r#"{"title": "Hello!", "phoneNumber": "+01-123-456-7890",
            "author": {"familyName": null}, "tags": ["example"]}"#;
        let expected = r#"{"author":{"givenName":"John"},"content":"This will be unchanged","phoneNumber":"+01-123-456-7890","tags":["example"],"title":"Hello!"}"#;
        assert_eq!(amended(payload, &[patch]).unwrap(), expected);
        assert_eq!(amended(payload, &["7"]).unwrap(), "7");
        assert_eq!(amended("[1]", &[r#"{"a": null}"#]).unwrap(), "{}");
    }

    #[test]
    fn a_json_patch_does_all_that_its_standard_has() {
        let payload = r#"{"a": {"b": [1, 2]}, "c": "x"}"#;
        let patch = r#"[{"op": "test", "path": "/a/b/1", "value": 2.0},
            {"op": "add", "path": "/a/b/-", "value": 3}, {"op": "remove", "path": "/c"},
            {"op": "move", "from": "/a/b/0", "path": "/first"},
            {"op": "copy", "from": "/a", "path": "/d"},
            {"op": "replace", "path": "/a/b", "value": []}]"#;
        let expected = r#"{"a":{"b":[]},"d":{"b":[2,3]},"first":1}"#;
        assert_eq!(amended(payload, &[patch]).unwrap(), expected);
        let whole = r#"[{"op": "replace", "path": "", "value": [1]}]"#;
        assert_eq!(amended(payload, &[whole, whole]).unwrap(), "[1]");
    }

    #[test]
    fn a_patch_makes_nothing_deeper_than_can_be_read() {
        let nested = |depth| "[".repeat(depth) + &"]".repeat(depth);
        let path = "/0".repeat(63);
        let add =
            |depth| format!(r#"[{{"op": "add", "path": "{path}/-", "value": {}}}]"#, nested(depth));
        assert!(amended(&nested(64), &[&add(DEEPEST - 64)]).is_ok());
        assert!(amended(&nested(64), &[&add(DEEPEST - 63)]).is_err());
    }

    #[test]
    fn no_digit_is_lost() {
        let payload = r#"{"n": 12345678901234567890.10, "m": [-0.50, 1e400], "s": "1.50 -7 e"}"#;
        let patch = r#"{"k": 3.000000000000000000000001}"#;
        let expected = r#"{"k":3.000000000000000000000001,"m":[-0.50,1e400],"n":12345678901234567890.10,"s":"1.50 -7 e"}"#;
        assert_eq!(amended(payload, &[patch]).unwrap(), expected);
    }

    #[test]
    fn numbers_are_tested_by_their_value() {
        let test = |value| format!(r#"[{{"op": "test", "path": "/n", "value": {value}}}]"#);
        for (written, tested, fits) in [
            ("1", "1.0", true),
            ("1.50", "1.5", true),
            ("-0.0", "0", true),
            ("100", "1", false),
            ("12345678901234567890", "12345678901234567891", false),
            ("[1.0]", "[1]", true),
            (r#"{"a": 1.0}"#, r#"{"a": 1}"#, true),
            (r#"{"a": 1}"#, r#"{"b": 1}"#, false),
            ("1", r#""1""#, false),
        ] {
            let payload = format!(r#"{{"n": {written}}}"#);
            let done = amended(&payload, &[&test(tested)]);
            assert_eq!(done.is_ok(), fits, "{written} {tested}: {done:?}");
        }
    }

    #[test]
    fn what_does_not_fit_says_why() {
        for (patch, why) in [
            (r#"[{"op": "remove", "path": "/b"}]"#, "operation 1 (\"/b\")"),
            (
                r#"[{"op": "add", "path": "/b", "value": 1}, {"op": "test", "path": "/a", "value": 2}]"#,
                "operation 2 (\"/a\"): the value is another one",
            ),
            (r#"[{"op": "test", "path": "/x", "value": 2}]"#, "there is no such value"),
            (r#"[{"op": "dance", "path": "/a"}]"#, "no JSON Patch"),
            ("[1]", "no JSON Patch"),
            (r#"{"a": "\u0000b"}"#, "begins with U+0000"),
            ("{", "cannot be read"),
        ] {
            let error = amended(r#"{"a": 1}"#, &[patch]).unwrap_err();
            assert!(error.contains(why), "{patch}: {error}");
            assert!(!error.contains(MARK), "{error:?}");
        }
    }

    #[test]
    fn copies_of_copies_and_towers_end_somewhere() {
        let double = r#"[{"op": "copy", "from": "", "path": "/b"}, {"op": "copy", "from": "", "path": "/c"}]"#;
        let error = amended(r#"{"a": 1}"#, &[double; 200]).unwrap_err();
        assert!(error.contains("would be"), "{error}");
        let wide = r#"[{"op": "copy", "from": "/a", "path": "/a/-"}, {"op": "copy", "from": "/a", "path": "/a/-"}]"#;
        let error = amended(r#"{"a": [1]}"#, &[wide; 50]).unwrap_err();
        assert!(error.contains("would be"), "{error}");
        let tower = format!("{}1{}", "[".repeat(200), "]".repeat(200));
        assert!(amended(&tower, &["1"]).unwrap_err().contains("cannot be read"));
    }

    proptest! {
        #[test]
        fn what_nothing_amends_is_what_it_was(text in "\\PC*", number in any::<f64>(), deep in 0..9) {
            let value = serde_json::json!({ text.as_str(): [text, number, deep, { "x": null }] });
            let written = value.to_string();
            prop_assert_eq!(Draft::of(&written).unwrap().finish(), written);
        }

        #[test]
        fn no_text_makes_it_panic(payload in "[\\[\\]{}\",:0-9eE.+\\\\u-]{0,30}", patch in "\\PC{0,30}") {
            if let Ok(mut draft) = Draft::of(&payload) {
                let _ = draft.apply(&patch);
            }
        }
    }
}

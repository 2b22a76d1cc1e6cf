//! Applies amendments to the payload of an event.
//!
//! The payload of an amendment is the patch: an array is a JSON Patch (RFC 6902), anything else a merge patch
//! (RFC 7396). Amendments apply in the order of their ids, all of them or none.
//!
//! Numbers keep every digit. While a payload is patched, each number is a string that begins with a NUL,
//! which no string in PostgreSQL's `jsonb` does.
//!
//! Writers choose payloads and patches, and readers make the gateway apply them. So all amendments of an
//! event share one budget of work, and the size and depth of the result are limited. Both are counted in
//! steps and bytes, not in time, so that what was accepted once is always accepted.

mod error;
mod json;
mod limits;
mod work;

use json_patch::{
    Patch, PatchOperation,
    jsonptr::{Pointer, PointerBuf},
    merge, patch_unsafe,
};
use serde_json::Value;

pub use self::{
    error::{PatchError, Unamended},
    json::canonical,
};
use self::{
    json::{is_same, read, unmarked_text, without_marks},
    limits::{MAX_BYTES, MAX_DEPTH, MAX_OPERATIONS},
    work::{Exhausted, Size, Work},
};

/// A payload that is being patched.
#[derive(Clone, Debug)]
pub struct PatchedPayload {
    value: Value,
    work: Work,
    /// An upper bound of the payload's size.
    size: Size,
}

impl PatchedPayload {
    /// Begins with the payload as it was written.
    pub fn of(payload: &str) -> Result<Self, PatchError> {
        let size = Size::of_text(payload);
        if size.exceeds(1) {
            return Err(PatchError::TooLarge);
        }
        let mut work = Work::default();
        work.read(payload)?;
        Ok(Self { value: read(payload)?, work, size })
    }

    /// Applies one patch.
    ///
    /// # Errors
    ///
    /// After an error the payload is partly patched, and of no further use.
    pub fn apply(&mut self, patch: &str) -> Result<(), PatchError> {
        self.work.read(patch)?;
        self.grow(Size::of_text(patch))?;
        let patch = read(patch)?;
        if !patch.is_array() {
            merge(&mut self.value, &patch);
            return Ok(());
        }
        if let Some(count) = patch.as_array().map(Vec::len).filter(|count| *count > MAX_OPERATIONS)
        {
            return Err(PatchError::TooManyOperations(count));
        }
        let no_patch = |error: serde_json::Error| PatchError::NoPatch(unmarked_text(&error));
        let Patch(operations) = serde_json::from_value(patch).map_err(no_patch)?;
        for (at, operation) in operations.iter().enumerate() {
            self.apply_operation(operation).map_err(|error| error.of(at + 1, operation))?;
        }
        Ok(())
    }

    /// The patched payload, as compact JSON.
    pub fn finish(self) -> Result<String, PatchError> {
        let payload = without_marks(&self.value.to_string());
        if payload.len() > MAX_BYTES { Err(PatchError::TooLarge) } else { Ok(payload) }
    }

    fn apply_operation(&mut self, operation: &PatchOperation) -> Result<(), OperationError> {
        self.work.step(operation.path().len())?;
        match operation {
            PatchOperation::Test(test) => return self.test(&test.path, &test.value),
            PatchOperation::Remove(remove) => self.shift(&remove.path)?,
            PatchOperation::Add(add) => self.put(&add.path, &add.value)?,
            PatchOperation::Replace(replace) => self.put(&replace.path, &replace.value)?,
            PatchOperation::Move(it) => {
                self.work.step(it.from.len())?;
                self.shift(&it.from)?;
                self.shift(&it.path)?;
                // A value that goes no deeper need not be measured.
                if it.path.count() > it.from.count() {
                    self.measure(&it.from, &it.path)?;
                }
            }
            PatchOperation::Copy(it) => {
                self.work.step(it.from.len())?;
                self.shift(&it.path)?;
                let copied = self.measure(&it.from, &it.path)?;
                self.grow(copied)?;
            }
        }
        let once = std::slice::from_ref(operation);
        patch_unsafe(&mut self.value, once)
            .map_err(|error| OperationError::Why(error.kind.to_string()))
    }

    /// Checks an operation that puts a value of the patch at this path.
    fn put(&mut self, path: &PointerBuf, value: &Value) -> Result<(), OperationError> {
        self.shift(path)?;
        let (_, depth) = self.work.measure(value)?;
        goes_no_deeper(path.count() + depth)
    }

    /// Checks an operation that puts a value of the payload at another path. Returns the size of the value;
    /// zero where there is none.
    fn measure(&mut self, from: &PointerBuf, path: &PointerBuf) -> Result<Size, OperationError> {
        let Ok(value) = from.resolve(&self.value) else { return Ok(Size::default()) };
        let (size, depth) = self.work.measure(value)?;
        goes_no_deeper(path.count() + depth)?;
        Ok(size)
    }

    /// Counts the elements behind the one that an array gains or loses, since they move.
    fn shift(&mut self, path: &PointerBuf) -> Result<(), Exhausted> {
        let parent = path.split_back().and_then(|(parent, _)| parent.resolve(&self.value).ok());
        self.work.step(parent.and_then(Value::as_array).map_or(0, Vec::len))
    }

    /// Records that the payload may have grown by this size. The payload is measured only when that may
    /// matter; until then it takes at most twice the allowed size.
    fn grow(&mut self, by: Size) -> Result<(), PatchError> {
        self.size = self.size + by;
        if self.size.exceeds(2) {
            self.size = self.work.measure(&self.value)?.0 + by;
            if self.size.exceeds(1) {
                return Err(PatchError::TooLarge);
            }
        }
        Ok(())
    }

    /// Compares numbers by their value, as the standard demands.
    fn test(&self, path: &Pointer, expected: &Value) -> Result<(), OperationError> {
        match path.resolve(&self.value) {
            Ok(found) if is_same(found, expected) => Ok(()),
            Ok(_) => Err(OperationError::Why("the value is different".into())),
            Err(_) => Err(OperationError::Why("there is no such value".into())),
        }
    }
}

/// An error of one operation.
enum OperationError {
    Why(String),
    PatchError(PatchError),
}

impl OperationError {
    fn of(self, number: usize, operation: &PatchOperation) -> PatchError {
        match self {
            Self::PatchError(error) => error,
            Self::Why(why) => {
                PatchError::Operation { number, path: operation.path().to_string(), why }
            }
        }
    }
}

impl From<Exhausted> for OperationError {
    fn from(exhausted: Exhausted) -> Self {
        Self::PatchError(exhausted.into())
    }
}

impl From<PatchError> for OperationError {
    fn from(error: PatchError) -> Self {
        Self::PatchError(error)
    }
}

fn goes_no_deeper(depth: usize) -> Result<(), OperationError> {
    if depth <= MAX_DEPTH {
        return Ok(());
    }
    Err(OperationError::Why(format!("the payload would be nested deeper than {MAX_DEPTH}")))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{limits::MAX_VALUES, *};

    fn amended(payload: &str, patches: &[&str]) -> Result<String, String> {
        let mut draft = PatchedPayload::of(payload).map_err(|error| error.to_string())?;
        for patch in patches {
            draft.apply(patch).map_err(|error| error.to_string())?;
        }
        draft.finish().map_err(|error| error.to_string())
    }

    #[test]
    fn applies_the_example_of_the_merge_patch_standard() {
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
    fn applies_all_operations_of_a_json_patch() {
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
    fn a_patch_cannot_exceed_the_depth_limit() {
        let nested = |depth| "[".repeat(depth) + &"]".repeat(depth);
        let path = "/0".repeat(63);
        let add =
            |depth| format!(r#"[{{"op": "add", "path": "{path}/-", "value": {}}}]"#, nested(depth));
        assert!(amended(&nested(64), &[&add(MAX_DEPTH - 64)]).is_ok());
        assert!(amended(&nested(64), &[&add(MAX_DEPTH - 63)]).is_err());
    }

    #[test]
    fn numbers_keep_every_digit() {
        let payload = r#"{"n": 12345678901234567890.10, "m": [-0.50, 1e400], "s": "1.50 -7 e"}"#;
        let patch = r#"{"k": 3.000000000000000000000001}"#;
        let expected = r#"{"k":3.000000000000000000000001,"m":[-0.50,1e400],"n":12345678901234567890.10,"s":"1.50 -7 e"}"#;
        assert_eq!(amended(payload, &[patch]).unwrap(), expected);
    }

    #[test]
    fn tests_numbers_by_their_value() {
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
            ("100", "1e2", true),
            ("0.010", "1E-2", true),
            ("0", "0e7", true),
            ("-100", "1e2", false),
            ("1e400", "10e399", true),
            ("1e400", "1e401", false),
        ] {
            let payload = format!(r#"{{"n": {written}}}"#);
            let done = amended(&payload, &[&test(tested)]);
            assert_eq!(done.is_ok(), fits, "{written} {tested}: {done:?}");
        }
    }

    #[test]
    fn errors_say_which_operation_fails_and_why() {
        for (patch, why) in [
            (r#"[{"op": "remove", "path": "/b"}]"#, "operation 1 (\"/b\")"),
            (
                r#"[{"op": "add", "path": "/b", "value": 1}, {"op": "test", "path": "/a", "value": 2}]"#,
                "operation 2 (\"/a\"): the value is different",
            ),
            (r#"[{"op": "test", "path": "/x", "value": 2}]"#, "there is no such value"),
            (r#"[{"op": "dance", "path": "/a"}]"#, "not a JSON Patch"),
            ("[1]", "not a JSON Patch"),
            (r#"{"a": "\u0000b"}"#, "begins with U+0000"),
            ("{", "cannot be read"),
        ] {
            let error = amended(r#"{"a": 1}"#, &[patch]).unwrap_err();
            assert!(error.contains(why), "{patch}: {error}");
            assert!(!error.contains('\0'), "{error:?}");
        }
    }

    #[test]
    fn limits_copies_of_copies_and_nesting() {
        let double = r#"[{"op": "copy", "from": "", "path": "/b"}, {"op": "copy", "from": "", "path": "/c"}]"#;
        let error = amended(r#"{"a": 1}"#, &[double; 200]).unwrap_err();
        assert!(error.contains("would be"), "{error}");
        let wide = r#"[{"op": "copy", "from": "/a", "path": "/a/-"}, {"op": "copy", "from": "/a", "path": "/a/-"}]"#;
        let error = amended(r#"{"a": [1]}"#, &[wide; 50]).unwrap_err();
        assert!(error.contains("would be"), "{error}");
        let tower = format!("{}1{}", "[".repeat(200), "]".repeat(200));
        assert!(amended(&tower, &["1"]).unwrap_err().contains("cannot be read"));
    }

    #[test]
    fn equal_values_have_one_canonical_text() {
        for (one, other, same) in [
            (r#"{"a": 1, "b": [1.0, "1"]}"#, r#"{"b":[1e0,"1"],"a":1.00}"#, true),
            ("-0", "0.0", true),
            ("1", r#""1""#, false),
            ("[1,2]", "[2,1]", false),
            ("1e400", "1e401", false),
            ("10", "1", false),
        ] {
            assert_eq!(canonical(one) == canonical(other), same, "{one} {other}");
        }
    }

    /// Moves a large value to a deeper place and back, again and again.
    #[test]
    fn all_operations_share_one_budget() {
        let large = vec!["1"; 100_000].join(",");
        let payload = format!(r#"{{"a": [{large}], "b": {{}}}}"#);
        let there = r#"{"op": "move", "from": "/a", "path": "/b/a"}"#;
        let back = r#"{"op": "move", "from": "/b/a", "path": "/a"}"#;
        let patch = |pairs| format!("[{}]", vec![format!("{there},{back}"); pairs].join(","));
        assert!(amended(&payload, &[&patch(10)]).is_ok());
        let error = amended(&payload, &[&patch(4000)]).unwrap_err();
        assert!(error.contains("too much work"), "{error}");
        let one = patch(10);
        let error = amended(&payload, &[&*one; 400]).unwrap_err();
        assert!(error.contains("too much work"), "all patches share the budget: {error}");
        let shift = r#"{"op": "move", "from": "/a/0", "path": "/a/-"}"#;
        let shifts = format!("[{}]", vec![shift; 9000].join(","));
        let error = amended(&payload, &[&shifts]).unwrap_err();
        assert!(error.contains("too much work"), "moved elements count, too: {error}");
        let tests = vec![r#"{"op": "remove", "path": "/a/0"}"#; 10_001].join(",");
        let error = amended(&payload, &[&format!("[{tests}]")]).unwrap_err();
        assert!(error.contains("10001 operations"), "{error}");
    }

    #[test]
    fn limits_the_size_of_the_patched_payload() {
        let long = "x".repeat(1 << 20);
        let patches: Vec<String> = (0..9).map(|n| format!(r#"{{"{n}": "{long}"}}"#)).collect();
        let patches: Vec<&str> = patches.iter().map(String::as_str).collect();
        assert!(amended("{}", &patches[..7]).is_ok());
        assert_eq!(amended("{}", &patches), Err(PatchError::TooLarge.to_string()));
        let same: Vec<&str> = vec![patches[0]; 30];
        assert!(
            amended("{}", &same).is_ok(),
            "the size of the result counts, not that of the patches"
        );
        assert!(amended(&format!("[{}1]", "1,".repeat(MAX_VALUES)), &["1"]).is_err());
        let copy = r#"[{"op": "copy", "from": "/a", "path": "/b"}]"#;
        let copies: Vec<String> = (0..40).map(|n| copy.replace("/b", &format!("/{n}"))).collect();
        let copies: Vec<&str> = copies.iter().map(String::as_str).collect();
        let payload = format!(r#"{{"a": "{long}"}}"#);
        assert_eq!(amended(&payload, &copies), Err(PatchError::TooLarge.to_string()));
    }

    proptest! {
        #[test]
        fn an_unpatched_payload_is_unchanged(text in "\\PC*", number in any::<f64>(), deep in 0..9) {
            let value = serde_json::json!({ text.as_str(): [text, number, deep, { "x": null }] });
            let written = value.to_string();
            prop_assert_eq!(PatchedPayload::of(&written).unwrap().finish(), Ok(written));
        }

        #[test]
        fn does_not_panic_on_any_text(payload in "[\\[\\]{}\",:0-9eE.+\\\\u-]{0,30}", patch in "\\PC{0,30}") {
            if let Ok(mut draft) = PatchedPayload::of(&payload) {
                let _ = draft.apply(&patch);
            }
        }
    }
}

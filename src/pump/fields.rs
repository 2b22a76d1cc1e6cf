//! The JSON form of events for an aggregator: the fields of the object, and the source of each value.

use std::{borrow::Cow, collections::BTreeMap, str::FromStr};

use serde_json::{Value, value::RawValue};

use crate::{event::EventId, store::history::StoredEvent};

/// The fields of an event's JSON, in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fields(Vec<Field>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Field {
    name: String,
    /// The encoded name and colon, after the brace or comma.
    key: Vec<u8>,
    /// The value comes from the first of these that the event has.
    sources: Vec<Source>,
}

/// The source of a field's value.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Source {
    Id,
    Type,
    Timestamp,
    Subscriber,
    Stream,
    Version,
    Uid,
    Amends,
    Payload(Vec<String>),
    Metadata(Vec<String>),
    Literal(String),
}

/// The setting `default`: the columns of the event.
const DEFAULT: &str = "id = id, type = type, timestamp = timestamp, subscriber = subscriber, \
                   stream = stream, version = version, uid = uid, payload = payload, \
                   metadata = metadata";

/// The setting `predecessor`: the fields that the aggregators of the predecessor expect.
const PREDECESSOR: &str = "\
id = uid|id, cursor = id, entity = payload/entity|stream, entityId = payload/entityId, \
data = payload/data|payload, oldValues = payload/oldValues, newValues = payload/newValues, \
type = type, date = timestamp, principalId = payload/principalId|metadata/principalId, \
columns = payload/columns";

/// Why a description of fields is not valid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidFields {
    /// A part is not of the form `name = source`.
    #[error("{0:?} is not of the form name = source")]
    NoPair(String),
    /// An unknown source.
    #[error(
        "{0:?} is not a source: expected id, type, timestamp, subscriber, stream, version, uid, amends, \
         payload, metadata, payload/a/path, metadata/a/path, or 'a text'"
    )]
    NoSource(String),
    /// The aggregator could not detect repeated events.
    #[error(
        "no field has the source id alone, which the aggregator needs to detect repeated events"
    )]
    NoId,
}

impl Default for Fields {
    fn default() -> Self {
        DEFAULT.parse().expect("the default is valid")
    }
}

impl FromStr for Fields {
    type Err = InvalidFields;

    /// Parses `default`, `predecessor`, or pairs `name = source` that are separated by commas or line
    /// breaks. Several sources of a field are separated by `|`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = match text.trim() {
            "default" => DEFAULT,
            "predecessor" => PREDECESSOR,
            text => text,
        };
        let pairs = text.split([',', '\n']).map(str::trim).filter(|pair| !pair.is_empty());
        let fields = pairs.enumerate().map(|(index, pair)| Field::parse(pair, index));
        let fields = fields.collect::<Result<Vec<_>, _>>()?;
        let id = fields.iter().any(|field| field.sources == [Source::Id]);
        if id { Ok(Self(fields)) } else { Err(InvalidFields::NoId) }
    }
}

impl Field {
    fn parse(pair: &str, index: usize) -> Result<Self, InvalidFields> {
        let (name, sources) =
            pair.split_once('=').ok_or_else(|| InvalidFields::NoPair(pair.to_owned()))?;
        let name = name.trim().to_owned();
        let sources = sources.split('|').map(str::trim).map(Source::parse);
        let sources = sources.collect::<Result<_, _>>()?;
        let before = if index == 0 { '{' } else { ',' };
        let key = format!("{before}{}:", Value::from(name.as_str())).into_bytes();
        Ok(Self { name, key, sources })
    }
}

impl Source {
    fn parse(text: &str) -> Result<Self, InvalidFields> {
        let (head, path) = text.split_once('/').unwrap_or((text, ""));
        let path = || path.split('/').filter(|step| !step.is_empty()).map(unescaped).collect();
        let literal = text.strip_prefix('\'').and_then(|text| text.strip_suffix('\''));
        match (head, text) {
            ("payload", _) => Ok(Self::Payload(path())),
            ("metadata", _) => Ok(Self::Metadata(path())),
            (_, "id") => Ok(Self::Id),
            (_, "type") => Ok(Self::Type),
            (_, "timestamp") => Ok(Self::Timestamp),
            (_, "subscriber") => Ok(Self::Subscriber),
            (_, "stream") => Ok(Self::Stream),
            (_, "version") => Ok(Self::Version),
            (_, "uid") => Ok(Self::Uid),
            (_, "amends") => Ok(Self::Amends),
            _ => literal
                .map(|text| Self::Literal(Value::from(text).to_string()))
                .ok_or_else(|| InvalidFields::NoSource(text.to_owned())),
        }
    }

    /// Appends the value. Returns `false` if the event has none.
    fn put(&self, out: &mut Vec<u8>, event: &StoredEvent) -> bool {
        match self {
            Self::Id => put_number(out, event.id.get()),
            Self::Type => put_text(out, &event.kind),
            Self::Timestamp => put_text(out, &event.timestamp),
            Self::Subscriber => return put_some(out, event.subscriber.as_deref(), put_text),
            Self::Stream => return put_some(out, event.stream.as_deref(), put_text),
            Self::Version => return put_some(out, event.version, put_number),
            Self::Uid => return put_some(out, event.uid.as_deref(), put_text),
            Self::Amends => {
                return put_some(out, event.amends, |out, id| put_number(out, id.get()));
            }
            Self::Payload(path) => return put_at(out, &event.payload, path),
            Self::Metadata(path) => {
                return event.metadata.as_ref().is_some_and(|json| put_at(out, json, path));
            }
            Self::Literal(json) => out.extend_from_slice(json.as_bytes()),
        }
        true
    }
}

/// Resolves the escapes of JSON Pointer (RFC 6901).
fn unescaped(step: &str) -> String {
    step.replace("~1", "/").replace("~0", "~")
}

fn put_number(out: &mut Vec<u8>, number: i64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text)
        .expect("a string can be encoded, and writing to a vector does not fail");
}

fn put_some<T>(out: &mut Vec<u8>, value: Option<T>, put: impl FnOnce(&mut Vec<u8>, T)) -> bool {
    value.map(|value| put(out, value)).is_some()
}

/// Appends the value at a path unchanged, so that numbers keep all digits. Returns `false` if there is
/// none.
fn put_at(out: &mut Vec<u8>, json: &str, path: &[String]) -> bool {
    if path.is_empty() {
        out.extend_from_slice(json.as_bytes());
        return true;
    }
    let found = serde_json::from_str(json).ok().and_then(|json| at(json, path));
    let found = found.filter(|json| json.get() != "null");
    found.map(|json| out.extend_from_slice(json.get().as_bytes())).is_some()
}

fn at<'a>(json: &'a RawValue, path: &[String]) -> Option<&'a RawValue> {
    let Some((step, rest)) = path.split_first() else { return Some(json) };
    let inner = if json.get().starts_with('[') {
        let list: Vec<&RawValue> = serde_json::from_str(json.get()).ok()?;
        *list.get(step.parse::<usize>().ok()?)?
    } else {
        let object: BTreeMap<Cow<'_, str>, &RawValue> = serde_json::from_str(json.get()).ok()?;
        object.get(step.as_str()).copied()?
    };
    at(inner, rest)
}

/// The result of comparing an aggregator's event with the one of the same id in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// They are the same event.
    Same,
    /// They are different events.
    Contradicts,
}

impl Fields {
    /// Appends an event's JSON.
    pub fn put(&self, out: &mut Vec<u8>, event: &StoredEvent) {
        for field in &self.0 {
            out.extend_from_slice(&field.key);
            if !field.sources.iter().any(|source| source.put(out, event)) {
                out.extend_from_slice(b"null");
            }
        }
        out.push(b'}');
    }

    /// The id in an aggregator's event. `None` if it cannot be the id of an event.
    #[must_use]
    pub fn id_of(&self, answer: &Value) -> Option<EventId> {
        let field = self.0.iter().find(|field| field.sources == [Source::Id])?;
        let value = answer.get(&field.name)?;
        let number = value.as_i64().or_else(|| value.as_str()?.parse().ok());
        number.filter(|number| *number > 0).map(EventId::new)
    }

    /// Whether an aggregator's event has every field that a pump sends. Then it was probably sent by one.
    #[must_use]
    pub fn has_all_fields(&self, answer: &Value) -> bool {
        self.0.iter().all(|field| answer.get(&field.name).is_some())
    }

    /// Compares an aggregator's event with the one of the same id in the log. Only fields that an
    /// aggregator does not change are compared, and only those that it returns.
    #[must_use]
    pub fn compare(&self, event: &StoredEvent, answer: &Value) -> Comparison {
        let identifying = |field: &&Field| {
            let names = [Source::Type, Source::Stream, Source::Version, Source::Uid];
            field.sources.iter().any(|source| names.contains(source))
        };
        let mut json = Vec::new();
        self.put(&mut json, event);
        let ours: Value = serde_json::from_slice(&json).unwrap_or_default();
        let differs = |field: &Field| {
            let theirs = answer.get(&field.name).filter(|value| !value.is_null());
            theirs.is_some_and(|theirs| as_text(theirs) != as_text(&ours[&field.name]))
        };
        let same = !self.0.iter().filter(identifying).any(differs);
        if same { Comparison::Same } else { Comparison::Contradicts }
    }
}

/// A value as text, since some stores return numbers as strings.
fn as_text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_pairs_with_an_id_among_them() {
        assert!("predecessor".parse::<Fields>().is_ok());
        assert_eq!("default".parse(), Ok(Fields::default()));
        assert!("n = id\nkind = 'order'\nwho = metadata/a~1b|subscriber".parse::<Fields>().is_ok());
        assert_eq!("type = type".parse::<Fields>(), Err(InvalidFields::NoId));
        assert_eq!("id".parse::<Fields>(), Err(InvalidFields::NoPair("id".into())));
        assert_eq!("id = di".parse::<Fields>(), Err(InvalidFields::NoSource("di".into())));
    }

    #[test]
    fn a_path_finds_unchanged_values() {
        let json = r#"{"a": {"b~/c": [1, 12345678901234567890.10]}, "n": null}"#;
        let found = |path: &str| {
            let Source::Payload(path) = Source::parse(path).unwrap() else { panic!("no payload") };
            let mut out = Vec::new();
            put_at(&mut out, json, &path).then(|| String::from_utf8(out).unwrap())
        };
        assert_eq!(found("payload/a/b~0~1c/1").as_deref(), Some("12345678901234567890.10"));
        assert_eq!(found("payload/n"), None);
        assert_eq!(found("payload/a/x"), None);
        assert_eq!(found("payload/a/b~0~1c/7"), None);
        assert_eq!(unescaped("~01~10"), "~1/0", "RFC 6901: slashes first");
    }

    #[test]
    fn the_id_is_read_from_an_answer() {
        let fields: Fields = "predecessor".parse().unwrap();
        let answer = serde_json::json!({ "id": "5b0c", "cursor": "17" });
        assert_eq!(fields.id_of(&answer), Some(EventId::new(17)));
        assert!(!fields.has_all_fields(&answer));
        assert_eq!(Fields::default().id_of(&answer), None);
    }
}

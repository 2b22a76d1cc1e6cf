//! Events as an aggregator expects them: which fields a JSON object has, and where each comes
//! from.

use std::{borrow::Cow, collections::BTreeMap, str::FromStr};

use serde_json::{Value, value::RawValue};

use crate::{event::EventId, store::history::WholeEvent};

/// The fields of an event's JSON, in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fields(Vec<Field>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Field {
    name: String,
    /// The name, a colon, and what stands before both.
    key: Vec<u8>,
    /// The first of these that the event has.
    sources: Vec<Source>,
}

/// Where a field's value comes from.
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

/// The event's own fields.
const OWN: &str = "id = id, type = type, timestamp = timestamp, subscriber = subscriber, \
                   stream = stream, version = version, uid = uid, payload = payload, \
                   metadata = metadata";

/// What the predecessor's aggregators expect, out of payloads of its shape.
const PREDECESSOR: &str = "\
id = uid|id, cursor = id, entity = payload/entity|stream, entityId = payload/entityId, \
data = payload/data|payload, oldValues = payload/oldValues, newValues = payload/newValues, \
type = type, date = timestamp, principalId = payload/principalId|metadata/principalId, \
columns = payload/columns";

/// Why a text describes no fields.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidFields {
    /// Not `name = source`.
    #[error("{0:?} is not name = source")]
    NoPair(String),
    /// A source that no event has.
    #[error(
        "{0:?} is no source: id, type, timestamp, subscriber, stream, version, uid, amends, \
         payload, metadata, payload/a/path, metadata/a/path, or 'a text'"
    )]
    NoSource(String),
    /// The aggregator could not tell a repeat.
    #[error("no field is the event's id alone, by which the aggregator knows a repeat")]
    NoId,
}

impl Default for Fields {
    fn default() -> Self {
        OWN.parse().expect("the fields are right")
    }
}

impl FromStr for Fields {
    type Err = InvalidFields;

    /// `predecessor`, `default`, or pairs `name = source`, separated by commas or line breaks;
    /// a source is one or several, separated by `|`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = match text.trim() {
            "default" => OWN,
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

    /// Appends the value; `false` where the event has none.
    fn put(&self, out: &mut Vec<u8>, event: &WholeEvent) -> bool {
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

/// RFC 6901's escapes.
fn unescaped(step: &str) -> String {
    step.replace("~1", "/").replace("~0", "~")
}

fn put_number(out: &mut Vec<u8>, number: i64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("a text is JSON, and a vector takes all");
}

fn put_some<T>(out: &mut Vec<u8>, value: Option<T>, put: impl FnOnce(&mut Vec<u8>, T)) -> bool {
    value.map(|value| put(out, value)).is_some()
}

/// Appends what stands at a path, as it stands there: numbers keep all their digits.
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

/// Whether the event that an aggregator shows is one of this log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Likeness {
    /// It is this very event.
    Same,
    /// It says so, but it is another one.
    Contradicts,
}

impl Fields {
    /// Appends an event's JSON.
    pub fn put(&self, out: &mut Vec<u8>, event: &WholeEvent) {
        for field in &self.0 {
            out.extend_from_slice(&field.key);
            if !field.sources.iter().any(|source| source.put(out, event)) {
                out.extend_from_slice(b"null");
            }
        }
        out.push(b'}');
    }

    /// The id that an aggregator's event says it has, where it could be one of ours.
    #[must_use]
    pub fn id_of(&self, answer: &Value) -> Option<EventId> {
        let field = self.0.iter().find(|field| field.sources == [Source::Id])?;
        let value = answer.get(&field.name)?;
        let number = value.as_i64().or_else(|| value.as_str()?.parse().ok());
        number.filter(|number| *number > 0).map(EventId::new)
    }

    /// Whether it has every field that we send, as only an aggregator has that keeps ours.
    #[must_use]
    pub fn made(&self, answer: &Value) -> bool {
        self.0.iter().all(|field| answer.get(&field.name).is_some())
    }

    /// Compares an aggregator's event with the one of the same id, by what an aggregator
    /// leaves as it is; a field that it does not keep says nothing.
    #[must_use]
    pub fn compare(&self, event: &WholeEvent, answer: &Value) -> Likeness {
        let identifying = |field: &&Field| {
            let names = [Source::Type, Source::Stream, Source::Version, Source::Uid];
            field.sources.iter().any(|source| names.contains(source))
        };
        let mut json = Vec::new();
        self.put(&mut json, event);
        let ours: Value = serde_json::from_slice(&json).unwrap_or_default();
        let differs = |field: &Field| {
            let theirs = answer.get(&field.name).filter(|value| !value.is_null());
            theirs.is_some_and(|theirs| plain(theirs) != plain(&ours[&field.name]))
        };
        let same = !self.0.iter().filter(identifying).any(differs);
        if same { Likeness::Same } else { Likeness::Contradicts }
    }
}

/// Some stores give numbers back as texts.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_pairs_and_one_of_them_is_the_id() {
        assert!("predecessor".parse::<Fields>().is_ok());
        assert_eq!("default".parse(), Ok(Fields::default()));
        assert!("n = id\nkind = 'order'\nwho = metadata/a~1b|subscriber".parse::<Fields>().is_ok());
        assert_eq!("type = type".parse::<Fields>(), Err(InvalidFields::NoId));
        assert_eq!("id".parse::<Fields>(), Err(InvalidFields::NoPair("id".into())));
        assert_eq!("id = di".parse::<Fields>(), Err(InvalidFields::NoSource("di".into())));
    }

    #[test]
    fn a_path_finds_values_as_they_stand() {
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
    fn an_answer_is_known_by_its_id() {
        let fields: Fields = "predecessor".parse().unwrap();
        let answer = serde_json::json!({ "id": "5b0c", "cursor": "17" });
        assert_eq!(fields.id_of(&answer), Some(EventId::new(17)));
        assert!(!fields.made(&answer));
        assert_eq!(Fields::default().id_of(&answer), None);
    }
}

//! Parses events from JSON. All events of a body are checked before any is written.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::{base64::is_base64, body, dedup};
use crate::{
    event::{
        EventId,
        draft::{Draft, Expected, Place},
        json::Json,
        name::StreamName,
    },
    http::{app::Limits, error::Problem},
    store::append::Written,
};

/// The form of the events in a body.
#[derive(Clone, Copy, Debug)]
pub(in crate::http) enum Form<'a> {
    /// Events for consumers or streams, with `payload`.
    Event,
    /// Events of this stream, with `data` as in the predecessor, or `payload`.
    Appended(&'a StreamName),
}

/// The events of a body.
pub(in crate::http) struct ParsedBody {
    /// The drafts to write, each `uid` once.
    pub(in crate::http) drafts: Vec<Draft>,
    /// For each event of the body, the index of its draft.
    draft_indexes: Vec<usize>,
    /// The body is one event, not an array.
    pub(in crate::http) is_single: bool,
}

/// Some programs write this before any text. RFC 8259 allows a parser to ignore it.
const BYTE_ORDER_MARK: char = '\u{feff}';

/// The number of events in an array, which is written atomically.
const MAX_EVENTS: usize = 10_000;

/// An event as a client sends it. Unknown fields are refused: a misspelt field would otherwise be ignored.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
struct EventInput<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow, default, deserialize_with = "present")]
    subscriber: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "present")]
    payload: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    data: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    timestamp: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "present")]
    uid: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    metadata: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    stream: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "present")]
    expected: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    amends: Option<&'a RawValue>,
}

/// Distinguishes `null` from an absent field: `null` is a valid payload, but not a valid name.
fn present<'de, D, T>(from: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    T::deserialize(from).map(Some)
}

/// Parses one event or an array of events.
///
/// # Errors
/// A problem that names the event, such as for an event larger than `limits.event` or events that together
/// exceed `limits.body` with their numbers written out.
pub(in crate::http) fn parse(
    text: &str,
    form: Form,
    limits: &Limits,
) -> Result<ParsedBody, Problem> {
    let max_bytes = limits.event;
    let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text).trim_start();
    if !text.starts_with('[') {
        let draft = parse_one(text, form, max_bytes)?;
        return Ok(ParsedBody { drafts: vec![draft], draft_indexes: vec![0], is_single: true });
    }
    let events: Vec<&RawValue> =
        serde_json::from_str(text).map_err(|error| invalid_json(&error))?;
    if events.is_empty() || events.len() > MAX_EVENTS {
        let detail = format!("the array has {} events: expected 1 to {MAX_EVENTS}", events.len());
        return Err(Problem::bad_request(detail));
    }
    let numbered = |(at, event): (usize, &&RawValue)| {
        parse_one(event.get(), form, max_bytes)
            .map_err(|problem| problem.about(&format!("event {at}")))
    };
    let mut drafts = Vec::with_capacity(events.len());
    let mut printed = 0_usize;
    for draft in events.iter().enumerate().map(numbered) {
        let draft = draft?;
        printed = printed.saturating_add(draft.printed_len());
        if printed > limits.body {
            return Err(body::larger_written_out(limits.body));
        }
        drafts.push(draft);
    }
    let draft_indexes = dedup::by_uid(&mut drafts);
    let draft_indexes =
        draft_indexes.map_err(|(at, problem)| problem.about(&format!("event {at}")))?;
    Ok(ParsedBody { drafts, draft_indexes, is_single: false })
}

impl ParsedBody {
    /// The index of the first event of the body that became this draft.
    pub(in crate::http) fn first_of(&self, draft: usize) -> usize {
        self.draft_indexes.iter().position(|index| *index == draft).unwrap_or(draft)
    }

    /// The results for the events of the body, from those for the drafts.
    pub(in crate::http) fn results(&self, written: &[Written]) -> Vec<Written> {
        self.draft_indexes.iter().map(|index| written[*index]).collect()
    }
}

/// Parses one event of at most `max_bytes`, both as sent and with its numbers written out.
pub(in crate::http) fn parse_one(
    text: &str,
    form: Form,
    max_bytes: usize,
) -> Result<Draft, Problem> {
    let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text).trim();
    if text.len() > max_bytes {
        let detail = format!("the event is larger than {max_bytes} bytes (--max-event)");
        return Err(Problem::too_large(detail));
    }
    let input = EventInput::parse(text)?;
    let payload = match form {
        Form::Event => input.payload.map(|payload| json("payload", payload)),
        Form::Appended(_) => input.data().or(input.payload.map(|it| json("payload", it))),
    };
    let draft = Draft {
        kind: input.kind.parse().map_err(|e| invalid_field("type", &e))?,
        subscriber: input.subscriber.as_deref().map(|it| field("subscriber", it)).transpose()?,
        payload: payload.unwrap_or_else(|| Err(missing_payload(form)))?,
        timestamp: input.timestamp.as_deref().map(|text| field("timestamp", text)).transpose()?,
        uid: input.uid.as_deref().map(|text| field("uid", text)).transpose()?,
        metadata: input.metadata.map(|metadata| json("metadata", metadata)).transpose()?,
        place: input.place(form)?,
        amends: input.amends.map(|id| amended(id.get())).transpose()?,
    };
    input.check(form, &draft)?;
    if draft.printed_len() > max_bytes {
        return Err(Problem::too_large(format!(
            "the event is larger than {max_bytes} bytes (--max-event) with its numbers written out, \
             as they are stored and delivered"
        )));
    }
    Ok(draft)
}

impl<'a> EventInput<'a> {
    /// Parses an object. Refuses arrays, whose items serde would take for the fields in order.
    fn parse(text: &'a str) -> Result<Self, Problem> {
        if text.trim_start().starts_with('[') {
            return Err(Problem::bad_request("an event is an object, not an array"));
        }
        serde_json::from_str(text).map_err(|error| invalid_json(&error))
    }

    /// `data` as a payload: Base64 text, as in the predecessor, or an object or array.
    fn data(&self) -> Option<Result<Json, Problem>> {
        let data = self.data?;
        let text = match data.get().as_bytes().first() {
            Some(b'{' | b'[') => return Some(json("data", data)),
            Some(b'"') => serde_json::from_str::<Cow<str>>(data.get()).ok(),
            _ => None,
        };
        let text = text.filter(|text| is_base64(text));
        Some(text.map(|text| Json::string(&text)).ok_or_else(|| {
            Problem::bad_request(
                "data is neither Base64 (the standard alphabet, padded) nor an object or array: send \
                 other JSON as payload",
            )
        }))
    }

    fn place(&self, form: Form) -> Result<Option<Place>, Problem> {
        let stream = match (form, &self.stream) {
            (Form::Appended(stream), None) => Some(stream.clone()),
            (Form::Appended(_), Some(_)) => {
                return Err(Problem::bad_request(
                    "the address names the stream: leave out the field stream",
                ));
            }
            (Form::Event, stream) => {
                stream.as_deref().map(|name| field("stream", name)).transpose()?
            }
        };
        let expected = self.expected.map(|expected| expectation(expected.get())).transpose()?;
        match (stream, expected) {
            (Some(stream), expected) => {
                Ok(Some(Place { stream, expected: expected.unwrap_or(Expected::Any) }))
            }
            (None, None) => Ok(None),
            (None, Some(_)) => Err(Problem::bad_request("expected refers to a stream: name one")),
        }
    }

    fn check(&self, form: Form, draft: &Draft) -> Result<(), Problem> {
        match form {
            Form::Event if self.data.is_some() => {
                Err(Problem::bad_request("data is for streams: send payload here"))
            }
            Form::Appended(_) if self.data.is_some() && self.payload.is_some() => {
                Err(Problem::bad_request("data and payload mean the same: send one of them"))
            }
            _ if draft.subscriber.is_none() && draft.place.is_none() => Err(Problem::bad_request(
                "the event has no subscriber and no stream: name who the event is for (subscriber), \
                 or its stream (stream)",
            )),
            _ => Ok(()),
        }
    }
}

/// Parses `expected`: the stream's last version, or a word.
fn expectation(text: &str) -> Result<Expected, Problem> {
    let current = || whole_number(text).filter(|current| *current >= 0)?.checked_add(1);
    match text {
        r#""any""# => Ok(Expected::Any),
        r#""no-stream""# => Ok(Expected::Version(1)),
        r#""stream-exists""# => Ok(Expected::Exists),
        _ => current().map(Expected::Version).ok_or_else(|| {
            Problem::bad_request(
                "expected must be the stream's last version (0: it has none), \"any\", \"no-stream\" \
                 or \"stream-exists\"",
            )
        }),
    }
}

/// Parses `amends`: the id of the event to correct.
fn amended(text: &str) -> Result<EventId, Problem> {
    let id = whole_number(text).filter(|id| *id > 0).map(EventId::new);
    id.ok_or_else(|| Problem::bad_request("amends must be the id of an earlier event"))
}

/// Parses an integer in any notation of JSON, such as `4`, `4.0` or `1e2`.
fn whole_number(text: &str) -> Option<i64> {
    let other_notation = || {
        let number: f64 = text.parse().ok()?;
        (number.fract() == 0.0).then(|| format!("{number:.0}").parse().ok())?
    };
    text.parse().ok().or_else(other_notation)
}

fn field<T: std::str::FromStr<Err: std::fmt::Display>>(
    name: &str,
    text: &str,
) -> Result<T, Problem> {
    text.parse().map_err(|invalid| invalid_field(name, &invalid))
}

fn json(name: &str, value: &RawValue) -> Result<Json, Problem> {
    Json::examine(value.get()).map_err(|invalid| invalid_field(name, &invalid))
}

fn invalid_field(name: &str, invalid: &impl std::fmt::Display) -> Problem {
    Problem::bad_request(format!("{name}: {invalid}"))
}

fn missing_payload(form: Form) -> Problem {
    Problem::bad_request(match form {
        Form::Event => "payload is missing: send any JSON value, also null",
        Form::Appended(_) => "data is missing: send Base64 text, an object or an array",
    })
}

fn invalid_json(error: &serde_json::Error) -> Problem {
    Problem::bad_request(format!("the body is not a valid event in JSON: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX_BYTES: usize = 10_000;

    fn limits() -> Limits {
        Limits { event: MAX_BYTES, body: 3 * MAX_BYTES, ..Limits::default() }
    }

    fn published(text: &str) -> Result<Draft, Problem> {
        parse_one(text, Form::Event, MAX_BYTES)
    }

    fn appended(text: &str) -> Result<Draft, Problem> {
        parse_one(text, Form::Appended(&"s".parse().unwrap()), MAX_BYTES)
    }

    #[test]
    fn parses_all_fields_of_an_event() {
        let draft = published(
            r#"{"type":"a","subscriber":"toto","payload":null,"timestamp":"2024-05-01T12:00:00Z",
                "uid":"e5a2c0de-0000-4000-8000-000000000001","metadata":{"by":1.50},
                "stream":"s","expected":4}"#,
        )
        .unwrap();
        assert_eq!(draft.payload.as_str(), "null");
        assert_eq!(draft.metadata.unwrap().as_str(), r#"{"by":1.50}"#);
        assert_eq!(draft.place.unwrap().expected, Expected::Version(5));
        for (word, expected) in [
            ("\"any\"", Expected::Any),
            ("\"no-stream\"", Expected::Version(1)),
            ("\"stream-exists\"", Expected::Exists),
            ("0", Expected::Version(1)),
            ("4.0", Expected::Version(5)),
            ("1e2", Expected::Version(101)),
        ] {
            let text = format!(r#"{{"type":"a","payload":1,"stream":"s","expected":{word}}}"#);
            assert_eq!(published(&text).unwrap().place.unwrap().expected, expected, "{word}");
        }
    }

    #[test]
    fn limits_an_event_with_its_numbers_written_out() {
        let event = |count: usize| {
            let numbers = vec!["1e1000"; count].join(",");
            published(&format!(r#"{{"type":"a","subscriber":"a","payload":[{numbers}]}}"#))
        };
        assert!(event(9).is_ok());
        let problem = event(11).unwrap_err();
        assert!(problem.detail().contains("written out"), "{}", problem.detail());
    }

    #[test]
    fn limits_a_body_with_its_numbers_written_out() {
        let event = r#"{"type":"a","subscriber":"a","payload":[1e4000,1e4000]}"#;
        let parsed = |many| {
            let events = vec![event; many].join(",");
            parse(&format!("[{events}]"), Form::Event, &limits())
        };
        assert!(parsed(3).is_ok());
        let problem = parsed(4).err().unwrap();
        assert!(problem.detail().contains("--max-body"), "{}", problem.detail());
        assert!(problem.detail().contains("written out"), "{}", problem.detail());
    }

    #[test]
    fn ignores_a_byte_order_mark() {
        let text = "\u{feff} {\"type\":\"a\",\"subscriber\":\"a\",\"payload\":1}";
        assert!(parse(text, Form::Event, &limits()).is_ok());
        assert!(published(text).is_ok(), "a line, too");
    }

    #[test]
    fn limits_the_events_of_an_array() {
        let array = |many| {
            let events = vec![r#"{"type":"a","subscriber":"b","payload":1}"#; many].join(",");
            parse(&format!("[{events}]"), Form::Event, &Limits::default())
        };
        assert_eq!(array(MAX_EVENTS).unwrap().drafts.len(), MAX_EVENTS);
        assert!(array(MAX_EVENTS + 1).is_err());
        assert!(array(0).is_err());
    }

    #[test]
    fn accepts_data_as_base64_object_or_array() {
        let payload = |data: &str| {
            let draft = appended(&format!(r#"{{"type":"a","data":{data}}}"#));
            draft.map(|draft| draft.payload.as_str().to_owned()).ok()
        };
        assert_eq!(payload(r#""aGVsbG8=""#).as_deref(), Some(r#""aGVsbG8=""#));
        assert_eq!(payload(r#"{"a":1.0}"#).as_deref(), Some(r#"{"a":1.0}"#));
        assert_eq!(payload("[]").as_deref(), Some("[]"));
        for wrong in [r#""hello""#, "1", "null", "true", r#"{"a":1,"a":2}"#] {
            assert_eq!(payload(wrong), None, "{wrong} was accepted");
        }
        assert!(appended(r#"{"type":"a","payload":"any text"}"#).is_ok());
    }

    #[test]
    fn names_what_is_wrong_with_an_event() {
        for (text, says) in [
            ("", "not a valid event"),
            ("{}", "type"),
            (r#"["a","b",1]"#, "an event is an object"),
            (r#""a""#, "expected an object"),
            ("null", "expected an object"),
            (r#"{"type":"","subscriber":"a","payload":1}"#, "type: is empty"),
            (r#"{"type":"$x","subscriber":"a","payload":1}"#, "begins with $"),
            (r#"{"type":"a","subscriber":"a"}"#, "payload is missing"),
            (r#"{"type":"a","payload":1}"#, "who the event is for"),
            (r#"{"type":"a","subscriber":"a","payload":1,"payload":2}"#, "duplicate field"),
            (r#"{"type":"a","subscriber":"a","payloda":1}"#, "payloda"),
            (r#"{"type":"a","subscriber":null,"payload":1}"#, "null"),
            (r#"{"type":"a","stream":"s","payload":1,"expected":null}"#, "last version"),
            (r#"{"type":"a","subscriber":"a","payload":"\u0000"}"#, "U+0000"),
            (r#"{"type":"a","subscriber":"a\u0000","payload":1}"#, "control character"),
            (r#"{"type":"a","subscriber":"a","payload":1,"uid":"x"}"#, "uid: "),
            (r#"{"type":"a","subscriber":"a","payload":1,"timestamp":"now"}"#, "timestamp: "),
            (r#"{"type":"a","subscriber":"a","payload":1,"expected":1}"#, "name one"),
            (r#"{"type":"a","stream":"a","payload":1,"expected":-1}"#, "last version"),
            (r#"{"type":"a","stream":"a","payload":1,"amends":0}"#, "earlier event"),
            (r#"{"type":"a","stream":"a","payload":1,"amends":"1"}"#, "earlier event"),
            (r#"{"type":"a","subscriber":"a","data":{},"payload":1}"#, "payload"),
        ] {
            let problem = published(text).unwrap_err();
            assert!(problem.detail().contains(says), "{text}: {}", problem.detail());
        }
        let several =
            parse(r#"[{"type":"a","subscriber":"a","payload":1},{}]"#, Form::Event, &limits());
        let problem = several.err().unwrap();
        assert!(problem.detail().starts_with("event 1: "), "{}", problem.detail());
    }
}

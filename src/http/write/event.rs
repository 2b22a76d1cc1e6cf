//! Events as writers send them: JSON, checked as a whole before anything is written.

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

/// What is expected of a body.
#[derive(Clone, Copy, Debug)]
pub(in crate::http) enum Form<'a> {
    /// Events for consumers or streams, with `payload`.
    Event,
    /// Events of this stream, with `data` as the predecessor had it, or `payload`.
    Appended(&'a StreamName),
}

/// The events of a body.
pub(in crate::http) struct ParsedBody {
    /// Each `uid` once.
    pub(in crate::http) drafts: Vec<Draft>,
    /// Of each event of the body, which of these it is.
    places: Vec<usize>,
    /// It was one event, not an array.
    pub(in crate::http) one: bool,
}

/// What some programs put before any text. RFC 8259 lets a reader ignore it.
const BYTE_ORDER_MARK: char = '\u{feff}';

/// As many events are written at once, all or nothing.
const MOST: usize = 10_000;

/// An event as it is sent. What is not known is refused: a field that is misspelt would
/// otherwise be missing in silence.
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

/// `null` is not the same as nothing: it is a payload, too, and no name.
fn present<'de, D, T>(from: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    T::deserialize(from).map(Some)
}

/// Reads one event or an array of them. Each has its limit, and so have all together, as they are
/// kept and sent.
pub(in crate::http) fn parse(
    text: &str,
    form: Form,
    limits: &Limits,
) -> Result<ParsedBody, Problem> {
    let most = limits.event;
    let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text).trim_start();
    if !text.starts_with('[') {
        let draft = one(text, form, most)?;
        return Ok(ParsedBody { drafts: vec![draft], places: vec![0], one: true });
    }
    let events: Vec<&RawValue> = serde_json::from_str(text).map_err(|error| no_json(&error))?;
    if events.is_empty() || events.len() > MOST {
        let detail =
            format!("an array of 1 to {MOST} events is expected: this has {}", events.len());
        return Err(Problem::bad_request(detail));
    }
    let numbered = |(at, event): (usize, &&RawValue)| {
        one(event.get(), form, most).map_err(|problem| problem.about(&format!("event {at}")))
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
    let places = dedup::by_uid(&mut drafts);
    let places = places.map_err(|(at, problem)| problem.about(&format!("event {at}")))?;
    Ok(ParsedBody { drafts, places, one: false })
}

impl ParsedBody {
    /// The first event of the body that is this one of the drafts.
    pub(in crate::http) fn first_of(&self, draft: usize) -> usize {
        self.places.iter().position(|place| *place == draft).unwrap_or(draft)
    }

    /// Where each event of the body stands, by where its drafts do.
    pub(in crate::http) fn places(&self, written: &[Written]) -> Vec<Written> {
        self.places.iter().map(|place| written[*place]).collect()
    }
}

/// Reads one event.
pub(in crate::http) fn one(text: &str, form: Form, most: usize) -> Result<Draft, Problem> {
    let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text).trim();
    if text.len() > most {
        let detail = format!("the event is larger than {most} bytes (--max-event)");
        return Err(Problem::too_large(detail));
    }
    let sent = EventInput::of(text)?;
    let payload = match form {
        Form::Event => sent.payload.map(|payload| json("payload", payload)),
        Form::Appended(_) => sent.data().or(sent.payload.map(|it| json("payload", it))),
    };
    let draft = Draft {
        kind: sent.kind.parse().map_err(|e| wrong("type", &e))?,
        subscriber: sent.subscriber.as_deref().map(|name| read("subscriber", name)).transpose()?,
        payload: payload.unwrap_or_else(|| Err(missing(form)))?,
        timestamp: sent.timestamp.as_deref().map(|text| read("timestamp", text)).transpose()?,
        uid: sent.uid.as_deref().map(|text| read("uid", text)).transpose()?,
        metadata: sent.metadata.map(|metadata| json("metadata", metadata)).transpose()?,
        place: sent.place(form)?,
        amends: sent.amends.map(|id| amended(id.get())).transpose()?,
    };
    sent.check(form, &draft)?;
    if draft.printed_len() > most {
        return Err(Problem::too_large(format!(
            "the event is larger than {most} bytes (--max-event) with its numbers written out, as \
             they are kept and sent"
        )));
    }
    Ok(draft)
}

impl<'a> EventInput<'a> {
    /// Only an object names what it says; of an array serde would take the members in order.
    fn of(text: &'a str) -> Result<Self, Problem> {
        if text.trim_start().starts_with('[') {
            return Err(Problem::bad_request("an event is an object, and this is an array"));
        }
        serde_json::from_str(text).map_err(|error| no_json(&error))
    }

    /// `data` is Base64 text, as in the predecessor, or an object or array.
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
                "data is neither Base64 (the standard alphabet, padded) nor an object or array; \
                 any other JSON goes into payload",
            )
        }))
    }

    fn place(&self, form: Form) -> Result<Option<Place>, Problem> {
        let stream = match (form, &self.stream) {
            (Form::Appended(stream), None) => Some(stream.clone()),
            (Form::Appended(_), Some(_)) => {
                return Err(Problem::bad_request("the stream is named by the address alone"));
            }
            (Form::Event, stream) => {
                stream.as_deref().map(|name| read("stream", name)).transpose()?
            }
        };
        let expected = self.expected.map(|expected| expectation(expected.get())).transpose()?;
        match (stream, expected) {
            (Some(stream), expected) => {
                Ok(Some(Place { stream, expected: expected.unwrap_or(Expected::Any) }))
            }
            (None, None) => Ok(None),
            (None, Some(_)) => Err(Problem::bad_request("expected is said of a stream: name one")),
        }
    }

    fn check(&self, form: Form, draft: &Draft) -> Result<(), Problem> {
        match form {
            Form::Event if self.data.is_some() => {
                Err(Problem::bad_request("data is for streams: here it is called payload"))
            }
            Form::Appended(_) if self.data.is_some() && self.payload.is_some() => {
                Err(Problem::bad_request("data and payload are two names of one thing"))
            }
            _ if draft.subscriber.is_none() && draft.place.is_none() => Err(Problem::bad_request(
                "say who the event is for (subscriber), or which stream it is of (stream)",
            )),
            _ => Ok(()),
        }
    }
}

/// The version that the stream is at, or a word.
fn expectation(text: &str) -> Result<Expected, Problem> {
    let current = || whole_number(text).filter(|current| *current >= 0)?.checked_add(1);
    match text {
        r#""any""# => Ok(Expected::Any),
        r#""no-stream""# => Ok(Expected::Version(1)),
        r#""stream-exists""# => Ok(Expected::Exists),
        _ => current().map(Expected::Version).ok_or_else(|| {
            Problem::bad_request(
                "expected is the stream's last version (0: it has none), \"any\", \"no-stream\" or \
                 \"stream-exists\"",
            )
        }),
    }
}

/// The id of an event that is corrected.
fn amended(text: &str) -> Result<EventId, Problem> {
    let id = whole_number(text).filter(|id| *id > 0).map(EventId::new);
    id.ok_or_else(|| Problem::bad_request("amends is the id of an earlier event"))
}

/// 4.0 is a whole number in JSON, too.
fn whole_number(text: &str) -> Option<i64> {
    let spelt_otherwise = || {
        let number: f64 = text.parse().ok()?;
        (number.fract() == 0.0).then(|| format!("{number:.0}").parse().ok())?
    };
    text.parse().ok().or_else(spelt_otherwise)
}

fn read<T: std::str::FromStr<Err: std::fmt::Display>>(
    field: &str,
    text: &str,
) -> Result<T, Problem> {
    text.parse().map_err(|invalid| wrong(field, &invalid))
}

fn json(field: &str, value: &RawValue) -> Result<Json, Problem> {
    Json::examine(value.get()).map_err(|invalid| wrong(field, &invalid))
}

fn wrong(field: &str, invalid: &impl std::fmt::Display) -> Problem {
    Problem::bad_request(format!("{field}: {invalid}"))
}

fn missing(form: Form) -> Problem {
    Problem::bad_request(match form {
        Form::Event => "payload is missing: any JSON, null too",
        Form::Appended(_) => "data is missing: Base64 text, an object or an array",
    })
}

fn no_json(error: &serde_json::Error) -> Problem {
    Problem::bad_request(format!("this is no event in JSON: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST_BYTES: usize = 10_000;

    fn limits() -> Limits {
        Limits { event: MOST_BYTES, body: 3 * MOST_BYTES, ..Limits::default() }
    }

    fn published(text: &str) -> Result<Draft, Problem> {
        one(text, Form::Event, MOST_BYTES)
    }

    fn appended(text: &str) -> Result<Draft, Problem> {
        one(text, Form::Appended(&"s".parse().unwrap()), MOST_BYTES)
    }

    #[test]
    fn an_event_is_read_with_all_that_it_says() {
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
    fn what_is_large_once_it_is_written_out_is_too_large() {
        let event = |count: usize| {
            let numbers = vec!["1e1000"; count].join(",");
            published(&format!(r#"{{"type":"a","subscriber":"a","payload":[{numbers}]}}"#))
        };
        assert!(event(9).is_ok());
        let problem = event(11).unwrap_err();
        assert!(problem.detail().contains("written out"), "{}", problem.detail());
    }

    #[test]
    fn a_body_is_bounded_by_what_all_its_events_are_written_out() {
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
    fn a_byte_order_mark_is_no_part_of_it() {
        let text = "\u{feff} {\"type\":\"a\",\"subscriber\":\"a\",\"payload\":1}";
        assert!(parse(text, Form::Event, &limits()).is_ok());
        assert!(published(text).is_ok(), "a line, too");
    }

    #[test]
    fn an_array_has_so_many_events_and_not_none() {
        let array = |many| {
            let events = vec![r#"{"type":"a","subscriber":"b","payload":1}"#; many].join(",");
            parse(&format!("[{events}]"), Form::Event, &Limits::default())
        };
        assert_eq!(array(MOST).unwrap().drafts.len(), MOST);
        assert!(array(MOST + 1).is_err());
        assert!(array(0).is_err());
    }

    #[test]
    fn data_is_base64_or_an_object_or_an_array() {
        let payload = |data: &str| {
            let draft = appended(&format!(r#"{{"type":"a","data":{data}}}"#));
            draft.map(|draft| draft.payload.as_str().to_owned()).ok()
        };
        assert_eq!(payload(r#""aGVsbG8=""#).as_deref(), Some(r#""aGVsbG8=""#));
        assert_eq!(payload(r#"{"a":1.0}"#).as_deref(), Some(r#"{"a":1.0}"#));
        assert_eq!(payload("[]").as_deref(), Some("[]"));
        for wrong in [r#""hello""#, "1", "null", "true", r#"{"a":1,"a":2}"#] {
            assert_eq!(payload(wrong), None, "{wrong} was taken");
        }
        assert!(appended(r#"{"type":"a","payload":"any text"}"#).is_ok());
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, says) in [
            ("", "no event"),
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

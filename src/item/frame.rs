//! An event as the bytes that are written to sockets: encoded once, and shared by all clients that get it.

use std::{
    borrow::Cow,
    fmt::{Display, Write},
};

use bytes::{Bytes, BytesMut};

use crate::{
    cursor::Cursor,
    event::{EventId, Logged, Xid},
};

/// One event in the wire form of the event-stream format (WHATWG HTML, section 9.2.6):
/// `id`, `event` and `data`, one line each, and a blank line.
#[derive(Clone, Debug)]
pub struct Frame {
    id: EventId,
    xid: Xid,
    bytes: Bytes,
    /// The offset of the line after `id:`.
    body: u16,
    /// The length of the event's type on the wire, in bytes.
    kind: u16,
}

const ID: &[u8] = b"id: ";
const EVENT: &[u8] = b"event: ";
const DATA: &[u8] = b"\ndata: ";
const END: &[u8] = b"\n\n";

/// Encodes frames into shared blocks of memory.
#[derive(Debug, Default)]
pub struct Encoder {
    block: BytesMut,
}

impl Encoder {
    /// Frames share allocations of this size. It is large enough to save allocations, and small enough that
    /// a slow subscription which holds one frame retains little else.
    const BLOCK_BYTES: usize = 16 * 1024;

    /// Encodes one event. `payload` is JSON as PostgreSQL prints `jsonb`: without line breaks, and with
    /// blanks only after colons and commas. The blanks are dropped.
    ///
    /// An event type that the predecessor of this program accepted may contain line breaks, or begin with
    /// the `$` of the gateway's own events. Both are replaced, so that an old row cannot forge a line or a
    /// signal.
    pub fn encode(&mut self, event: &impl Logged, kind: &str, payload: &[u8]) -> Frame {
        let max_bytes = max_frame_bytes(kind, payload);
        if self.block.capacity() < max_bytes {
            self.block = BytesMut::with_capacity(max_bytes.max(Self::BLOCK_BYTES));
        }
        put_id(&mut self.block, event.id());
        let body = u16::try_from(self.block.len()).unwrap_or(u16::MAX);
        let kind = put_body(&mut self.block, kind, payload);
        Frame { id: event.id(), xid: event.xid(), bytes: self.block.split().freeze(), body, kind }
    }
}

/// Appends an event's frame for one client only. `cursor` is the client's cursor after the event.
pub fn put(out: &mut BytesMut, id: EventId, cursor: &Cursor, kind: &str, payload: &[u8]) {
    out.reserve(max_frame_bytes(kind, payload));
    if cursor.is_plain(id) {
        put_id(out, id);
    } else {
        put_cursor(out, cursor.at(id));
    }
    put_body(out, kind, payload);
}

/// An upper bound of the size of a frame with a plain id.
fn max_frame_bytes(kind: &str, payload: &[u8]) -> usize {
    ID.len() + 20 + EVENT.len() + 3 + kind.len() + DATA.len() + payload.len() + END.len() + 1
}

fn put_id(out: &mut BytesMut, id: EventId) {
    out.extend_from_slice(ID);
    out.extend_from_slice(itoa::Buffer::new().format(id.get()).as_bytes());
    out.extend_from_slice(b"\n");
}

fn put_cursor(out: &mut BytesMut, cursor: impl Display) {
    writeln!(out, "id: {cursor}").expect("writing to a buffer cannot fail");
}

/// Appends everything after the id. Returns the length of the type on the wire.
fn put_body(out: &mut BytesMut, kind: &str, payload: &[u8]) -> u16 {
    out.extend_from_slice(EVENT);
    let kind = put_kind(out, kind);
    out.extend_from_slice(DATA);
    put_compact(out, payload);
    out.extend_from_slice(END);
    kind
}

fn put_kind(out: &mut BytesMut, kind: &str) -> u16 {
    let start = out.len();
    let rest = kind.strip_prefix('$');
    if rest.is_some() {
        out.extend_from_slice(b"%24");
    }
    out.extend_from_slice(rest.unwrap_or(kind).as_bytes());
    for byte in &mut out[start..] {
        if matches!(byte, b'\r' | b'\n') {
            *byte = b' ';
        }
    }
    u16::try_from(out.len() - start).unwrap_or(u16::MAX)
}

impl Frame {
    /// Its size in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Always false: a frame has at least its field names.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The event's type, as it is on the wire.
    #[must_use]
    pub fn kind(&self) -> &[u8] {
        let start = usize::from(self.body) + EVENT.len();
        &self.bytes[start..start + usize::from(self.kind)]
    }

    /// The bytes for a client whose cursor after this event is `cursor`. All clients share the same bytes,
    /// except a client whose cursor is more than a plain id.
    #[must_use]
    pub fn bytes_at(&self, cursor: &Cursor) -> Bytes {
        if cursor.is_plain(self.id) { self.bytes.clone() } else { self.rewritten(cursor) }
    }

    fn rewritten(&self, cursor: &Cursor) -> Bytes {
        let mut bytes = BytesMut::with_capacity(self.bytes.len() + 64);
        put_cursor(&mut bytes, cursor.at(self.id));
        bytes.extend_from_slice(&self.bytes[usize::from(self.body)..]);
        bytes.freeze()
    }
}

impl Logged for Frame {
    fn id(&self) -> EventId {
        self.id
    }

    fn xid(&self) -> Xid {
        self.xid
    }
}

/// The data of an event on the wire: its payload, or for an amendment an object that names the amended event,
/// too.
#[must_use]
pub fn data(amends: Option<EventId>, payload: &[u8]) -> Cow<'_, [u8]> {
    match amends {
        None => payload.into(),
        Some(target) => {
            let named = format!(r#"{{"amends":{target},"patch":"#);
            [named.as_bytes(), payload, b"}"].concat().into()
        }
    }
}

/// Removes the blanks between the tokens of JSON.
#[must_use]
pub fn compact(json: &str) -> String {
    let mut out = BytesMut::with_capacity(json.len());
    put_compact(&mut out, json.as_bytes());
    String::from_utf8_lossy(&out).into_owned()
}

/// Appends JSON without the blanks between its tokens, in one pass and without parsing it. So numbers keep
/// every digit, and strings stay as they are.
fn put_compact(out: &mut BytesMut, json: &[u8]) {
    let mut rest = json;
    while let Some(quote) = memchr::memchr(b'"', rest) {
        put_without_blanks(out, &rest[..quote]);
        let end = quote + string_len(&rest[quote..]);
        out.extend_from_slice(&rest[quote..end]);
        rest = &rest[end..];
    }
    put_without_blanks(out, rest);
}

fn put_without_blanks(out: &mut BytesMut, tokens: &[u8]) {
    for run in tokens.split(|byte| matches!(byte, b' ' | b'\n' | b'\r' | b'\t')) {
        out.extend_from_slice(run);
    }
}

/// The length of the JSON string at the beginning of `text`, including both quotes.
fn string_len(text: &[u8]) -> usize {
    let mut at = 1;
    while let Some(next) = memchr::memchr2(b'"', b'\\', &text[at..]) {
        at += next;
        if text[at] == b'"' {
            return at + 1;
        }
        at = (at + 2).min(text.len());
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    struct Row(i64);

    impl Logged for Row {
        fn id(&self) -> EventId {
            EventId::new(self.0)
        }
        fn xid(&self) -> Xid {
            Xid::new(7)
        }
    }

    fn wire(kind: &str, payload: &str) -> String {
        let frame = Encoder::default().encode(&Row(1), kind, payload.as_bytes());
        let bytes = frame.bytes_at(&"1".parse().unwrap());
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    #[test]
    fn the_frame_of_the_readme() {
        let expected = "id: 1\nevent: insert\ndata: {\"foo\":\"bar\"}\n\n";
        assert_eq!(wire("insert", r#"{"foo": "bar"}"#), expected);
    }

    #[test]
    fn an_event_type_forges_neither_a_line_nor_a_signal() {
        assert_eq!(wire("a\nid: 9\r\n", "1"), "id: 1\nevent: a id: 9  \ndata: 1\n\n");
        assert_eq!(wire("$closing", "1"), "id: 1\nevent: %24closing\ndata: 1\n\n");
    }

    #[test]
    fn a_frame_knows_its_event_type() {
        let mut encoder = Encoder::default();
        assert_eq!(encoder.encode(&Row(12), "insert", b"{}").kind(), b"insert");
        assert_eq!(encoder.encode(&Row(12), "$x", b"{}").kind(), b"%24x");
    }

    #[test]
    fn a_cursor_with_marks_rewrites_only_the_id() {
        let frame = Encoder::default().encode(&Row(1050), "t", b"{}");
        let bytes = frame.bytes_at(&"1060~81342:1050".parse().unwrap());
        assert_eq!(bytes, "id: 1050@1060~81342:1050\nevent: t\ndata: {}\n\n");
    }

    #[test]
    fn drops_blanks_between_tokens_only() {
        let cases = [
            (
                r#"{"a b": "c: d, \" e\\", "f": [1, 2.50, null]}"#,
                r#"{"a b":"c: d, \" e\\","f":[1,2.50,null]}"#,
            ),
            (r#""\\""#, r#""\\""#),
            ("null", "null"),
            ("1.000000000000000000001", "1.000000000000000000001"),
            ("", ""),
        ];
        for (given, expected) in cases {
            let mut out = BytesMut::new();
            put_compact(&mut out, given.as_bytes());
            assert_eq!(out, expected, "{given}");
        }
    }

    proptest! {
        #[test]
        fn compacting_keeps_the_value(text in "\\PC*", number in any::<i64>()) {
            let value = serde_json::json!({ text.as_str(): [text, number, { "x": null }] });
            let pretty = serde_json::to_string_pretty(&value).unwrap();
            let mut out = BytesMut::new();
            put_compact(&mut out, pretty.as_bytes());
            prop_assert_eq!(std::str::from_utf8(&out).unwrap(), value.to_string());
        }

        #[test]
        fn invalid_json_does_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            put_compact(&mut BytesMut::new(), &bytes);
        }
    }
}

//! Parses an event stream (WHATWG HTML, section 9.2.6) that comes in pieces of any size.

use std::{mem, time::Duration};

use memchr::memchr2;

const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// An item of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// An event.
    Event(Event),
    /// The time to wait before reconnecting after the connection was lost.
    Retry(Duration),
}

/// One event of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The last id of the stream: that of this event, or of an earlier one.
    pub id: String,
    /// The event's type; `message` if the stream named none.
    pub kind: String,
    /// The lines of data, joined by line feeds.
    pub data: String,
}

impl Event {
    /// Whether this is the gateway's heartbeat, and not an event whose type has the same name: the payload of
    /// an event is JSON, and a bare word is not.
    #[must_use]
    pub fn is_heartbeat(&self) -> bool {
        self.kind == "heartbeat" && self.data == "thump"
    }
}

/// Parses the stream of one connection. An incomplete frame at the end of the connection is no event: it was
/// cut off, and is sent again.
#[derive(Debug, Default)]
pub struct Parser {
    line: Vec<u8>,
    begun: bool,
    /// A line feed that comes next belongs to the preceding carriage return.
    after_return: bool,
    kind: String,
    data: String,
    id: String,
    last_id: String,
}

impl Parser {
    /// A parser for a connection that resumes behind this id. Frames without an id keep it, so that a stream
    /// that begins with a `retry:` does not lose it.
    #[must_use]
    pub fn resuming(last_id: String) -> Self {
        Self { id: last_id.clone(), last_id, ..Self::default() }
    }

    /// What to send as `Last-Event-ID` once all that was parsed has been processed.
    #[must_use]
    pub fn last_id(&self) -> &str {
        &self.last_id
    }

    /// Parses more bytes. Returns the items that are complete now.
    pub fn push(&mut self, mut bytes: &[u8]) -> Vec<Item> {
        let mut items = Vec::new();
        if let [first, rest @ ..] = bytes
            && mem::take(&mut self.after_return)
            && *first == b'\n'
        {
            bytes = rest;
        }
        while let Some(end) = memchr2(b'\r', b'\n', bytes) {
            self.line.extend_from_slice(&bytes[..end]);
            items.extend(self.end_of_line());
            bytes = match &bytes[end..] {
                [b'\r'] => {
                    self.after_return = true;
                    &[]
                }
                [b'\r', b'\n', rest @ ..] | [_, rest @ ..] => rest,
                [] => unreachable!("something was found here"),
            };
        }
        self.line.extend_from_slice(bytes);
        items
    }

    fn end_of_line(&mut self) -> Option<Item> {
        let line = mem::take(&mut self.line);
        let first = !mem::replace(&mut self.begun, true);
        let line = line.strip_prefix(BYTE_ORDER_MARK).filter(|_| first).unwrap_or(&line);
        if line.is_empty() {
            return self.dispatch().map(Item::Event);
        }
        let line = String::from_utf8_lossy(line);
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        self.field(field, value.strip_prefix(' ').unwrap_or(value))
    }

    fn field(&mut self, field: &str, value: &str) -> Option<Item> {
        match field {
            "event" => value.clone_into(&mut self.kind),
            "data" => {
                self.data.push_str(value);
                self.data.push('\n');
            }
            "id" if !value.contains('\0') => value.clone_into(&mut self.id),
            "retry" => return retry(value).map(Item::Retry),
            // Comments, and fields that are not defined.
            _ => {}
        }
        None
    }

    fn dispatch(&mut self) -> Option<Event> {
        self.last_id.clone_from(&self.id);
        let kind = mem::take(&mut self.kind);
        let mut data = mem::take(&mut self.data);
        // Each line of data has appended a line feed. A frame without any is no event.
        data.pop()?;
        let kind = if kind.is_empty() { "message".into() } else { kind };
        Some(Event { id: self.id.clone(), kind, data })
    }
}

fn retry(value: &str) -> Option<Duration> {
    let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| Duration::from_millis(value.parse().unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Vec<Item> {
        Parser::default().push(text.as_bytes())
    }

    fn event(id: &str, kind: &str, data: &str) -> Item {
        Item::Event(Event { id: id.into(), kind: kind.into(), data: data.into() })
    }

    #[test]
    fn parses_the_examples_of_the_standard() {
        let stocks = "data: YHOO\ndata: +2\ndata: 10\n\n";
        assert_eq!(parse(stocks), [event("", "message", "YHOO\n+2\n10")]);
        let ids = ": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n";
        assert_eq!(
            parse(ids),
            [
                event("1", "message", "first event"),
                event("", "message", "second event"),
                event("", "message", " third event"),
            ]
        );
        let empty = "data\n\ndata\ndata\n\ndata:";
        assert_eq!(parse(empty), [event("", "message", ""), event("", "message", "\n")]);
        assert_eq!(parse("data:test\n\ndata: test\n\n").len(), 2);
    }

    #[test]
    fn parses_an_event_of_the_gateway() {
        let frames = "retry: 1500\n\nid: 7~9:3\nevent: insert\ndata: {\"a\": \"b: c\"}\n\n";
        let expected = [
            Item::Retry(Duration::from_millis(1500)),
            event("7~9:3", "insert", "{\"a\": \"b: c\"}"),
        ];
        assert_eq!(parse(frames), expected);
    }

    #[test]
    fn ignores_a_byte_order_mark_only_at_the_beginning() {
        assert_eq!(parse("\u{feff}data: x\n\n"), [event("", "message", "x")]);
        assert_eq!(parse("\u{feff}\u{feff}data: x\n\n"), []);
        assert_eq!(parse("\n\u{feff}data: x\n\n"), []);
    }

    #[test]
    fn ignores_an_id_with_a_nul_and_a_retry_that_is_no_number() {
        assert_eq!(parse("id: 1\nid: 2\u{0}\ndata: x\n\n"), [event("1", "message", "x")]);
        for wrong in ["retry: 1s\n", "retry: -1\n", "retry: +1\n", "retry:\n", "retry: 1 \n"] {
            assert_eq!(parse(wrong), [], "{wrong:?}");
        }
        let longest = "retry: 99999999999999999999999\n";
        assert_eq!(parse(longest), [Item::Retry(Duration::from_millis(u64::MAX))]);
    }

    #[test]
    fn the_last_id_moves_only_at_the_end_of_a_frame() {
        let mut parser = Parser::resuming("41".into());
        parser.push(b"retry: 5\n\n");
        assert_eq!(parser.last_id(), "41");
        parser.push(b"id: 42\nevent: e\ndata: x\n");
        assert_eq!(parser.last_id(), "41", "the frame may be cut off here");
        parser.push(b"\n");
        assert_eq!(parser.last_id(), "42");
        parser.push(b"id: 43\n\n");
        assert_eq!(parser.last_id(), "43", "without data too");
    }

    #[test]
    fn joins_line_ends_and_replaces_invalid_utf8() {
        let mut parser = Parser::default();
        assert_eq!(parser.push(b"data: a\r"), []);
        assert_eq!(parser.push(b""), []);
        assert_eq!(parser.push(b"\ndata: b\r\r"), [event("", "message", "a\nb")]);
        assert_eq!(
            parser.push(b"\n\ndata: \xff\xc3\n\n"),
            [event("", "message", "\u{fffd}\u{fffd}")]
        );
    }

    /// Parses a complete stream by the standard's words, one after the other.
    fn by_the_book(bytes: &[u8]) -> (Vec<Item>, String) {
        let text = String::from_utf8_lossy(bytes);
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        let text = text.replace("\r\n", "\n").replace('\r', "\n");
        let (mut items, mut last) = (Vec::new(), String::new());
        let (mut id, mut kind, mut data) = (String::new(), String::new(), None::<String>);
        let Some((whole, _cut_off)) = text.rsplit_once('\n') else { return (items, last) };
        for line in whole.split('\n') {
            if line.is_empty() {
                last.clone_from(&id);
                let kind = mem::take(&mut kind);
                if let Some(data) = data.take() {
                    items.push(event(&id, if kind.is_empty() { "message" } else { &kind }, &data));
                }
                continue;
            }
            let colon = line.find(':');
            let name = &line[..colon.unwrap_or(line.len())];
            let value = colon.map_or("", |at| &line[at + 1..]);
            let value = value.strip_prefix(' ').unwrap_or(value);
            match name {
                "event" => kind = value.into(),
                "data" => {
                    data = Some(data.map_or(value.into(), |data| format!("{data}\n{value}")));
                }
                "id" if !value.contains('\0') => id = value.into(),
                "retry" if value.parse::<u32>().is_ok() && !value.starts_with('+') => {
                    items.push(Item::Retry(Duration::from_millis(value.parse().unwrap())));
                }
                _ => {}
            }
        }
        (items, last)
    }

    const KNOWN: &[&[u8]] = &[
        b"\n",
        b"\n",
        b"\n",
        b"\r",
        b"\r\n",
        b"\n\n",
        b":",
        b" ",
        b"id",
        b"id: 7",
        b"event: e",
        b"data",
        b"data: d",
        b"data:",
        b"retry: 12",
        b"retry: 1x",
        b"\0",
        "\u{feff}".as_bytes(),
        "\u{1f600}é".as_bytes(),
        b"\xff",
        b"\xe2\x82",
        b": note",
        b"{\"a\":[1,2]}",
    ];

    fn fragment() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            9 => prop::sample::select(KNOWN).prop_map(<[u8]>::to_vec),
            1 => prop::collection::vec(any::<u8>(), 0..6),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn parses_by_the_standard_wherever_the_stream_is_cut(
            fragments in prop::collection::vec(fragment(), 0..40),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        ) {
            let stream = fragments.concat();
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();
            let mut parser = Parser::default();
            let pieces = cuts.windows(2).map(|cut| &stream[cut[0]..cut[1]]);
            let items: Vec<_> = pieces.flat_map(|piece| parser.push(piece)).collect();
            let (expected, last_id) = by_the_book(&stream);
            prop_assert_eq!(items, expected);
            prop_assert_eq!(parser.last_id(), last_id);
        }
    }
}

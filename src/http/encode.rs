//! Encodes events and signals in the event-stream format (WHATWG HTML, section 9.2.6).

use std::{fmt::Write, time::Duration};

use bytes::{Bytes, BytesMut};

use crate::{
    cursor::Cursor,
    event::EventId,
    item::{
        frame::{self, Frame},
        output::Output,
        signal::Signal,
    },
};

/// The bytes of the next write.
///
/// A single shared frame is sent without a copy. Several frames are copied into one buffer, which costs
/// less than several writes.
#[derive(Debug, Default)]
pub(super) struct Sse {
    /// Complete parts, which precede `own`.
    shared: Vec<Bytes>,
    /// The part that is being written.
    own: BytesMut,
    len: usize,
}

impl Sse {
    /// The bytes. `None` if there are none.
    pub(super) fn into_bytes(mut self) -> Option<Bytes> {
        self.seal();
        match self.shared.len() {
            0 => None,
            1 => self.shared.pop(),
            _ => Some(self.shared.concat().into()),
        }
    }

    /// Appends a `retry:` field; see [`put_retry`].
    pub(super) fn retry(&mut self, least: Duration, spread: Duration) {
        let mut text = String::new();
        put_retry(&mut text, least, spread);
        self.text(&text);
    }

    fn text(&mut self, text: &str) {
        self.own.extend_from_slice(text.as_bytes());
        self.len += text.len();
    }

    fn seal(&mut self) {
        if !self.own.is_empty() {
            self.shared.push(self.own.split().freeze());
        }
    }
}

impl Output for Sse {
    fn shared(&mut self, frame: &Frame, cursor: &Cursor) {
        self.seal();
        let bytes = frame.bytes_at(cursor);
        self.len += bytes.len();
        self.shared.push(bytes);
    }

    fn event(&mut self, id: EventId, cursor: &Cursor, kind: &str, data: &[u8]) {
        let before = self.own.len();
        frame::put(&mut self.own, id, cursor, kind, data);
        self.len += self.own.len() - before;
    }

    fn signal(&mut self, signal: Signal, cursor: Option<&Cursor>) {
        let mut text = String::new();
        put(signal, &mut text, cursor);
        self.text(&text);
    }

    fn len(&self) -> usize {
        self.len
    }
}

/// Appends a signal. `cursor` is the position of the client after it. `None`: the position is not known.
fn put(signal: Signal, out: &mut String, cursor: Option<&Cursor>) {
    if let Some(cursor) = cursor {
        writeln!(out, "id: {cursor}").expect("a String takes all");
    }
    let (event, data) = parts(signal);
    write!(out, "event: {event}\ndata: {data}\n\n").expect("a String takes all");
}

fn parts(signal: Signal) -> (&'static str, String) {
    match signal {
        Signal::Cursor => ("heartbeat", "thump".into()),
        Signal::CaughtUp => ("$caught-up", "{}".into()),
        Signal::Gap { from, to, reason } => {
            let reason = reason.as_str();
            ("$gap", format!(r#"{{"from":{from},"to":{to},"reason":"{reason}"}}"#))
        }
        Signal::Unamended { event, amendment } => {
            ("$unamended", format!(r#"{{"event":{event},"amendment":{amendment}}}"#))
        }
        Signal::Closing { reason } => ("$closing", format!(r#"{{"reason":"{reason}"}}"#)),
    }
}

/// Appends a `retry:` field, after which a client that lost its connection reconnects: a random time
/// between `least` and `least + spread`, so that clients do not reconnect all at once.
pub(super) fn put_retry(out: &mut String, least: Duration, spread: Duration) {
    let spread = u64::try_from(spread.as_millis()).unwrap_or(u64::MAX);
    let millis = least.as_millis() + u128::from(fastrand::u64(0..=spread));
    write!(out, "retry: {millis}\n\n").expect("a String takes all");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        event::{Logged, Xid},
        item::frame::Encoder,
    };

    struct Row;

    impl Logged for Row {
        fn id(&self) -> EventId {
            EventId::new(3)
        }
        fn xid(&self) -> Xid {
            Xid::new(1)
        }
    }

    #[test]
    fn retry_times_are_spread() {
        let (least, spread) = (Duration::from_secs(1), Duration::from_secs(2));
        let drawn: std::collections::BTreeSet<u64> = (0..100)
            .map(|_| {
                let mut out = String::new();
                put_retry(&mut out, least, spread);
                out.trim_start_matches("retry: ").trim_end().parse().unwrap()
            })
            .collect();
        assert!(drawn.len() > 10, "{drawn:?}");
        assert!(drawn.iter().all(|millis| (1000..=3000).contains(millis)), "{drawn:?}");
    }

    #[test]
    fn a_heartbeat_carries_the_cursor() {
        let mut out = String::new();
        put(Signal::Cursor, &mut out, Some(&"7~9:3".parse().unwrap()));
        assert_eq!(out, "id: 7~9:3\nevent: heartbeat\ndata: thump\n\n");
    }

    #[test]
    fn keeps_the_order_of_frames() {
        let cursor: Cursor = "3".parse().unwrap();
        let frame = Encoder::default().encode(&Row, "b", b"2");
        let mut out = Sse::default();
        out.event(EventId::new(3), &cursor, "a", b"1");
        out.shared(&frame, &cursor);
        out.signal(Signal::CaughtUp, Some(&cursor));
        let len = out.len();
        let bytes = out.into_bytes().unwrap();
        assert_eq!(bytes.len(), len);
        let expected = "id: 3\nevent: a\ndata: 1\n\nid: 3\nevent: b\ndata: 2\n\n\
                        id: 3\nevent: $caught-up\ndata: {}\n\n";
        assert_eq!(bytes, expected);
    }

    #[test]
    fn does_not_copy_a_single_shared_frame() {
        let cursor: Cursor = "3".parse().unwrap();
        let frame = Encoder::default().encode(&Row, "b", b"2");
        let mut out = Sse::default();
        out.shared(&frame, &cursor);
        assert_eq!(out.into_bytes().unwrap().as_ptr(), frame.bytes_at(&cursor).as_ptr());
    }
}

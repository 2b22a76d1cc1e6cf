//! Events and signals in the event-stream format (WHATWG HTML, section 9.2.6).

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

/// What goes to the socket next.
///
/// Frames that are shared stay shared where one goes alone; several are copied together, which is cheaper
/// than as many writes.
#[derive(Debug, Default)]
pub(super) struct Sse {
    /// Before `own`.
    shared: Vec<Bytes>,
    own: BytesMut,
    len: usize,
}

impl Sse {
    /// The bytes; none where nothing was put in.
    pub(super) fn into_bytes(mut self) -> Option<Bytes> {
        self.seal();
        match self.shared.len() {
            0 => None,
            1 => self.shared.pop(),
            _ => Some(self.shared.concat().into()),
        }
    }

    /// The time after which a client that lost its connection should come back.
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

/// Appends a signal; `cursor` is where the client is after it, where that is known.
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

/// Appends the time after which a client that lost its connection should come back: some
/// time up to `spread` behind `least`, drawn anew for every client, so that they do not all
/// come at once.
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
    fn those_who_come_back_do_not_come_all_at_once() {
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
    fn what_is_put_in_comes_out_in_its_order() {
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
    fn one_shared_frame_stays_shared() {
        let cursor: Cursor = "3".parse().unwrap();
        let frame = Encoder::default().encode(&Row, "b", b"2");
        let mut out = Sse::default();
        out.shared(&frame, &cursor);
        assert_eq!(out.into_bytes().unwrap().as_ptr(), frame.bytes_at(&cursor).as_ptr());
    }
}

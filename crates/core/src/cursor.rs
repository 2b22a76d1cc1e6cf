//! Cursors: how far a client has got. A cursor is the `id:` of a frame, and what a client sends back as
//! `Last-Event-ID`.
//!
//! On the wire a cursor is nearly always a plain row id: `1057`. While a transaction is late, the cursor also
//! says how far the client has got in that transaction: `1057~81342:1031`. The `id:` of a late transaction's
//! event names that event first: `1050@1060~81342:1050`. Clients treat a cursor as opaque.

use std::{fmt, str::FromStr};

use crate::{
    event::{EventId, Logged, Xid},
    order::{Late, LateTransaction, Position},
};

/// Says which events were delivered: everything up to `head`, except events of a marked transaction with an
/// id above its mark.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    head: EventId,
    marks: Vec<Mark>,
}

/// How far the client has got in one late transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The transaction's id.
    pub xid: Xid,
    /// The events of the transaction up to this id were delivered.
    pub upto: EventId,
}

impl Cursor {
    /// The cursor of a client that starts now: behind all that was delivered, before all that is late.
    #[must_use]
    pub fn now(position: &Position) -> Self {
        let late = position.late.as_slice().iter();
        let marks = late.map(|late| Mark { xid: late.xid, upto: late.since }).collect();
        Self { head: position.head, marks }
    }

    /// The cursor of a client that has everything up to this id, and nothing else.
    #[must_use]
    pub fn behind(head: EventId) -> Self {
        Self { head, marks: Vec::new() }
    }

    /// Everything up to this id was delivered, except events of marked transactions.
    #[must_use]
    pub fn head(&self) -> EventId {
        self.head
    }

    /// Everything up to this id was delivered, without exception.
    #[must_use]
    pub fn settled(&self) -> EventId {
        let marks = self.marks.iter().map(|mark| mark.upto);
        marks.fold(self.head, EventId::min)
    }

    /// The transactions in which the client is behind, ascending by xid.
    #[must_use]
    pub fn marks(&self) -> &[Mark] {
        &self.marks
    }

    /// Whether this event is still owed to the client.
    #[must_use]
    pub fn admits(&self, event: &impl Logged) -> bool {
        event.id() > self.head || self.mark(event.xid()).is_some_and(|upto| event.id() > upto)
    }

    /// Moves past an event that was admitted. `late` are the transactions that were late at that event.
    pub fn advance(&mut self, event: &impl Logged, late: &Late) {
        if event.id() > self.head {
            self.advance_to(event.id(), late);
        }
        // Events of a late transaction come in the order of their ids, also at or above the head.
        if let Ok(at) = self.find(event.xid()) {
            self.marks[at].upto = event.id();
        }
    }

    /// Moves up to the reader's position, once the client has got everything up to there.
    pub fn catch_up(&mut self, position: &Position) {
        if position.head > self.head {
            self.advance_to(position.head, &position.late);
        }
    }

    /// Moves back to this id, because the log is another one above it.
    pub fn go_back(&mut self, upto: EventId) {
        self.head = self.head.min(upto);
        for mark in &mut self.marks {
            mark.upto = mark.upto.min(self.head);
        }
    }

    /// Marks each transaction that is late from here on with the *old* head: the client has none of its
    /// events above that. Events that the transaction wrote before `since` are delivered in the usual order.
    fn advance_to(&mut self, head: EventId, late: &Late) {
        if !(late.is_empty() && self.marks.is_empty()) {
            let mark = |late: &LateTransaction| {
                // The client has no events above its head, whatever another instance had delivered by then.
                let upto = self.mark(late.xid).unwrap_or(self.head).min(self.head);
                Mark { xid: late.xid, upto: upto.max(late.since) }
            };
            self.marks = late.as_slice().iter().map(mark).collect();
        }
        self.head = head;
    }

    /// Whether the `id:` of the event at the head is its plain row id.
    #[must_use]
    pub fn is_plain(&self, id: EventId) -> bool {
        self.marks.is_empty() && self.head == id
    }

    /// The cursor as the `id:` of the event that it has just moved past.
    #[must_use]
    pub fn at(&self, id: EventId) -> impl fmt::Display {
        fmt::from_fn(move |f| {
            if id != self.head {
                write!(f, "{id}@")?;
            }
            write!(f, "{self}")
        })
    }

    fn mark(&self, xid: Xid) -> Option<EventId> {
        self.find(xid).ok().map(|at| self.marks[at].upto)
    }

    fn find(&self, xid: Xid) -> Result<usize, usize> {
        self.marks.binary_search_by_key(&xid, |mark| mark.xid)
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.head.fmt(f)?;
        self.marks.iter().try_for_each(|mark| write!(f, "~{}:{}", mark.xid, mark.upto))
    }
}

/// A text is not a cursor.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{given:?} is not a cursor: send back an `id:` that this server sent, or 0 for the beginning"
)]
pub struct InvalidCursor {
    /// The text, cut to 80 characters.
    pub given: String,
}

impl FromStr for Cursor {
    type Err = InvalidCursor;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).ok_or_else(|| InvalidCursor { given: text.chars().take(80).collect() })
    }
}

fn parse(text: &str) -> Option<Cursor> {
    let mut parts = text.split('~');
    let place = parts.next()?;
    let head = match place.split_once('@') {
        Some((own, head)) => {
            own.parse::<EventId>().ok()?;
            head
        }
        None => place,
    };
    let mut marks = parts.map(parse_mark).collect::<Option<Vec<_>>>()?;
    marks.sort_unstable_by_key(|mark| mark.xid);
    let twice = marks.windows(2).any(|pair| pair[0].xid == pair[1].xid);
    let sound = marks.len() <= Late::MAX_AT_START && !twice;
    sound.then_some(Cursor { head: head.parse().ok()?, marks })
}

fn parse_mark(text: &str) -> Option<Mark> {
    let (xid, upto) = text.split_once(':')?;
    Some(Mark { xid: xid.parse().ok()?, upto: upto.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::event::testing::Row;

    fn late(xids: &[u64]) -> Late {
        let since = EventId::ZERO;
        xids.iter()
            .map(|&xid| crate::order::LateTransaction { xid: Xid::new(xid), since })
            .collect()
    }

    #[test]
    fn cursors_have_these_forms_on_the_wire() {
        let mut cursor: Cursor = "1040".parse().unwrap();
        cursor.advance(&Row(1057, 7), &Late::default());
        assert_eq!(cursor.at(EventId::new(1057)).to_string(), "1057");

        let mut cursor: Cursor = "1031".parse().unwrap();
        cursor.advance(&Row(1060, 7), &late(&[81342]));
        assert_eq!(cursor.at(EventId::new(1060)).to_string(), "1060~81342:1031");
        assert!(cursor.admits(&Row(1050, 81342)), "the late transaction's event is still owed");
        assert!(!cursor.admits(&Row(1050, 7)), "everything else up to the head was delivered");

        cursor.advance(&Row(1050, 81342), &Late::default());
        assert_eq!(cursor.at(EventId::new(1050)).to_string(), "1050@1060~81342:1050");
        assert!(!cursor.admits(&Row(1050, 81342)), "once");
    }

    /// Instances may begin to deliver a late transaction's events at different ids.
    #[test]
    fn a_mark_of_another_instance_above_the_head_withholds_nothing() {
        let since = EventId::new(30);
        let late: Late = [LateTransaction { xid: Xid::new(7), since }].into_iter().collect();
        let mut cursor: Cursor = "10~7:50".parse().unwrap();
        cursor.advance(&Row(60, 8), &late);
        assert_eq!(cursor.to_string(), "60~7:30");
        assert!(
            cursor.admits(&Row(40, 7)),
            "the transaction is late here, and its events come when it ends"
        );
    }

    #[test]
    fn rejects_what_is_not_a_cursor() {
        for wrong in [
            "",
            "x",
            "-1",
            "+1",
            "1 ",
            "1~",
            "1~2",
            "1~2:",
            "1~:3",
            "1@",
            "@1",
            "1@2@3",
            "1~2:3~2:4",
            "99999999999999999999",
            "1\n2",
            "1~2:3:4",
            "١",
        ] {
            assert!(wrong.parse::<Cursor>().is_err(), "{wrong:?} was accepted");
        }
        assert_eq!("9~5:1~3:2".parse(), "9~3:2~5:1".parse::<Cursor>(), "in any order");
        let marked =
            |most: usize| (0..most).fold(String::from("9"), |text, xid| format!("{text}~{xid}:1"));
        assert!(marked(Late::MAX_AT_START).parse::<Cursor>().is_ok());
        assert!(marked(Late::MAX_AT_START + 1).parse::<Cursor>().is_err());
        let long = "é".repeat(10_000).parse::<Cursor>().unwrap_err();
        assert_eq!(long.given.chars().count(), 80);
    }

    proptest! {
        #[test]
        fn a_cursor_survives_the_wire(
            head in 0..i64::MAX,
            own in proptest::option::of(0..i64::MAX),
            marks in proptest::collection::btree_map(0..u64::MAX, 0..i64::MAX, 0..=Late::MAX),
        ) {
            let marks = marks.into_iter().map(|(xid, upto)| Mark {
                xid: Xid::new(xid),
                upto: EventId::new(upto),
            }).collect();
            let cursor = Cursor { head: EventId::new(head), marks };
            let wire = match own {
                Some(own) => cursor.at(EventId::new(own)).to_string(),
                None => cursor.to_string(),
            };
            prop_assert_eq!(wire.parse::<Cursor>().unwrap(), cursor);
        }

        #[test]
        fn does_not_panic_on_any_text(text in "[0-9~:@+ -]{0,40}|\\PC{0,20}") {
            let _ = text.parse::<Cursor>();
        }
    }
}

//! Cursors: how far a client has got. A cursor is the `id:` of a frame, and what a client sends back as
//! `Last-Event-ID`.
//!
//! On the wire a cursor is nearly always a plain row id: `1057`. While a transaction is late, the cursor also
//! says how far the client has got in that transaction: `1057~81342:1031`. The `id:` of a late transaction's
//! event names that event first: `1050@1060~81342:1050`. Clients treat a cursor as opaque.
//!
//! A client that has read state in a transaction of its own begins with that transaction's
//! [snapshot](crate::snapshot), `731:735:731,733`. Then the cursor is a pair, which admits an event if both
//! admit it: `1057!731:735:731,733`, until the snapshot [can be released](Cursor::release_snapshot).

use std::{fmt, str::FromStr, sync::Arc};

use crate::{
    event::{EventId, Logged, Xid},
    order::{Late, LateTransaction, Position},
    snapshot::{InvalidSnapshot, Snapshot},
};

/// Says which events were delivered: everything up to `head`, except events of a marked transaction with an
/// id above its mark; and everything that the snapshot sees.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    head: EventId,
    marks: Vec<Mark>,
    snapshot: Option<Arc<Snapshot>>,
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
        Self { head: position.head, marks, snapshot: None }
    }

    /// The cursor of a client that has everything up to this id, and nothing else.
    #[must_use]
    pub fn behind(head: EventId) -> Self {
        Self { head, marks: Vec::new(), snapshot: None }
    }

    /// The cursor of a client that has everything that this snapshot sees, and nothing else.
    #[must_use]
    pub fn of_snapshot(snapshot: Snapshot) -> Self {
        Self { snapshot: Some(Arc::new(snapshot)), ..Self::default() }
    }

    /// The snapshot of the state that the client has read. `None` once a plain cursor says the same.
    #[must_use]
    pub fn snapshot(&self) -> Option<&Arc<Snapshot>> {
        self.snapshot.as_ref()
    }

    /// Releases the snapshot once an ordinary cursor says the same: the client has got everything up to the
    /// reader's position, the rows that the snapshot sees are no later than that, and no transaction that is
    /// late, at the reader or in the cursor, is one that the snapshot sees.
    ///
    /// `seen_upto` is at least the greatest id of a row that the snapshot sees.
    pub fn release_snapshot(&mut self, seen_upto: EventId, position: &Position) {
        let Some(snapshot) = &self.snapshot else { return };
        let late = position.late.as_slice().iter().map(|late| late.xid);
        let mut late = late.chain(self.marks.iter().map(|mark| mark.xid));
        if position.head >= seen_upto && !late.any(|xid| snapshot.sees(xid)) {
            self.snapshot = None;
        }
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
        self.is_before(event) && !self.sees(event)
    }

    /// Whether the cursor has yet to move past this event, which the client may have by its snapshot.
    #[must_use]
    pub fn is_before(&self, event: &impl Logged) -> bool {
        event.id() > self.head || self.mark(event.xid()).is_some_and(|upto| event.id() > upto)
    }

    /// Whether the state that the client has read contains this event.
    #[must_use]
    pub fn sees(&self, event: &impl Logged) -> bool {
        self.snapshot.as_ref().is_some_and(|snapshot| snapshot.sees(event.xid()))
    }

    /// Moves past an event that it [is before](Self::is_before). `late` are the transactions that were late at that event.
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

    /// Moves up to this id, once the client has got everything owed up to there, in the order of the ids.
    pub fn settle(&mut self, upto: EventId) {
        if upto >= self.head {
            self.head = upto;
            self.marks.clear();
        }
        for mark in &mut self.marks {
            mark.upto = mark.upto.max(upto);
        }
    }

    /// Whether a plain id says the same.
    #[must_use]
    pub fn is_plain_id(&self) -> bool {
        self.marks.is_empty() && self.snapshot.is_none()
    }

    /// Moves back to this id, because the log is another one above it.
    ///
    /// A snapshot means nothing in another log, whose transactions may have the same ids: it is released, and
    /// the client is behind everything that both logs have.
    pub fn go_back(&mut self, upto: EventId) {
        if self.snapshot.take().is_some() {
            *self = Self::behind(upto);
            return;
        }
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
        self.marks.is_empty() && self.head == id && self.snapshot.is_none()
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
        self.marks.iter().try_for_each(|mark| write!(f, "~{}:{}", mark.xid, mark.upto))?;
        self.snapshot.iter().try_for_each(|snapshot| write!(f, "!{snapshot}"))
    }
}

/// A text is not a cursor.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCursor {
    /// It is neither a cursor nor a snapshot. This is the text, cut to 80 characters.
    #[error(
        "{0:?} is not a cursor: send back an `id:` that this server sent, or 0 for the beginning"
    )]
    Form(String),
    /// It has the form of a snapshot, and is not one that can be used.
    #[error("{given:?} is not a snapshot that can be a cursor: {source}")]
    Snapshot {
        /// The text, cut to 80 characters.
        given: String,
        /// What is wrong with it.
        source: InvalidSnapshot,
    },
}

impl FromStr for Cursor {
    type Err = InvalidCursor;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let given = || text.chars().take(80).collect::<String>();
        let snapshot = |text: &str| {
            text.parse().map_err(|source| InvalidCursor::Snapshot { given: given(), source })
        };
        // A cursor has a colon only behind the transaction of a mark.
        if text.contains(':') && !text.contains(['~', '!']) {
            return Ok(Self::of_snapshot(snapshot(text)?));
        }
        let (place, seen) =
            text.split_once('!').map_or((text, None), |(it, seen)| (it, Some(seen)));
        let cursor = parse(place).ok_or_else(|| InvalidCursor::Form(given()))?;
        let seen = seen.map(snapshot).transpose()?.map(Arc::new);
        Ok(Self { snapshot: seen, ..cursor })
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
    sound.then_some(Cursor { head: head.parse().ok()?, marks, snapshot: None })
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
    fn a_snapshot_withholds_what_it_sees_until_it_is_released() {
        let mut cursor: Cursor = "731:735:731,733".parse().unwrap();
        assert!(!cursor.admits(&Row(10, 732)), "the state has it");
        assert!(cursor.admits(&Row(9, 731)) && cursor.admits(&Row(11, 735)));
        cursor.advance(&Row(9, 731), &Late::default());
        assert_eq!(cursor.to_string(), "9!731:735:731,733");
        assert_eq!(cursor.to_string().parse(), Ok(cursor.clone()));

        let at = |head: i64, late: Late| Position { head: EventId::new(head), late };
        let seen_upto = EventId::new(12);
        cursor.catch_up(&at(11, Late::default()));
        cursor.release_snapshot(seen_upto, &at(11, Late::default()));
        assert!(!cursor.admits(&Row(12, 734)), "the reader has not passed it");
        cursor.catch_up(&at(12, late(&[734])));
        cursor.release_snapshot(seen_upto, &at(12, late(&[734])));
        assert!(!cursor.admits(&Row(8, 734)), "it is late here, and the state has it");
        cursor.catch_up(&at(13, Late::default()));
        cursor.release_snapshot(seen_upto, &at(13, Late::default()));
        assert_eq!(cursor.to_string(), "13");
    }

    #[test]
    fn a_snapshot_that_cannot_be_used_is_refused_with_the_reason() {
        for (text, reason) in
            [("5:2:", "out of order"), ("1:2:x", "xmin:xmax"), ("9!5:2:", "out of order")]
        {
            let said = text.parse::<Cursor>().unwrap_err().to_string();
            assert!(said.contains(reason), "{text}: {said}");
        }
    }

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
        assert_eq!(long, InvalidCursor::Form("é".repeat(80)));
    }

    proptest! {
        #[test]
        fn a_cursor_survives_the_wire(
            head in 0..i64::MAX,
            own in proptest::option::of(0..i64::MAX),
            seen in proptest::bool::ANY,
            marks in proptest::collection::btree_map(0..u64::MAX, 0..i64::MAX, 0..=Late::MAX),
        ) {
            let marks = marks.into_iter().map(|(xid, upto)| Mark {
                xid: Xid::new(xid),
                upto: EventId::new(upto),
            }).collect();
            let snapshot = seen.then(|| Arc::new("731:735:731,733".parse().unwrap()));
            let cursor = Cursor { head: EventId::new(head), marks, snapshot };
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

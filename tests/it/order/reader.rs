//! What the reader asks next, where random schedules rarely come to.

use std::time::{Duration, Instant};

use event_piper::{
    event::{EventId, Xid},
    order::Hold,
    reader::{Polled, Reader, Step},
};

use super::world::Row;

/// The next question or wait; what needs no answer is passed over.
fn question(reader: &mut Reader<Row>, now: Instant) -> Step<Row> {
    loop {
        match reader.next(now) {
            Step::Publish(_)
            | Step::Restart { .. }
            | Step::CheckErased
            | Step::Looked
            | Step::Ring => {}
            step => return step,
        }
    }
}

/// A reader of an empty log, about to read the tail for the first time.
fn started(now: Instant) -> Reader<Row> {
    let mut reader = Reader::new(Hold::For(Duration::from_millis(500)), now);
    reader.connected(true, now);
    loop {
        match question(&mut reader, now) {
            Step::Snapshot => reader.snapshot(String::new()),
            Step::Newest => reader.newest(EventId::ZERO),
            Step::Writers => reader.writers(Vec::new(), now),
            Step::Poll { .. } => {
                let drawn = Some(EventId::ZERO);
                let found = Vec::new();
                let polled = Polled { drawn, others: false, found, ringing_waits: false };
                reader.polled(&polled, now);
            }
            Step::Tail { .. } => return reader,
            step => unreachable!("{step:?}"),
        }
    }
}

/// What a reader has decided is behind its head: nobody reads it again.
#[test]
fn what_was_to_be_published_when_the_connection_was_lost_is_published() {
    let now = Instant::now();
    let mut reader = started(now);
    reader.tail(vec![Row { id: 1, xid: 9, consumer: 0, version: 0 }], true, now);
    assert_eq!(reader.position().unwrap().head, EventId::new(1));
    reader.connected(false, now);
    let Step::Publish(publication) = reader.next(now) else { panic!("1 is lost") };
    assert_eq!(publication.rows.len(), 1);
    assert_eq!(publication.position.head, EventId::new(1));
}

/// Whoever committed between the page and the question is in no list of writers.
#[test]
fn a_hole_that_was_filled_between_the_page_and_the_question_is_read_at_once() {
    let now = Instant::now();
    let mut reader = started(now);
    let now = now + Duration::from_millis(500);
    reader.tail(vec![Row { id: 2, xid: 9, consumer: 0, version: 0 }], true, now);
    assert!(matches!(question(&mut reader, now), Step::Writers));
    reader.writers(vec![Xid::new(8)], now);
    let Step::Ended(open) = question(&mut reader, now) else { panic!("8 may have ended") };
    assert_eq!(open, [Xid::new(8)]);
    reader.ended(&[], now);
    assert!(matches!(question(&mut reader, now), Step::Tail { .. }));
}

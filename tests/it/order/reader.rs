//! What the reader asks next, where random schedules rarely come to.

use std::time::{Duration, Instant};

use event_piper::{
    event::{EventId, Xid},
    order::Hold,
    reader::{Reader, SafetyPollResult, Step},
};

use super::world::Row;

/// The next question or wait; what needs no answer is passed over.
fn question(reader: &mut Reader<Row>, now: Instant) -> Step<Row> {
    loop {
        match reader.next(now) {
            Step::Publish(_)
            | Step::Restart { .. }
            | Step::Replaced { .. }
            | Step::CheckErased
            | Step::PollEnded
            | Step::Ring => {}
            step => return step,
        }
    }
}

/// A reader of an empty log, about to read the tail for the first time.
fn started(now: Instant) -> Reader<Row> {
    started_with(Hold::For(Duration::from_millis(500)), false, now)
}

/// The same with this hold, beside others or not.
fn started_with(hold: Hold, others: bool, now: Instant) -> Reader<Row> {
    let mut reader = Reader::new(hold, now);
    reader.connected(true, now);
    loop {
        match question(&mut reader, now) {
            Step::Snapshot => reader.snapshot(String::new()),
            Step::Newest => reader.newest(EventId::ZERO, now),
            Step::Writers => reader.writers(Vec::new(), now),
            Step::SafetyPoll { .. } => {
                let drawn = Some(EventId::ZERO);
                let found = Vec::new();
                reader.safety_polled(
                    &SafetyPollResult { drawn, others, found, ringing_waits: false },
                    now,
                );
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
    reader.tail(vec![Row { id: 1, xid: 9, ..Row::default() }], true, now);
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
    reader.tail(vec![Row { id: 2, xid: 9, ..Row::default() }], true, now);
    assert!(matches!(question(&mut reader, now), Step::Writers));
    reader.writers(vec![Xid::new(8)], now);
    let Step::Ended(open) = question(&mut reader, now) else { panic!("8 may have ended") };
    assert_eq!(open, [Xid::new(8)]);
    reader.ended(&[], now);
    assert!(matches!(question(&mut reader, now), Step::Tail { .. }));
}

/// A log that was replaced has nothing else by which it would be known on the next connection.
#[test]
fn a_log_that_was_found_replaced_is_so_on_the_next_connection() {
    let now = Instant::now();
    let mut reader = started(now);
    reader.tail(vec![row(1)], true, now);
    let later = now + Duration::from_secs(2);
    reader.connected(true, later);
    assert!(matches!(question(&mut reader, later), Step::SafetyPoll { .. }));
    let (drawn, found) = (Some(EventId::new(9)), vec![(EventId::new(1), Xid::new(7))]);
    reader.safety_polled(
        &SafetyPollResult { drawn, others: false, found, ringing_waits: false },
        later,
    );
    for _ in 0..2 {
        reader.connected(true, later);
        assert!(matches!(question(&mut reader, later), Step::Snapshot), "it starts again");
    }
}

/// The next connection may be to a log that was restored, and ends before the hole does.
#[test]
fn a_hole_is_asked_for_again_on_the_next_connection() {
    let start = Instant::now();
    let now = start + Duration::from_millis(100);
    let mut reader = started(start);
    waits_at_hole(&mut reader, now);
    assert!(reader.waits_for().is_some());
    reader.connected(true, now);
    assert!(reader.waits_for().is_none(), "who may fill it is not known any more");
}

/// A reader that keeps the bell, sleeps, and listens; and when its next safety poll is due.
fn asleep(now: Instant) -> (Reader<Row>, Instant) {
    let mut reader = started(now);
    let later = now + Duration::from_millis(100);
    reader.tail(Vec::new(), true, later);
    assert!(matches!(question(&mut reader, later), Step::TrySleep));
    reader.slept(true, later);
    assert!(matches!(question(&mut reader, later), Step::Tail { .. }), "it looks once more");
    reader.tail(Vec::new(), true, later);
    let Step::Listen(until) = question(&mut reader, later) else { panic!("it is asleep") };
    (reader, until)
}

/// A safety poll is due, and the tail is about to be read.
fn polls(reader: &mut Reader<Row>, now: Instant) {
    reader.woken(false, now);
    assert!(matches!(question(reader, now), Step::SafetyPoll { .. }));
    let found = Vec::new();
    reader.safety_polled(
        &SafetyPollResult { drawn: None, others: false, found, ringing_waits: false },
        now,
    );
    assert!(matches!(question(reader, now), Step::Tail { .. }));
}

fn row(id: i64) -> Row {
    Row { id, xid: 9, ..Row::default() }
}

/// The bell of what a poll found may have rung before it looked: the next one tells of something newer.
#[test]
fn a_bell_behind_a_safety_poll_that_found_something_is_followed_by_a_look() {
    let (mut reader, now) = asleep(Instant::now());
    polls(&mut reader, now);
    reader.tail(vec![row(1)], true, now);
    assert!(matches!(question(&mut reader, now), Step::Pause(_)), "it waits for a bell");
    reader.woken(true, now);
    assert!(matches!(question(&mut reader, now), Step::Tail { .. }), "2 may be there");
}

#[test]
fn what_a_safety_poll_found_and_a_bell_announced_needs_no_other_bell() {
    let (mut reader, now) = asleep(Instant::now());
    polls(&mut reader, now);
    reader.rang();
    reader.tail(vec![row(1)], true, now);
    assert!(matches!(question(&mut reader, now), Step::Listen(_)));
}

/// Whoever wrote it may have turned the bell off.
#[test]
fn a_reader_that_no_bell_tells_of_what_it_finds_looks_for_itself() {
    let (mut reader, now) = asleep(Instant::now());
    polls(&mut reader, now);
    reader.tail(vec![row(1)], true, now);
    assert!(matches!(question(&mut reader, now), Step::Pause(_)));
    reader.woken(false, now);
    assert!(matches!(reader.next(now), Step::Unannounced));
    assert!(matches!(question(&mut reader, now), Step::Wake));
    assert!(matches!(question(&mut reader, now), Step::Pause(_)));
}

/// Answers that nobody has ended, and that waits are over, until the tail is to be read.
fn nobody_ends(reader: &mut Reader<Row>, now: Instant) {
    loop {
        match question(reader, now) {
            Step::Ended(_) => reader.ended(&[], now),
            Step::Pause(_) => reader.woken(false, now),
            Step::TrySleep => reader.slept(false, now),
            Step::Tail { .. } => return,
            step => panic!("{step:?}"),
        }
    }
}

/// Comes to a hole before 2 that 8 may fill, and waits there until it is asked again who has ended.
fn waits_at_hole(reader: &mut Reader<Row>, now: Instant) {
    reader.tail(vec![row(2)], true, now);
    assert!(matches!(question(reader, now), Step::Writers));
    reader.writers(vec![Xid::new(8)], now);
    assert!(matches!(question(reader, now), Step::Ended(_)));
    reader.ended(&[], now);
    assert!(matches!(question(reader, now), Step::Tail { .. }));
    reader.tail(vec![row(2)], true, now);
    assert!(matches!(question(reader, now), Step::Pause(_)));
    reader.woken(false, now);
    assert!(matches!(question(reader, now), Step::Ended(_)));
}

/// Others may hold back less, or not at all, and listen to the bell.
#[test]
fn a_reader_that_waits_at_a_hole_rings_for_what_becomes_visible_behind_it() {
    for hold in [Hold::Unlimited, Hold::For(Duration::from_millis(500))] {
        let start = Instant::now();
        let mut reader = started_with(hold, true, start);
        waits_at_hole(&mut reader, start + Duration::from_millis(100));
        let now = start + Duration::from_millis(300);
        reader.ended(&[], now);
        assert!(matches!(question(&mut reader, now), Step::Newest), "{hold:?}");
        reader.newest(EventId::new(3), now);
        assert!(matches!(reader.next(now), Step::Ring), "{hold:?}");
    }
}

#[test]
fn what_becomes_visible_behind_a_hole_waits_for_one_hold_and_not_for_two() {
    let start = Instant::now();
    let at = |millis| start + Duration::from_millis(millis);
    let mut reader = started(start);
    // 8 has 1.
    waits_at_hole(&mut reader, at(100));
    // 7 has 3, and 4 is visible.
    reader.ended(&[], at(300));
    assert!(matches!(question(&mut reader, at(300)), Step::Newest));
    reader.newest(EventId::new(4), at(300));
    assert!(matches!(question(&mut reader, at(300)), Step::Writers));
    reader.writers(vec![Xid::new(7), Xid::new(8)], at(300));
    nobody_ends(&mut reader, at(600));
    reader.tail(vec![row(2), row(4)], true, at(600));
    assert_eq!(reader.position().unwrap().head, EventId::new(2), "4 has waited for half a hold");
    nobody_ends(&mut reader, at(800));
    reader.tail(vec![row(4)], true, at(800));
    let position = reader.position().unwrap();
    assert_eq!(position.head, EventId::new(4));
    let late: Vec<_> = position.late.as_slice().iter().map(|it| (it.xid, it.since)).collect();
    let expected = [(Xid::new(7), EventId::new(2)), (Xid::new(8), EventId::ZERO)];
    assert_eq!(late, expected);
}

/// Of a transaction that wrote more than a page before a hole, nothing waits for that.
#[test]
fn all_rows_before_a_hole_go_at_once_whatever_the_page() {
    let now = Instant::now();
    let mut reader = started(now);
    let now = now + Duration::from_millis(100);
    reader.tail(vec![row(6)], true, now);
    assert!(matches!(question(&mut reader, now), Step::Writers));
    reader.writers(vec![Xid::new(7), Xid::new(8)], now);
    nobody_ends(&mut reader, now);
    reader.tail(vec![row(6)], true, now);
    let Step::Ended(asked) = at_once(&mut reader, now) else { panic!("they are open") };
    assert_eq!(asked, [Xid::new(7), Xid::new(8)]);
    reader.ended(&[Xid::new(8)], now);
    assert!(matches!(at_once(&mut reader, now), Step::Tail { .. }));
    reader.tail(vec![row(1), row(2)], false, now);
    let Step::Tail { after } = at_once(&mut reader, now) else { panic!("3 is there, too") };
    assert_eq!(after, EventId::new(2));
}

/// The next question; waits are over at once, if there are any.
fn at_once(reader: &mut Reader<Row>, now: Instant) -> Step<Row> {
    loop {
        match question(reader, now) {
            Step::Pause(_) => reader.woken(false, now),
            step => return step,
        }
    }
}

/// Nobody waits for a late transaction; but what it wrote may be all that is missing before others' rows.
#[test]
fn a_hole_that_a_late_transaction_filled_is_read_at_once() {
    let start = Instant::now();
    let at = |millis| start + Duration::from_millis(millis);
    let mut reader = started(start);
    // 7 has 1, and is late when the hold has run out.
    reader.tail(vec![row(2)], true, at(100));
    assert!(matches!(question(&mut reader, at(100)), Step::Writers));
    reader.writers(vec![Xid::new(7)], at(100));
    nobody_ends(&mut reader, at(700));
    reader.tail(vec![row(2)], true, at(700));
    assert_eq!(reader.position().unwrap().head, EventId::new(2));
    // It has 3, too, and 8 has 5.
    nobody_ends(&mut reader, at(800));
    reader.tail(vec![row(4), row(6)], true, at(800));
    assert!(matches!(question(&mut reader, at(800)), Step::Writers));
    reader.writers(vec![Xid::new(7), Xid::new(8)], at(800));
    nobody_ends(&mut reader, at(800));
    reader.tail(vec![row(4), row(6)], true, at(800));
    // It commits both: 4 waits for nobody any more.
    let Step::Ended(asked) = question(&mut reader, at(800)) else { panic!("7 is late") };
    assert_eq!(asked, [Xid::new(7)]);
    reader.ended(&asked, at(800));
    let Step::Late(range) = question(&mut reader, at(800)) else { panic!("1 is there") };
    reader.late_rows(vec![Row { id: 1, xid: 7, ..Row::default() }], range.upto, at(800));
    assert!(matches!(question(&mut reader, at(800)), Step::Tail { .. }));
}

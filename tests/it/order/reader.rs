//! Tests of the reader's decisions for cases that random schedules rarely reach.

use std::time::{Duration, Instant};

use event_piper::{
    event::{EventId, Xid},
    order::Hold,
    reader::{Reader, SafetyPollResult, Step},
};

use super::world::Row;

/// Returns the next query or wait, and skips steps that need no result.
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

/// The same with this hold; `others` says whether there are other gateways.
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

/// Rows that the reader has decided on are at or before its head, so no one reads them again.
#[test]
fn pending_rows_are_published_after_a_reconnect() {
    let now = Instant::now();
    let mut reader = started(now);
    reader.tail(vec![Row { id: 1, xid: 9, ..Row::default() }], true, now);
    assert_eq!(reader.position().unwrap().head, EventId::new(1));
    reader.connected(false, now);
    let Step::Publish(publication) = reader.next(now) else { panic!("1 is lost") };
    assert_eq!(publication.rows.len(), 1);
    assert_eq!(publication.position.head, EventId::new(1));
}

/// A transaction that commits between the page and the query for writers is not in the list of writers.
#[test]
fn a_hole_filled_before_the_query_for_writers_is_read_at_once() {
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

/// After a reconnect, nothing else would show that the log was replaced.
#[test]
fn a_replaced_log_is_remembered_across_connections() {
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

/// The next connection may be to a restored log that ends before the hole.
#[test]
fn a_hole_is_examined_again_after_a_reconnect() {
    let start = Instant::now();
    let now = start + Duration::from_millis(100);
    let mut reader = started(start);
    waits_at_hole(&mut reader, now);
    assert!(reader.waits_for().is_some());
    reader.connected(true, now);
    assert!(
        reader.waits_for().is_none(),
        "the transactions that may fill it are not known any more"
    );
}

/// A reader that is the keeper, asleep and listening; and the time of its next safety poll.
fn asleep(now: Instant) -> (Reader<Row>, Instant) {
    let mut reader = started(now);
    let later = now + Duration::from_millis(100);
    reader.tail(Vec::new(), true, later);
    assert!(matches!(question(&mut reader, later), Step::TrySleep));
    reader.slept(true, later);
    assert!(matches!(question(&mut reader, later), Step::Tail { .. }), "it polls once more");
    reader.tail(Vec::new(), true, later);
    let Step::Listen(until) = question(&mut reader, later) else { panic!("it is asleep") };
    (reader, until)
}

/// Runs a safety poll, up to the query for the tail.
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

/// The notification for rows that a poll found may have arrived before the poll. The next one is for newer rows.
#[test]
fn a_notification_after_a_safety_poll_with_rows_causes_a_poll() {
    let (mut reader, now) = asleep(Instant::now());
    polls(&mut reader, now);
    reader.tail(vec![row(1)], true, now);
    assert!(matches!(question(&mut reader, now), Step::Pause(_)), "it waits for a bell");
    reader.woken(true, now);
    assert!(matches!(question(&mut reader, now), Step::Tail { .. }), "2 may be visible");
}

#[test]
fn rows_announced_before_a_safety_poll_need_no_notification() {
    let (mut reader, now) = asleep(Instant::now());
    polls(&mut reader, now);
    reader.rang();
    reader.tail(vec![row(1)], true, now);
    assert!(matches!(question(&mut reader, now), Step::Listen(_)));
}

/// The writer may have turned notifications off.
#[test]
fn a_reader_stays_awake_if_rows_arrive_without_notification() {
    let (mut reader, now) = asleep(Instant::now());
    polls(&mut reader, now);
    reader.tail(vec![row(1)], true, now);
    assert!(matches!(question(&mut reader, now), Step::Pause(_)));
    reader.woken(false, now);
    assert!(matches!(reader.next(now), Step::Unannounced));
    assert!(matches!(question(&mut reader, now), Step::Wake));
    assert!(matches!(question(&mut reader, now), Step::Pause(_)));
}

/// Answers that no transaction has ended, and that waits are over, until the tail is to be read.
fn no_transaction_ends(reader: &mut Reader<Row>, now: Instant) {
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

/// Lets the reader find a hole before 2 that transaction 8 may fill, and wait until its next query for ended
/// transactions.
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

/// Other gateways may have a shorter hold, and wait for notifications.
#[test]
fn a_reader_at_a_hole_notifies_others_of_later_rows() {
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
fn rows_behind_a_hole_wait_for_one_hold() {
    let start = Instant::now();
    let at = |millis| start + Duration::from_millis(millis);
    let mut reader = started(start);
    // Transaction 8 has drawn id 1.
    waits_at_hole(&mut reader, at(100));
    // Transaction 7 has drawn id 3, and 4 is visible.
    reader.ended(&[], at(300));
    assert!(matches!(question(&mut reader, at(300)), Step::Newest));
    reader.newest(EventId::new(4), at(300));
    assert!(matches!(question(&mut reader, at(300)), Step::Writers));
    reader.writers(vec![Xid::new(7), Xid::new(8)], at(300));
    no_transaction_ends(&mut reader, at(600));
    reader.tail(vec![row(2), row(4)], true, at(600));
    assert_eq!(reader.position().unwrap().head, EventId::new(2), "4 has waited for half a hold");
    no_transaction_ends(&mut reader, at(800));
    reader.tail(vec![row(4)], true, at(800));
    let position = reader.position().unwrap();
    assert_eq!(position.head, EventId::new(4));
    let late: Vec<_> = position.late.as_slice().iter().map(|it| (it.xid, it.since)).collect();
    let expected = [(Xid::new(7), EventId::new(2)), (Xid::new(8), EventId::ZERO)];
    assert_eq!(late, expected);
}

/// If a transaction wrote more than a page of rows before a hole, none of them waits for the hole.
#[test]
fn all_rows_before_a_hole_are_delivered_at_once() {
    let now = Instant::now();
    let mut reader = started(now);
    let now = now + Duration::from_millis(100);
    reader.tail(vec![row(6)], true, now);
    assert!(matches!(question(&mut reader, now), Step::Writers));
    reader.writers(vec![Xid::new(7), Xid::new(8)], now);
    no_transaction_ends(&mut reader, now);
    reader.tail(vec![row(6)], true, now);
    let Step::Ended(asked) = at_once(&mut reader, now) else { panic!("they are open") };
    assert_eq!(asked, [Xid::new(7), Xid::new(8)]);
    reader.ended(&[Xid::new(8)], now);
    assert!(matches!(at_once(&mut reader, now), Step::Tail { .. }));
    reader.tail(vec![row(1), row(2)], false, now);
    let Step::Tail { after } = at_once(&mut reader, now) else { panic!("3 is visible, too") };
    assert_eq!(after, EventId::new(2));
}

/// Returns the next query. Waits end at once.
fn at_once(reader: &mut Reader<Row>, now: Instant) -> Step<Row> {
    loop {
        match question(reader, now) {
            Step::Pause(_) => reader.woken(false, now),
            step => return step,
        }
    }
}

/// The reader does not wait for a late transaction, but its rows may be all that is missing before other rows.
#[test]
fn a_hole_filled_by_a_late_transaction_is_read_at_once() {
    let start = Instant::now();
    let at = |millis| start + Duration::from_millis(millis);
    let mut reader = started(start);
    // Transaction 7 has drawn id 1, and is late when the hold has expired.
    reader.tail(vec![row(2)], true, at(100));
    assert!(matches!(question(&mut reader, at(100)), Step::Writers));
    reader.writers(vec![Xid::new(7)], at(100));
    no_transaction_ends(&mut reader, at(700));
    reader.tail(vec![row(2)], true, at(700));
    assert_eq!(reader.position().unwrap().head, EventId::new(2));
    // It has drawn id 3, too, and transaction 8 has drawn id 5.
    no_transaction_ends(&mut reader, at(800));
    reader.tail(vec![row(4), row(6)], true, at(800));
    assert!(matches!(question(&mut reader, at(800)), Step::Writers));
    reader.writers(vec![Xid::new(7), Xid::new(8)], at(800));
    no_transaction_ends(&mut reader, at(800));
    reader.tail(vec![row(4), row(6)], true, at(800));
    // Transaction 7 commits both, so 4 need not wait any more.
    let Step::Ended(asked) = question(&mut reader, at(800)) else { panic!("7 is late") };
    assert_eq!(asked, [Xid::new(7)]);
    reader.ended(&asked, at(800));
    let Step::Late(range) = question(&mut reader, at(800)) else { panic!("1 is visible") };
    reader.late_rows(vec![Row { id: 1, xid: 7, ..Row::default() }], range.upto, at(800));
    assert!(matches!(question(&mut reader, at(800)), Step::Tail { .. }));
}

//! Tests of `Recent` for cases that random schedules rarely reach.

use std::{ops::ControlFlow, sync::Arc};

use event_piper::{
    consumer::ConsumerId,
    event::{EventId, Logged, Xid},
    item::frame::{Encoder, Frame},
    live::{
        follower::{Follower, Live},
        recent::{HistoryPage, Recent},
    },
    order::{Late, LateTransaction, Position},
};

use super::{gateway::consumer, world::Row};

/// All rows between this id and event 10.
fn past(after: i64, rows: Vec<(ConsumerId, Frame)>) -> HistoryPage {
    HistoryPage { upto: EventId::new(10), after: EventId::new(after), rows }
}

/// A consumer that a client followed before the reader started is treated like all others.
#[test]
fn warm_up_reaches_consumers_followed_before_the_start() {
    let toto: Box<[ConsumerId]> = vec![consumer(0)].into();
    let mut recent = Recent::new(100_000, Position::default());
    recent.follow(&toto, &Arc::default());
    recent.reset(&Position { head: EventId::new(10), late: Late::default() });
    let frame = |id| {
        let row = Row { id, xid: 3, ..Row::default() };
        (toto[0].clone(), Encoder::default().encode(&row, "t", b"{}"))
    };
    recent.warm_up(past(8, vec![frame(10), frame(9)]));
    for cursor in ["8", "8~3:8"] {
        let mut follower = Follower::join(&recent, toto.clone(), cursor.parse().ok());
        let mut got = Vec::new();
        let live = follower.live(&recent, |entry, _| {
            got.push(entry.frame.id().get());
            ControlFlow::Continue(())
        });
        if follower.wants().is_none() {
            assert_eq!((live, got), (Live::CaughtUp, vec![9, 10]), "after {cursor}");
        }
    }
}

/// Memory is not complete for events that did not fit.
#[test]
fn events_that_did_not_fit_come_from_the_table() {
    let toto: Box<[ConsumerId]> = vec![consumer(0)].into();
    let frame = |id| {
        let row = Row { id, xid: 3, ..Row::default() };
        (toto[0].clone(), Encoder::default().encode(&row, "t", b"{}"))
    };
    let start = Position { head: EventId::new(10), late: Late::default() };
    let mut recent = Recent::new(100_000, start.clone());
    recent.warm_up(past(9, vec![frame(10)]));
    let bytes_of_one = recent.bytes();
    let mut recent = Recent::new(bytes_of_one, start);
    assert!(!recent.warm_up(past(8, vec![frame(10), frame(9)])), "it is full");
    for (cursor, from_table) in [("9", false), ("8", true)] {
        let follower = Follower::join(&recent, toto.clone(), cursor.parse().ok());
        assert_eq!(follower.wants().is_some(), from_table, "after {cursor}");
    }
}

/// An unexpected row behind the head goes to live clients, and is not part of any client's history.
#[test]
fn an_unexpected_row_goes_to_live_clients_once() {
    let toto: Box<[ConsumerId]> = vec![consumer(0)].into();
    let late: Late =
        [LateTransaction { xid: Xid::new(7), since: EventId::ZERO }].into_iter().collect();
    let at = Position { head: EventId::new(10), late };
    let mut recent = Recent::new(100_000, at.clone());
    recent.follow(&toto, &Arc::default());
    let mut live = Follower::join(&recent, toto.clone(), None);
    let row = Row { id: 3, xid: 5, ..Row::default() };
    recent.publish(&toto[0], Encoder::default().encode(&row, "t", b"{}"), &at, true);
    recent.advance_to(&at);
    let mut resumed = Follower::join(&recent, toto, "10~7:0".parse().ok());
    let count = |follower: &mut Follower| {
        let mut got = 0;
        follower.live(&recent, |_, _| {
            got += 1;
            ControlFlow::Continue(())
        });
        got
    };
    assert_eq!((count(&mut live), count(&mut live)), (1, 0));
    assert_eq!(
        count(&mut resumed),
        0,
        "the row may have been visible when the client disconnected"
    );
}

/// A client that is behind when the log is replaced gets the missing events of the part that both logs have.
#[test]
fn a_client_of_a_replaced_log_resumes_in_the_common_part() {
    let toto: Box<[ConsumerId]> = vec![consumer(0)].into();
    let at = |head| Position { head: EventId::new(head), late: Late::default() };
    for (cursor, behind) in [("4~7:2", "4~7:2"), ("10~7:9", "8~7:8"), ("10~7:2", "8~7:2")] {
        let mut recent = Recent::new(100_000, at(10));
        let mut follower = Follower::join(&recent, toto.clone(), cursor.parse().ok());
        recent.reset(&at(12));
        follower.restart(&recent, EventId::new(8));
        assert_eq!(follower.cursor().to_string(), behind, "{cursor}");
        assert!(follower.wants().is_some(), "{cursor} reads from the table");
    }
}

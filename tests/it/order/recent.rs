//! What memory answers, where random schedules rarely come to.

use std::{ops::ControlFlow, sync::Arc};

use event_piper::{
    consumer::ConsumerId,
    event::{EventId, Logged, Xid},
    item::frame::{Encoder, Frame},
    live::{
        follower::{Follower, Live},
        recent::{Past, Recent},
    },
    order::{Late, LateTransaction, Position},
};

use super::{gateway::consumer, world::Row};

/// All rows between this id and event 10.
fn past(after: i64, rows: Vec<(ConsumerId, Frame)>) -> Past {
    Past { upto: EventId::new(10), after: EventId::new(after), rows }
}

/// A consumer that somebody followed before the reader had started is like all others.
#[test]
fn what_is_recalled_reaches_those_whose_consumer_was_followed_before_the_start() {
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

/// Of what did not fit, memory does not claim to know.
#[test]
fn what_is_not_recalled_comes_from_the_table() {
    let toto: Box<[ConsumerId]> = vec![consumer(0)].into();
    let frame = |id| {
        let row = Row { id, xid: 3, ..Row::default() };
        (toto[0].clone(), Encoder::default().encode(&row, "t", b"{}"))
    };
    let start = Position { head: EventId::new(10), late: Late::default() };
    let mut recent = Recent::new(100_000, start.clone());
    recent.warm_up(past(9, vec![frame(10)]));
    let of_one = recent.bytes();
    let mut recent = Recent::new(of_one, start);
    assert!(!recent.warm_up(past(8, vec![frame(10), frame(9)])), "it is full");
    for (cursor, from_table) in [("9", false), ("8", true)] {
        let follower = Follower::join(&recent, toto.clone(), cursor.parse().ok());
        assert_eq!(follower.wants().is_some(), from_table, "after {cursor}");
    }
}

/// What turned up behind the head goes to whoever is live, and is nobody's history.
#[test]
fn what_turned_up_goes_to_the_live_once() {
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
    assert_eq!(count(&mut resumed), 0, "it may have been there when it came");
}

/// A client that is behind when the log is replaced is owed what both logs have.
#[test]
fn who_goes_on_in_another_log_keeps_what_it_has_and_gets_what_it_lacks_of_both() {
    let toto: Box<[ConsumerId]> = vec![consumer(0)].into();
    let at = |head| Position { head: EventId::new(head), late: Late::default() };
    for (cursor, behind) in [("4~7:2", "4~7:2"), ("10~7:9", "8~7:8"), ("10~7:2", "8~7:2")] {
        let mut recent = Recent::new(100_000, at(10));
        let mut follower = Follower::join(&recent, toto.clone(), cursor.parse().ok());
        recent.reset(&at(12));
        follower.restart(&recent, EventId::new(8));
        assert_eq!(follower.cursor().to_string(), behind, "{cursor}");
        assert!(follower.wants().is_some(), "{cursor} reads it from the table");
    }
}

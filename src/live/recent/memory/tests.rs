use super::*;
use crate::{event::Xid, item::frame::Encoder, order::Late};

struct Row(i64);

impl Logged for Row {
    fn id(&self) -> EventId {
        EventId::new(self.0)
    }
    fn xid(&self) -> Xid {
        Xid::new(7)
    }
}

fn at(head: i64) -> Position {
    Position { head: EventId::new(head), late: Late::default() }
}

fn publish(recent: &mut Recent, whose: &str, id: i64) {
    let frame = Encoder::default().encode(&Row(id), "t", b"{}");
    recent.publish(&whose.parse().unwrap(), frame, &at(id), false);
    recent.advance_to(&at(id));
}

#[test]
fn stays_within_its_capacity_and_drops_idle_consumers() {
    let mut recent = Recent::new(10_000, at(0));
    let toto: ConsumerId = "toto".parse().unwrap();
    let keys = recent.follow(std::slice::from_ref(&toto), &Arc::default());
    for id in 1..1000 {
        publish(&mut recent, &format!("consumer {id}"), id);
        assert!(recent.bytes() <= 10_000);
    }
    let most = 10_000 / Recent::OVERHEAD;
    assert!(recent.consumers().len() <= most + 1, "{}", recent.consumers().len());
    assert!(recent.consumers().contains(&toto), "a followed consumer stays");
    recent.unfollow(std::slice::from_ref(&toto), &keys);
    assert!(!recent.consumers().contains(&toto));
}

#[test]
fn an_invalidated_event_is_never_claimed_again() {
    let mut one = Recent::new(10_000, at(0));
    publish(&mut one, "a", 1);
    let mut recent = Recent::new(2 * one.bytes(), at(0));
    publish(&mut recent, "a", 1);
    publish(&mut recent, "b", 2);
    let b: ConsumerId = "b".parse().unwrap();
    recent.invalidate(&HashSet::from([b.clone()]));
    publish(&mut recent, "a", 3);
    publish(&mut recent, "a", 4);
    assert_eq!(recent.seek(&"1".parse().unwrap(), &[b]), None, "event 2 is in the table only");
}

#[test]
fn repeated_invalidation_leaks_no_places() {
    let mut recent = Recent::new(10_000, at(0));
    publish(&mut recent, "a", 1);
    let b: HashSet<ConsumerId> = HashSet::from(["b".parse().unwrap()]);
    for id in 2..1000 {
        publish(&mut recent, "b", id);
        recent.invalidate(&b);
        assert!(recent.log.len() * Recent::OVERHEAD <= recent.bytes());
        assert!(recent.bytes() <= 10_000);
    }
    assert_eq!(recent.consumers().len(), 0, "the oldest event was evicted, too");
}

#[test]
fn reads_every_new_event_of_a_consumer() {
    let mut recent = Recent::new(1 << 20, at(0));
    for id in 1..=9 {
        publish(&mut recent, if id % 3 == 0 { "other" } else { "toto" }, id);
    }
    let toto: [ConsumerId; 1] = ["toto".parse().unwrap()];
    let end = recent.end();
    let behind = |back| -> Vec<i64> {
        let entries = recent.read(&toto, end - back).unwrap();
        entries.map(|entry| entry.frame.id().get()).collect()
    };
    assert!(behind(0).is_empty() && behind(1).is_empty());
    assert_eq!(behind(2), [8]);
    assert_eq!(behind(3), [7, 8]);
    assert_eq!(behind(8), [2, 4, 5, 7, 8]);
}

#[test]
fn a_follower_of_an_evicted_consumer_reads_from_the_table() {
    let mut recent = Recent::new(1 << 20, at(0));
    let [toto, other] = ["toto", "other"].map(|name| [name.parse::<ConsumerId>().unwrap()]);
    recent.follow(&toto, &Arc::default());
    publish(&mut recent, "toto", 1);
    publish(&mut recent, "other", 2);
    let live = recent.end();
    recent.evict(&toto.iter().cloned().collect(), &at(2));
    assert!(recent.read(&toto, live).is_none(), "the follower lacks what was evicted");
    assert!(recent.read(&other, live).is_some());
    assert!(recent.read(&toto, recent.end()).is_some());
}

#[test]
fn followers_are_notified_once_a_round() {
    let mut recent = Recent::new(1 << 20, at(0));
    let names = ["a", "b", "c"].map(|name| name.parse().unwrap());
    let [both, one, neither] = [0; 3].map(|_| Arc::<Waiter>::default());
    recent.follow(&names[..2], &both);
    let keys = recent.follow(&names[..1], &one);
    recent.follow(&names[2..], &neither);
    let notified = |recent: &mut Recent, who| {
        recent.take_to_notify().iter().filter(|waiter| Arc::ptr_eq(waiter, who)).count()
    };
    for (who, times, id) in [(&both, 2, 1), (&one, 1, 4), (&neither, 0, 7)] {
        publish(&mut recent, "a", id);
        publish(&mut recent, "b", id + 1);
        publish(&mut recent, "a", id + 2);
        assert_eq!(notified(&mut recent, who), times);
    }
    assert!(recent.take_to_notify().is_empty());
    recent.evict(&HashSet::from([names[1].clone()]), &at(10));
    assert_eq!(notified(&mut recent, &both), 1);
    recent.unfollow(&names[..1], &keys);
    publish(&mut recent, "a", 11);
    assert_eq!(notified(&mut recent, &one), 0);
}

/// The events 10 to 1, newest first.
fn history() -> HistoryPage {
    let mut encoder = Encoder::default();
    let rows = (1..=10)
        .rev()
        .map(|id| ("toto".parse().unwrap(), encoder.encode(&Row(id), "t", b"{}")))
        .collect();
    HistoryPage { upto: EventId::new(10), after: EventId::ZERO, rows }
}

#[test]
fn loads_as_much_history_as_fits() {
    let mut roomy = Recent::new(1 << 20, at(10));
    assert!(roomy.warm_up(history()));
    let toto: [ConsumerId; 1] = ["toto".parse().unwrap()];
    assert!(roomy.seek(&"0".parse().unwrap(), &toto).is_some());

    let capacity = roomy.bytes() / 2 + Recent::OVERHEAD / 2;
    let mut recent = Recent::new(capacity, at(10));
    assert!(!recent.warm_up(history()), "there is more");
    assert!(recent.bytes() <= capacity);
    assert_eq!(recent.seek(&"4".parse().unwrap(), &toto), None);
    let place = recent.seek(&"5".parse().unwrap(), &toto).unwrap();
    let ids = recent.read(&toto, place).unwrap().map(|entry| entry.frame.id().get());
    assert_eq!(ids.collect::<Vec<_>>(), [6, 7, 8, 9, 10]);
}

#[test]
fn loads_no_history_after_an_invalidation() {
    let mut recent = Recent::new(1 << 20, at(10));
    recent.invalidate(&HashSet::new());
    assert!(!recent.warm_up(history()));
    assert_eq!(recent.bytes(), 0);
}

#[test]
fn a_reset_drops_the_events_of_the_old_log() {
    let mut recent = Recent::new(10_000, at(0));
    let toto: [ConsumerId; 1] = ["toto".parse().unwrap()];
    recent.follow(&toto, &Arc::default());
    publish(&mut recent, "toto", 10);
    recent.reset(&at(2));
    assert_eq!(recent.bytes(), 0);
    let place = recent.seek(&"2".parse().unwrap(), &toto).unwrap();
    assert_eq!(recent.read(&toto, place).unwrap().count(), 0);
}

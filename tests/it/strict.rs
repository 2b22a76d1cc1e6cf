//! The strict reader: every event, once, in id order, whatever the writers' transactions do.

use std::time::Duration;

use event_piper::{
    cursor::Cursor,
    event::EventId,
    item::signal::GapReason,
    read::strict::{Strict, StrictItem},
};
use tokio::time::timeout;

use crate::support::{
    app::App,
    eventually,
    postgres::{Database, Stop, TestServer},
};

const INSERT: &str = "insert into events (type, subscriber, payload) values ('t', 'toto', '1')";

/// Long enough to see that something is not delivered. The other tests show that it would be delivered in
/// time.
const QUIET_PERIOD: Duration = Duration::from_millis(300);

/// The ids of the next events, at least `count`. Panics at a gap.
async fn ids(log: &mut Strict, count: usize) -> Vec<i64> {
    let mut ids = Vec::new();
    while ids.len() < count {
        let item = timeout(Duration::from_secs(30), log.next()).await;
        match item.expect("an item must arrive in time").expect("the gateway must not end") {
            StrictItem::Events { events, upto } => {
                ids.extend(events.iter().map(|event| event.id.get()));
                assert!(upto >= events.last().unwrap().id, "the checkpoint is behind its events");
                assert_eq!(upto, log.after());
            }
            StrictItem::CaughtUp => {}
            gap @ StrictItem::Gap { .. } => panic!("{gap:?} after {ids:?}"),
        }
    }
    ids
}

/// Asserts that the reader returns no event while a transaction is open.
async fn nothing_is_returned(log: &mut Strict) {
    let early = async {
        loop {
            match log.next().await {
                Some(StrictItem::CaughtUp) => {}
                item => return item,
            }
        }
    };
    let early = timeout(QUIET_PERIOD, early).await;
    assert!(early.is_err(), "{early:?} was returned too early");
}

async fn gap(log: &mut Strict) -> (i64, i64, GapReason) {
    loop {
        match timeout(Duration::from_secs(30), log.next()).await.expect("a gap must arrive in time")
        {
            Some(StrictItem::Gap { from, to, reason }) => return (from.get(), to.get(), reason),
            Some(StrictItem::CaughtUp) => {}
            other => panic!("{other:?} is not a gap"),
        }
    }
}

#[tokio::test]
async fn a_strict_reader_waits_for_a_long_transaction() {
    let database = Database::create().await;
    let app = App::start(&database.url()).await;
    let (slow, quick) = (database.connect().await, database.connect().await);
    let mut log = app.gateway.read().strict(EventId::ZERO);
    quick.batch_execute(INSERT).await.unwrap();
    slow.batch_execute("begin").await.unwrap();
    slow.batch_execute(INSERT).await.unwrap();
    quick.batch_execute(INSERT).await.unwrap();
    assert_eq!(ids(&mut log, 1).await, [1]);
    eventually("the tail passes over the transaction", async || {
        (app.metric("late_transactions").await == 1).then_some(())
    })
    .await;
    nothing_is_returned(&mut log).await;
    slow.batch_execute(INSERT).await.unwrap();
    slow.batch_execute("commit").await.unwrap();
    assert_eq!(ids(&mut log, 3).await, [2, 3, 4]);
}

#[tokio::test]
async fn rollbacks_and_prepared_transactions_keep_the_order() {
    let database = Database::create().await;
    let app = App::start(&database.url()).await;
    let (one, quick) = (database.connect().await, database.connect().await);
    let mut log = app.gateway.read().strict(EventId::ZERO);
    one.batch_execute("begin").await.unwrap();
    one.batch_execute(INSERT).await.unwrap();
    quick.batch_execute(INSERT).await.unwrap();
    one.batch_execute("rollback").await.unwrap();
    assert_eq!(ids(&mut log, 1).await, [2]);

    one.batch_execute("set event_piper.bell = 'off'; begin").await.unwrap();
    one.batch_execute(INSERT).await.unwrap();
    let name = database.name();
    one.batch_execute(&format!("prepare transaction '{name}'")).await.unwrap();
    quick.batch_execute(INSERT).await.unwrap();
    nothing_is_returned(&mut log).await;
    one.batch_execute(&format!("commit prepared '{name}'")).await.unwrap();
    assert_eq!(ids(&mut log, 2).await, [3, 4]);
}

#[tokio::test]
async fn a_reader_that_starts_during_a_long_transaction_waits() {
    let database = Database::create().await;
    let (slow, quick) = (database.connect().await, database.connect().await);
    slow.batch_execute("begin").await.unwrap();
    slow.batch_execute(INSERT).await.unwrap();
    quick.batch_execute(INSERT).await.unwrap();
    let app = App::start(&database.url()).await;
    let mut log = app.gateway.read().strict(EventId::ZERO);
    nothing_is_returned(&mut log).await;
    slow.batch_execute("commit").await.unwrap();
    assert_eq!(ids(&mut log, 2).await, [1, 2]);
}

/// Of a late transaction's events, a cursor admits those above its mark. Of the others, it admits those above
/// its head.
#[tokio::test]
async fn a_reader_from_a_cursor_gets_the_events_it_admits() {
    let database = Database::create().await;
    let app = App::start(&database.url()).await;
    let (slow, quick) = (database.connect().await, database.connect().await);
    slow.batch_execute("begin").await.unwrap();
    let xid = slow.query_one("select pg_current_xact_id()::text", &[]).await.unwrap();
    for _ in 0..3 {
        slow.batch_execute(INSERT).await.unwrap();
        quick.batch_execute(INSERT).await.unwrap();
    }
    slow.batch_execute("commit").await.unwrap();
    quick.batch_execute(INSERT).await.unwrap();
    let at =
        |mark: i64| -> Cursor { format!("6~{}:{mark}", xid.get::<_, &str>(0)).parse().unwrap() };
    assert_eq!(ids(&mut app.gateway.read().strict_owed(at(0)), 4).await, [1, 3, 5, 7]);
    assert_eq!(ids(&mut app.gateway.read().strict_owed(at(1)), 3).await, [3, 5, 7]);
    let mut resumed = app.gateway.read().strict_owed(at(0)).resumed_at(EventId::new(3));
    assert_eq!(ids(&mut resumed, 2).await, [5, 7], "events that were returned before are skipped");
}

#[tokio::test]
async fn no_event_is_lost_among_many_writers_and_restarts() {
    let database = Database::create().await;
    let app = App::start(&database.url()).await;
    let mut writers = Vec::new();
    for number in 0..8_u64 {
        let client = database.connect().await;
        writers.push(tokio::spawn(async move {
            let mut dice = fastrand::Rng::with_seed(number);
            for _ in 0..60 {
                client.batch_execute("begin").await.unwrap();
                for _ in 0..dice.usize(1..4) {
                    client.batch_execute(INSERT).await.unwrap();
                    let pause = [0, 0, 1, 40][dice.usize(0..4)];
                    tokio::time::sleep(Duration::from_millis(pause)).await;
                }
                let end = if dice.u8(0..5) == 0 { "rollback" } else { "commit" };
                client.batch_execute(end).await.unwrap();
            }
        }));
    }
    let mut got = Vec::new();
    let mut log = app.gateway.read().strict(EventId::ZERO);
    while writers.iter().any(|writer| !writer.is_finished()) {
        if let Ok(Some(StrictItem::Events { events, upto })) =
            timeout(QUIET_PERIOD, log.next()).await
        {
            got.extend(events.iter().map(|event| event.id.get()));
            log = app.gateway.read().strict(upto);
        }
    }
    for writer in writers {
        writer.await.unwrap();
    }
    let all = database.connect().await.query("select id from events order by id", &[]).await;
    let all: Vec<i64> = all.unwrap().iter().map(|row| row.get(0)).collect();
    got.extend(ids(&mut log, all.len() - got.len()).await);
    assert_eq!(got, all, "every event once, in order");
}

#[tokio::test]
async fn pruned_events_are_one_gap_and_the_rest_follows() {
    let database = Database::create().await;
    let client = database.connect().await;
    for _ in 0..10 {
        client.batch_execute(INSERT).await.unwrap();
    }
    let prune =
        "begin; set local event_piper.prune = 'on'; delete from events where id in (2, 4); commit";
    client.batch_execute(prune).await.unwrap();
    let app = App::start(&database.url()).await;
    let mut log = app.gateway.read().strict(EventId::new(1));
    assert_eq!(gap(&mut log).await, (1, 4, GapReason::Pruned));
    assert_eq!(ids(&mut log, 7).await, [3, 5, 6, 7, 8, 9, 10]);
    let mut after_the_gap = app.gateway.read().strict(EventId::new(4));
    assert_eq!(ids(&mut after_the_gap, 6).await, [5, 6, 7, 8, 9, 10]);
}

#[tokio::test]
async fn a_replaced_log_is_a_gap_and_continues_at_its_end() {
    let database = Database::create().await;
    let client = database.connect().await;
    for _ in 0..5 {
        client.batch_execute(INSERT).await.unwrap();
    }
    let app = App::start(&database.url()).await;
    let mut foreign = app.gateway.read().strict(EventId::new(4711));
    assert_eq!(gap(&mut foreign).await, (4711, 5, GapReason::Reset));
    let mut log = app.gateway.read().strict(EventId::ZERO);
    assert_eq!(ids(&mut log, 5).await, [1, 2, 3, 4, 5]);
    let reset = "begin; set local event_piper.prune = 'on';
                 truncate events restart identity; commit";
    client.batch_execute(reset).await.unwrap();
    assert_eq!(gap(&mut log).await, (5, 0, GapReason::Reset));
    client.batch_execute(INSERT).await.unwrap();
    assert_eq!(ids(&mut log, 1).await, [1]);
}

#[tokio::test]
async fn a_reader_survives_postgresql_and_ends_with_the_gateway() {
    let server = TestServer::start_own("").await;
    let database = Database::create_on_own(&server).await;
    let app = App::start(&database.url()).await;
    let mut log = app.gateway.read().strict(EventId::ZERO);
    database.connect().await.batch_execute(INSERT).await.unwrap();
    assert_eq!(ids(&mut log, 1).await, [1]);
    server.restart(Stop::Immediate).await;
    database.connect().await.batch_execute(INSERT).await.unwrap();
    let next = ids(&mut log, 1).await;
    assert_eq!(next.len(), 1, "an immediate stop may skip ids");
    app.stop().await;
    assert!(log.next().await.is_none());
}

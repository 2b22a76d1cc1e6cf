//! A stream delivers history first, and then live events, without a gap or a repetition.

mod gaps;

use std::time::Duration;

use event_piper::{
    consumer::ConsumerId,
    cursor::Cursor,
    event::EventId,
    item::{
        frame::Frame,
        output::{Output, Progress, Source},
        signal::Signal,
    },
    live::subscription::{Request, Subscription},
};
use tokio::time::sleep;

use crate::support::{
    app::{App, Settings},
    eventually,
    postgres::Database,
};

/// Inserts `count` events for `toto`. The payload of each is its number, from 1.
async fn fill(database: &Database, count: i64) {
    let insert = "insert into events (type, subscriber, payload)
                  select 'n', 'toto', to_jsonb(n) from generate_series(1, $1::int8) n";
    database.connect().await.execute(insert, &[&count]).await.unwrap();
}

fn without_recent() -> Settings {
    let mut settings = Settings::default();
    settings.gateway.recent = 0;
    settings
}

#[tokio::test]
async fn a_replay_begins_after_any_id_and_signals_its_end() {
    let database = Database::create().await;
    fill(&database, 2500).await;
    let app = App::start(&database.url()).await;
    let mut toto = app.resume("toto", "0").await;
    assert_eq!(toto.rows(2500).await, (1..=2500).collect::<Vec<_>>());
    assert_eq!(toto.signal("$caught-up").await.id.as_deref(), Some("2500"));

    let mut toto = app.resume("toto", "2490").await;
    assert_eq!(toto.rows(10).await, (2491..=2500).collect::<Vec<_>>());
    toto.signal("$caught-up").await;

    let mut toto = app.resume("toto", "2500").await;
    let said = toto.signal("$caught-up").await;
    assert_eq!(said.id.as_deref(), Some("2500"), "an empty replay signals its end, too");
}

#[tokio::test]
async fn a_replay_during_writes_delivers_each_event_once() {
    let database = Database::create().await;
    fill(&database, 3000).await;
    let app = App::start(&database.url()).await;
    let writer = database.connect().await;
    let writing = tokio::spawn(async move {
        for _ in 0..300 {
            let insert = "insert into events (type, subscriber, payload) values ('t', 'toto', '1')";
            writer.batch_execute(insert).await.unwrap();
        }
    });
    let mut streams = Vec::new();
    for cursor in ["0", "1000", "2999"] {
        streams.push((cursor.parse::<i64>().unwrap(), app.resume("toto", cursor).await));
    }
    writing.await.unwrap();
    for (after, stream) in &mut streams {
        let count = usize::try_from(3300 - *after).unwrap();
        assert_eq!(stream.rows(count).await, (*after + 1..=3300).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn only_an_old_cursor_needs_a_query() {
    let database = Database::create().await;
    fill(&database, 10).await;
    let mut settings = Settings::default();
    settings.gateway.recent = 2000;
    let app = App::start_with(&database.url(), settings).await;
    let mut live = app.follow("toto").await.joined().await;
    fill(&database, 10).await;
    live.rows(10).await;
    assert_eq!(app.resume("toto", "12").await.rows(8).await.len(), 8);
    assert_eq!(app.metric("replays_total").await, 0);
    assert_eq!(app.metric("resumed_from_recent_total").await, 1);
    assert_eq!(app.resume("toto", "2").await.rows(18).await.len(), 18);
    assert_eq!(app.metric("replays_total").await, 1);
}

#[tokio::test]
async fn a_restart_loads_recent_events_into_memory() {
    let database = Database::create().await;
    fill(&database, 5000).await;
    let app = App::start(&database.url()).await;
    eventually("all events are in memory", async || {
        (app.metric("recent_bytes").await > 5000 * 120).then_some(())
    })
    .await;
    assert_eq!(app.resume("toto", "17").await.rows(4983).await, (18..=5000).collect::<Vec<_>>());
    assert_eq!(app.metric("replays_total").await, 0);
}

#[tokio::test]
async fn without_recent_events_the_gateway_reads_the_table() {
    let database = Database::create().await;
    let app = App::start_with(&database.url(), without_recent()).await;
    let mut toto = app.follow("toto").await.joined().await;
    for round in 0..5 {
        fill(&database, 40).await;
        let expected: Vec<i64> = (round * 40 + 1..=round * 40 + 40).collect();
        assert_eq!(toto.rows(40).await, expected);
    }
}

#[tokio::test]
async fn every_payload_arrives_unchanged() {
    let database = Database::create().await;
    let app = App::start(&database.url()).await;
    let mut live = app.follow("toto").await.joined().await;
    let writer = database.connect().await;
    let big = format!(r#"{{"x":"{}"}}"#, "é".repeat(500_000));
    let payloads = [
        "null",
        "1",
        "-0.0",
        "1e400",
        "12345678901234567890.000000000000000000001",
        "true",
        r#""a \" b \\ : , c""#,
        "[]",
        "{}",
        r#"[1,[2,{"a":[]}]]"#,
        r#"{"b":1,"a":{"":null}}"#,
        "\"\\r\\n\\t\u{2028}\u{feff}👋 id: 9\"",
        &big,
    ];
    for payload in payloads {
        let insert =
            "insert into events (type, subscriber, payload) values ('t', 'toto', $1::text::jsonb)";
        writer.execute(insert, &[&payload]).await.unwrap();
    }
    let mut replay = app.resume("toto", "0").await;
    for payload in payloads {
        let stored = "select $1::text::jsonb = $2::text::jsonb";
        for stream in [&mut live, &mut replay] {
            let data = stream.event().await.data;
            let same = writer.query_one(stored, &[&payload, &data]).await.unwrap();
            assert!(same.get::<_, bool>(0), "{payload:.60} arrived as {data:.60}");
            assert!(!data.contains(['\n', '\r']));
        }
    }
    let exact = "1234567890123456789012345678901234567890.5";
    let insert =
        format!("insert into events (type, subscriber, payload) values ('t', 'toto', '{exact}')");
    writer.batch_execute(&insert).await.unwrap();
    assert_eq!(live.event().await.data, exact, "no digit is lost");
}

#[tokio::test]
async fn a_hundred_thousand_rows_of_a_statement_arrive_in_order() {
    let database = Database::create().await;
    let app = App::start(&database.url()).await;
    let mut live = app.follow("toto").await.joined().await;
    fill(&database, 100_000).await;
    assert_eq!(live.rows(100_000).await, (1..=100_000).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_cursor_with_an_open_transaction_survives_a_restart() {
    let database = Database::create().await;
    fill(&database, 5).await;
    let (slow, quick) = (database.connect().await, database.connect().await);
    let app = App::start(&database.url()).await;
    let mut toto = app.follow("toto").await.joined().await;
    slow.batch_execute("begin").await.unwrap();
    let insert = "insert into events (type, subscriber, payload) values ('t', 'toto', '1')";
    slow.batch_execute(insert).await.unwrap();
    quick.batch_execute(insert).await.unwrap();
    let seen = toto.event().await;
    assert_eq!(seen.row(), 7);
    app.stop().await;
    slow.batch_execute(insert).await.unwrap();
    slow.batch_execute("commit").await.unwrap();

    let app = App::start(&database.url()).await;
    let mut toto = app.resume("toto", seen.id.as_deref().unwrap()).await;
    assert_eq!(toto.rows(2).await, [6, 8]);
    assert_eq!(toto.signal("$caught-up").await.id.as_deref(), Some("8"));
}

#[tokio::test]
async fn a_transaction_open_at_startup_is_delivered_at_its_end() {
    let database = Database::create().await;
    fill(&database, 5).await;
    let slow = database.connect().await;
    slow.batch_execute("begin").await.unwrap();
    let insert = "insert into events (type, subscriber, payload) values ('t', 'toto', '1')";
    slow.batch_execute(insert).await.unwrap();
    fill(&database, 1).await;
    let app = App::start(&database.url()).await;
    let mut toto = app.follow("toto").await.joined().await;
    slow.batch_execute("commit").await.unwrap();
    assert_eq!(toto.rows(1).await, [6]);
}

#[tokio::test]
async fn a_row_that_bypassed_the_trigger_is_delivered_and_counted() {
    let database = Database::create().await;
    let app = App::start(&database.url()).await;
    let mut toto = app.follow("toto").await.joined().await;
    let (past, writer) = (database.connect().await, database.connect().await);
    past.batch_execute("alter table events disable trigger events_doorbell").await.unwrap();
    past.batch_execute("begin").await.unwrap();
    let insert = "insert into events (type, subscriber, payload) values ('t', 'toto', '1')";
    past.batch_execute(insert).await.unwrap();
    writer.batch_execute(insert).await.unwrap();
    assert_eq!(toto.rows(1).await, [2], "the safety poll finds it, without a notification");
    past.batch_execute("commit").await.unwrap();
    assert_eq!(toto.rows(1).await, [1]);
    eventually("the row is counted", async || {
        (app.metric("found_behind_total").await == 1).then_some(())
    })
    .await;
}

/// A page also ends after a number of bytes. The next page continues after it.
#[tokio::test]
async fn large_events_take_many_pages_and_none_is_left_out() {
    let database = Database::create().await;
    let mut settings = Settings::default();
    settings.gateway.recent = 0;
    let app = App::start_with(&database.url(), settings).await;
    let mut live = app.follow("toto").await.joined().await;
    let large = "insert into events (type, subscriber, payload)
                 select 't', 'toto', to_jsonb(repeat('x', 300000)) from generate_series(1, 20)";
    database.connect().await.batch_execute(large).await.unwrap();
    assert!(live.rows(20).await.into_iter().eq(1..=20));
    let mut replayed = app.resume("toto", "0").await;
    assert!(replayed.rows(20).await.into_iter().eq(1..=20));
}

/// The gateway reads pages in the expectation that rows remain small. A large row arrives complete, wherever
/// in a page it is.
#[tokio::test]
async fn a_large_event_among_small_ones_is_complete() {
    let database = Database::create().await;
    let client = database.connect().await;
    let mut settings = Settings::default();
    settings.gateway.recent = 0;
    let app = App::start_with(&database.url(), settings).await;
    // The first page has 100 rows, and the next page begins with a large row.
    for (small, large) in [(100, 1), (150, 3), (400, 1), (20, 0)] {
        let insert = format!(
            "insert into events (type, subscriber, payload)
             select 't', 'toto', to_jsonb(row) from generate_series(1, {small}) row;
             insert into events (type, subscriber, payload)
             select 't', 'toto', (select to_jsonb(string_agg(md5(row || '.' || part), ''))
                                  from generate_series(1, 1000) part)
             from generate_series(1, {large}) row"
        );
        client.batch_execute(&insert).await.unwrap();
    }
    let rows = "select id, payload::text from events order by id";
    let truth = client.query(rows, &[]).await.unwrap();
    let mut replayed = app.resume("toto", "0").await;
    for row in truth {
        let event = replayed.event().await;
        assert_eq!((event.row(), event.data.as_str()), (row.get(0), row.get(1)));
    }
    replayed.signal("$caught-up").await;
}

/// The gateway reads pages ahead. A client that takes the next page much later must not get data that was
/// erased in the meantime.
#[tokio::test]
async fn an_old_prefetched_page_is_read_again() {
    let database = Database::create().await;
    fill(&database, 2500).await;
    let app = App::start_with(&database.url(), without_recent()).await;
    let consumer: ConsumerId = "toto".parse().unwrap();
    let mut replay = app.gateway.live().subscribe(Request {
        consumers: [consumer].into(),
        cursor: Some("0".parse().unwrap()),
        kinds: None,
        amended: false,
    });
    assert_eq!(page(&mut replay).await, (1..=100).collect::<Vec<_>>());
    assert_eq!(page(&mut replay).await, (101..=300).collect::<Vec<_>>());
    sleep(Duration::from_millis(1_500)).await;
    let erase = "begin; set local event_piper.prune = 'on';
                 update events set payload = to_jsonb(-id); commit";
    database.connect().await.batch_execute(erase).await.unwrap();
    assert_eq!(page(&mut replay).await, (301..=700).map(|id| -id).collect::<Vec<_>>());
}

/// Collects payloads as numbers.
#[derive(Default)]
struct Payloads(Vec<i64>);

impl Output for Payloads {
    fn shared(&mut self, frame: &Frame, _: &Cursor) {
        unreachable!("{frame:?} is live");
    }

    fn event(&mut self, _: EventId, _: &Cursor, _: &str, data: &[u8]) {
        self.0.push(str::from_utf8(data).unwrap().parse().unwrap());
    }

    fn signal(&mut self, _: Signal, _: Option<&Cursor>) {}

    fn len(&self) -> usize {
        self.0.len()
    }
}

/// The payloads of the next page that is not empty.
async fn page(replay: &mut Subscription) -> Vec<i64> {
    loop {
        let mut payloads = Payloads::default();
        assert_eq!(replay.next(&mut payloads).await, Progress::Produced);
        if !payloads.is_empty() {
            return payloads.0;
        }
    }
}

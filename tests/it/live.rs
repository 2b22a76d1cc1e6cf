//! Live delivery of events.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use crate::support::{
    app::{App, Settings},
    postgres::Database,
    sse_client::Frame,
};

const README: &str = "insert into events (type, timestamp, subscriber, payload) \
                      values ('insert', now(), 'toto', '{\"foo\": \"bar\"}')";

#[tokio::test]
async fn an_insert_arrives_as_the_readme_shows() {
    let database = Database::create().await;
    let app = App::start(&database.url()).await;
    let mut toto = app.follow("toto").await.joined().await;
    database.connect().await.batch_execute(README).await.unwrap();
    let expected = Frame {
        id: Some("1".into()),
        event: "insert".into(),
        data: r#"{"foo":"bar"}"#.into(),
        retry: None,
    };
    assert_eq!(toto.event().await, expected);
}

#[tokio::test]
async fn a_stream_starts_with_a_retry_and_a_cursor() {
    let database = Database::create().await;
    let app = App::start(&database.url()).await;
    database.connect().await.batch_execute(README).await.unwrap();
    app.follow("toto").await.rows(0).await;
    let mut toto = app.resume("toto", "0").await;
    assert_eq!(toto.rows(1).await, [1]);

    let mut toto = app.follow("toto").await;
    assert_eq!(toto.headers["content-type"], "text/event-stream");
    assert_eq!(toto.headers["cache-control"], "no-cache, no-transform");
    assert_eq!(toto.headers["x-accel-buffering"], "no");
    let retry = toto.next().await.unwrap();
    assert!((1000..=2000).contains(&retry.retry.unwrap()), "{retry:?}");
    let greeting = toto.next().await.unwrap();
    assert_eq!((greeting.event.as_str(), greeting.data.as_str()), ("heartbeat", "thump"));
    assert_eq!(greeting.id.as_deref(), Some("1"), "the stream starts after existing events");
}

#[tokio::test]
async fn every_stream_of_a_consumer_gets_all_of_its_events() {
    let database = Database::create().await;
    let app = App::start(&database.url()).await;
    let mut first = app.follow("toto").await.joined().await;
    let mut second = app.follow("toto").await.joined().await;
    let mut other = app.follow("titi").await.joined().await;
    let writer = database.connect().await;
    for (id, who) in [(1, "toto"), (2, "titi"), (3, "nobody"), (4, "toto")] {
        let insert = "insert into events (type, subscriber, payload) values ('t', $1, '1')";
        assert_eq!(writer.execute(insert, &[&who]).await.unwrap(), 1, "{id}");
    }
    assert_eq!(first.rows(2).await, [1, 4]);
    assert_eq!(second.rows(2).await, [1, 4]);
    assert_eq!(other.rows(1).await, [2]);
}

#[tokio::test]
async fn heartbeats_advance_the_cursor_of_a_quiet_stream() {
    let database = Database::create().await;
    let app = App::start(&database.url()).await;
    let mut quiet = app.follow("quiet").await.joined().await;
    database.connect().await.batch_execute(README).await.unwrap();
    let heartbeat = quiet.signal("heartbeat").await;
    assert_eq!((heartbeat.id.as_deref(), heartbeat.data.as_str()), (Some("1"), "thump"));
}

/// When rows are small, the reader queries them without measuring their size first. A large one among them
/// must still be delivered.
#[tokio::test]
async fn a_large_event_among_small_ones_keeps_its_place() {
    let database = Database::create().await;
    let app = App::start(&database.url()).await;
    let mut toto = app.follow("toto").await.joined().await;
    let writer = database.connect().await;
    writer.batch_execute(README).await.unwrap();
    assert_eq!(toto.rows(1).await, [1], "now the reader expects small rows");
    // A random payload cannot be compressed, so it is large in the table, too.
    let insert = "insert into events (type, subscriber, payload)
                  select 't', 'toto', to_jsonb(case when n = $1 then (
                      select string_agg(md5(random()::text), '') from generate_series(1, 1000)
                  ) else 'small' end) from generate_series(1, $2) n";
    let (mut row, large) = (1, 32_002);
    // A large event alone; a small one, after which the reader expects small rows again; a large event
    // between two small ones.
    for (which, of, lengths) in
        [(1, 1, &[large][..]), (0, 1, &[7]), (2, 3, &[7, large, 7]), (0, 1, &[7])]
    {
        writer.execute(insert, &[&which, &of]).await.unwrap();
        for &length in lengths {
            row += 1;
            let event = toto.event().await;
            assert_eq!((event.row(), event.data.len()), (row, length));
        }
    }
}

/// An event shows that the stream works, so the next heartbeat is due only a whole interval after it.
#[tokio::test]
async fn an_event_postpones_the_heartbeat() {
    let database = Database::create().await;
    let mut settings = Settings::default();
    let heartbeat = Duration::from_secs(1);
    settings.http.heartbeat = heartbeat;
    let app = App::start_with(&database.url(), settings).await;
    let mut toto = app.follow("toto").await.joined().await;
    let writer = database.connect().await;
    // The gateway cannot have been silent for longer than the time since the previous event was written, no
    // matter how slow the machine is.
    let (begun, mut before) = (Instant::now(), Instant::now());
    while begun.elapsed() < 3 * heartbeat {
        let now = Instant::now();
        writer.batch_execute(README).await.unwrap();
        loop {
            let (frame, quiet) = (toto.next().await.unwrap(), before.elapsed());
            if frame.is_logged() {
                break;
            }
            assert!(quiet > heartbeat / 2, "{frame:?} after at most {quiet:?} of silence");
        }
        before = now;
        sleep(heartbeat / 10).await;
    }
}

#[tokio::test]
async fn an_open_transaction_delays_events_for_the_hold_only() {
    let database = Database::create().await;
    let app = App::start(&database.url()).await;
    let mut toto = app.follow("toto").await.joined().await;
    let (slow, quick) = (database.connect().await, database.connect().await);
    slow.batch_execute("begin").await.unwrap();
    slow.batch_execute(README).await.unwrap();
    quick.batch_execute(README).await.unwrap();

    let passed = toto.event().await;
    assert_eq!(passed.row(), 2);
    let cursor = passed.id.unwrap();
    assert!(cursor.starts_with("2~"), "the cursor names the late transaction: {cursor}");

    slow.batch_execute("commit").await.unwrap();
    let late = toto.event().await;
    assert_eq!(late.row(), 1);
    assert!(late.id.unwrap().starts_with("1@2~"));
    quick.batch_execute(README).await.unwrap();
    assert_eq!(toto.event().await.id.as_deref(), Some("3"), "the cursor is plain again");
}

#[tokio::test]
async fn another_instance_sends_a_late_event_once() {
    let database = Database::create().await;
    let (here, there) = (App::start(&database.url()).await, App::start(&database.tcp_url()).await);
    let (a, b) = (database.connect().await, database.connect().await);
    let mut toto = here.follow("toto").await.joined().await;
    a.batch_execute("begin").await.unwrap();
    a.batch_execute(README).await.unwrap();
    b.batch_execute(README).await.unwrap();
    let seen = toto.event().await;
    assert_eq!(seen.row(), 2);
    drop(toto);
    a.batch_execute("commit").await.unwrap();

    for (instance, owed) in [(&there, &[1][..]), (&here, &[1, 3])] {
        let mut toto = instance.resume("toto", seen.id.as_deref().unwrap()).await;
        // An instance that has not noticed the commit yet sends the late event after the others.
        let mut rows = toto.rows(owed.len()).await;
        rows.sort_unstable();
        assert_eq!(rows, owed);
        b.batch_execute(README).await.unwrap();
        let next = toto.event().await.row();
        assert!(next > 2, "{next} was sent again");
    }
}

#[tokio::test]
async fn rollbacks_cause_neither_delay_nor_events() {
    let database = Database::create().await;
    let app = App::start(&database.url()).await;
    let mut toto = app.follow("toto").await.joined().await;
    let writer = database.connect().await;
    for _ in 0..20 {
        writer.batch_execute("begin").await.unwrap();
        writer.batch_execute(README).await.unwrap();
        writer.batch_execute("rollback").await.unwrap();
    }
    let savepoint =
        format!("begin; {README}; savepoint s; {README}; rollback to s; {README}; commit");
    writer.batch_execute(&savepoint).await.unwrap();
    assert_eq!(toto.rows(2).await, [21, 23]);
}

#[tokio::test]
async fn a_stream_selects_types_and_several_consumers() {
    let database = Database::create().await;
    let app = App::start(&database.url()).await;
    let path = "/events?consumer=a&consumer=b&types=x,y";
    let mut both = crate::support::sse_client::Stream::open(app.address, path, &[]).await;
    both = both.joined().await;
    let writer = database.connect().await;
    for (kind, who) in [("x", "a"), ("z", "a"), ("y", "b"), ("x", "c"), ("x", "b"), ("x", "a")] {
        let insert = "insert into events (type, subscriber, payload) values ($1, $2, '1')";
        writer.execute(insert, &[&kind, &who]).await.unwrap();
    }
    assert_eq!(both.rows(4).await, [1, 3, 5, 6]);
    let again = format!("{path}&lastEventId=0");
    let mut both = crate::support::sse_client::Stream::open(app.address, &again, &[]).await;
    assert_eq!(both.rows(4).await, [1, 3, 5, 6]);
}

#[tokio::test]
async fn a_stream_gets_no_events_of_other_consumers() {
    let database = Database::create().await;
    let app = App::start(&database.url()).await;
    let mut toto = app.follow("toto").await.joined().await;
    let writer = database.connect().await;
    writer
        .batch_execute("insert into events (type, subscriber, payload) values ('t', 'titi', '1')")
        .await
        .unwrap();
    let quiet = timeout(Duration::from_millis(400), toto.event()).await;
    assert!(quiet.is_err(), "{quiet:?}");
}

#[tokio::test]
async fn a_truncated_log_is_a_gap_and_continues() {
    let database = Database::create().await;
    let app = App::start(&database.url()).await;
    let writer = database.connect().await;
    let mut toto = app.follow("toto").await.joined().await;
    writer.batch_execute(README).await.unwrap();
    writer.batch_execute(README).await.unwrap();
    assert_eq!(toto.rows(2).await, [1, 2]);
    let truncate = "begin; set local event_piper.prune = 'on';
                    truncate events restart identity; commit";
    writer.batch_execute(truncate).await.unwrap();
    let gap = toto.signal("$gap").await;
    assert_eq!(gap.data, r#"{"from":2,"to":0,"reason":"reset"}"#);

    let mut later = app.resume("toto", "57").await;
    let gap = later.signal("$gap").await;
    assert_eq!(gap.data, r#"{"from":57,"to":0,"reason":"reset"}"#);
    writer.batch_execute(README).await.unwrap();
    assert_eq!((toto.rows(1).await, later.rows(1).await), (vec![1], vec![1]));
}

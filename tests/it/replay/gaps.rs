//! Gaps: a client that misses events which no longer exist gets `$gap`, once.

use std::collections::BTreeSet;

use super::{fill, without_recent};
use crate::support::{app::App, eventually, postgres::Database};

#[tokio::test]
async fn a_gap_of_pruned_events_is_sent_after_a_restart() {
    let database = Database::create().await;
    fill(&database, 20).await;
    let prune =
        "begin; set local event_piper.prune = 'on'; delete from events where id = 15; commit";
    database.connect().await.batch_execute(prune).await.unwrap();
    let app = App::start(&database.url()).await;
    eventually("events are in memory", async || {
        (app.metric("recent_bytes").await > 0).then_some(())
    })
    .await;
    let mut old = app.resume("toto", "14").await;
    old.signal("$gap").await;
    assert_eq!(old.rows(5).await, (16..=20).collect::<Vec<_>>());
    assert_eq!(app.resume("toto", "15").await.rows(5).await, (16..=20).collect::<Vec<_>>());
}

#[tokio::test]
async fn only_a_client_that_misses_pruned_events_gets_a_gap() {
    let database = Database::create().await;
    fill(&database, 20).await;
    let prune =
        "begin; set local event_piper.prune = 'on'; delete from events where id <= 10; commit";
    database.connect().await.batch_execute(prune).await.unwrap();
    let app = App::start(&database.url()).await;
    let mut old = app.resume("toto", "5").await;
    let gap = old.signal("$gap").await;
    assert_eq!(gap.data, r#"{"from":5,"to":10,"reason":"pruned"}"#);
    assert_eq!(old.rows(10).await, (11..=20).collect::<Vec<_>>());

    let mut abreast = app.resume("toto", "10").await;
    let mut frames = BTreeSet::new();
    while let Some(frame) = abreast.next().await
        && frame.event != "$caught-up"
    {
        frames.insert(frame.event);
    }
    assert!(!frames.contains("$gap"), "a client that has all pruned events misses nothing");
}

#[tokio::test]
async fn a_gap_over_many_pages_is_sent_once() {
    let database = Database::create().await;
    fill(&database, 3500).await;
    let prune =
        "begin; set local event_piper.prune = 'on'; delete from events where id = 3400; commit";
    database.connect().await.batch_execute(prune).await.unwrap();
    let app = App::start_with(&database.url(), without_recent()).await;
    let mut toto = app.resume("toto", "0").await;
    let mut gaps = Vec::new();
    while let Some(frame) = toto.next().await
        && frame.event != "$caught-up"
    {
        gaps.extend((frame.event == "$gap").then_some(frame.data));
    }
    assert_eq!(gaps, [r#"{"from":0,"to":3400,"reason":"pruned"}"#]);
}

/// Another gateway may have delivered the event already, or its transaction was rolled back.
#[tokio::test]
async fn a_cursor_at_an_assigned_id_is_of_this_log() {
    let database = Database::create().await;
    fill(&database, 3).await;
    let client = database.connect().await;
    let insert = "insert into events (type, subscriber, payload) values ('t', 'toto', '1')";
    client.batch_execute(&format!("begin; {insert}; {insert}; rollback")).await.unwrap();
    let app = App::start(&database.url()).await;
    let mut drawn = app.resume("toto", "5").await;
    let mut beyond = app.resume("toto", "6").await;
    let gap = beyond.signal("$gap").await;
    assert_eq!(gap.data, r#"{"from":6,"to":3,"reason":"reset"}"#);
    let mut said = Vec::new();
    while let Some(frame) = drawn.next().await
        && frame.event != "$caught-up"
    {
        said.push(frame.event);
    }
    assert!(!said.iter().any(|event| event == "$gap"), "{said:?}");
    client.batch_execute(insert).await.unwrap();
    assert_eq!(drawn.rows(1).await, [6]);
}

#[tokio::test]
async fn a_cursor_beyond_the_log_gets_a_gap_and_live_events() {
    let database = Database::create().await;
    fill(&database, 3).await;
    let app = App::start(&database.url()).await;
    let mut lost = app.resume("toto", "4711").await;
    let gap = lost.signal("$gap").await;
    assert_eq!(gap.data, r#"{"from":4711,"to":3,"reason":"reset"}"#);
    assert_eq!(gap.id.as_deref(), Some("3"));
    fill(&database, 1).await;
    assert_eq!(lost.rows(1).await, [4]);
}

#[tokio::test]
async fn a_reset_log_sends_a_gap_and_delivery_continues() {
    let database = Database::create().await;
    fill(&database, 50).await;
    let app = App::start(&database.url()).await;
    let mut toto = app.follow("toto").await.joined().await;
    let reset = "begin; set local event_piper.prune = 'on';
                 truncate events restart identity; commit";
    database.connect().await.batch_execute(reset).await.unwrap();
    let gap = toto.signal("$gap").await;
    assert_eq!(gap.data, r#"{"from":50,"to":0,"reason":"reset"}"#);
    fill(&database, 2).await;
    assert_eq!(toto.rows(2).await, [1, 2]);
}

/// The log is filled again and passes the former head before the gateway checks whether the log was reset.
#[tokio::test]
async fn a_refilled_log_beyond_the_head_is_delivered_from_its_start() {
    let database = Database::create().await;
    fill(&database, 5).await;
    let app = App::start(&database.url()).await;
    let mut toto = app.follow("toto").await.joined().await;
    fill(&database, 1).await;
    assert_eq!(toto.rows(1).await, [6]);
    let refill = "begin; set local event_piper.prune = 'on';
                  truncate events restart identity;
                  insert into events (type, subscriber, payload)
                  select 't', 'toto', '2' from generate_series(1, 13); commit";
    database.connect().await.batch_execute(refill).await.unwrap();
    let gap = toto.signal("$gap").await;
    assert!(gap.data.ends_with(r#""to":0,"reason":"reset"}"#), "{}", gap.data);
    assert_eq!(toto.rows(13).await, (1..=13).collect::<Vec<_>>());
}

#[tokio::test]
async fn missing_ids_of_a_former_log_are_not_sought_in_the_next() {
    let database = Database::create().await;
    let app = App::start(&database.url()).await;
    let mut toto = app.follow("toto").await.joined().await;
    let writer = database.connect().await;
    let insert = "insert into events (type, subscriber, payload) values ('t', 'toto', '1')";
    let one_that_is_missing = format!("begin; {insert}; rollback; {insert}");
    writer.batch_execute(&one_that_is_missing).await.unwrap();
    assert_eq!(toto.rows(1).await, [2]);
    let reset = "begin; set local event_piper.prune = 'on';
                 truncate events restart identity; commit";
    writer.batch_execute(reset).await.unwrap();
    toto.signal("$gap").await;
    writer.batch_execute(insert).await.unwrap();
    assert_eq!(toto.rows(1).await, [1], "the id that was missing in the former log");

    // Gaps are audited in the order in which they appeared. When this row is found, the earlier gap was
    // audited.
    writer.batch_execute(&one_that_is_missing).await.unwrap();
    assert_eq!(toto.rows(1).await, [3]);
    let past = "insert into events (id, type, subscriber, payload) overriding system value
                values (2, 't', 'toto', '1')";
    writer.batch_execute(past).await.unwrap();
    assert_eq!(toto.rows(1).await, [2]);
    assert_eq!(app.metric("found_behind_total").await, 1);
}

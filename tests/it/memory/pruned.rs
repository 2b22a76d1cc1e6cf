//! A client is sent a gap for events that were pruned before it could read them, whatever its cursor is.

use event_piper::{event::EventId, read::strict::StrictItem};

use crate::support::{
    app::{App, Settings},
    eventually,
    postgres::Database,
};

const INSERT: &str = "insert into events (type, subscriber, payload) values ('t', 'toto', '1')";

fn prune(what: &str) -> String {
    format!("begin; set local event_piper.prune = 'on'; delete from events where {what}; commit")
}

/// An event of a late transaction is pruned before its client reconnects: to the gateway that was running all
/// the time, and to a new one.
#[tokio::test]
async fn a_prune_between_a_mark_and_the_head_is_a_gap() {
    let database = Database::create().await;
    let (slow, client) = (database.connect().await, database.connect().await);
    let mut settings = Settings::default();
    settings.gateway.recent = 0;
    let app = App::start_with(&database.url(), settings).await;
    let mut toto = app.follow("toto").await.joined().await;
    slow.batch_execute(&format!("begin; {INSERT}")).await.unwrap();
    client.batch_execute(INSERT).await.unwrap();
    let seen = toto.event().await;
    let cursor = seen.id.clone().unwrap();
    assert!(seen.row() == 2 && cursor.starts_with("2~"), "{cursor}");
    drop(toto);
    slow.batch_execute("commit").await.unwrap();
    eventually("the late event was delivered", async || {
        (app.metric("late_transactions").await == 0).then_some(())
    })
    .await;
    client.batch_execute(&prune("id = 1")).await.unwrap();

    let gap = r#"{"from":0,"to":1,"reason":"pruned"}"#;
    assert_eq!(app.resume("toto", &cursor).await.signal("$gap").await.data, gap);
    let again = App::start(&database.url()).await;
    let mut toto = again.resume("toto", &cursor).await;
    assert_eq!(toto.signal("$gap").await.data, gap);
    toto.signal("$caught-up").await;
}

/// A log from which everything was pruned differs from one that never had an event.
#[tokio::test]
async fn a_prune_at_the_end_of_the_log_is_a_gap_after_a_restart() {
    let database = Database::create().await;
    let client = database.connect().await;
    for _ in 0..5 {
        client.batch_execute(INSERT).await.unwrap();
    }
    for (pruned, upto) in [("id >= 4", 5), ("true", 5)] {
        client.batch_execute(&prune(pruned)).await.unwrap();
        let app = App::start(&database.url()).await;
        let gap = format!(r#"{{"from":3,"to":{upto},"reason":"pruned"}}"#);
        assert_eq!(app.resume("toto", "3").await.signal("$gap").await.data, gap);
        let mut all = app.gateway.read().strict(EventId::new(3));
        let item = all.next().await;
        let gap = matches!(item, Some(StrictItem::Gap { to, .. }) if to == EventId::new(upto));
        assert!(gap, "{item:?}");
        app.stop().await;
    }
}

/// After a restart of the ids, what was pruned before belongs to another log.
#[tokio::test]
async fn prunes_before_a_truncate_are_no_gap() {
    let database = Database::create().await;
    let client = database.connect().await;
    let fill = format!("{INSERT}; {INSERT}; {INSERT}; {INSERT}");
    client.batch_execute(&fill).await.unwrap();
    client.batch_execute(&prune("id = 3")).await.unwrap();
    let truncate =
        "begin; set local event_piper.prune = 'on'; truncate events restart identity; commit";
    client.batch_execute(&format!("{truncate}; {INSERT}; {INSERT}")).await.unwrap();
    let app = App::start(&database.url()).await;
    let mut toto = app.resume("toto", "0").await;
    let mut seen = Vec::new();
    while seen.last().is_none_or(|event| event != "$caught-up") {
        seen.push(toto.next().await.unwrap().event);
        seen.retain(|event| event != "heartbeat" && !event.is_empty());
    }
    assert_eq!(seen, ["t", "t", "$caught-up"]);
    let mut log = app.gateway.read().strict(EventId::ZERO);
    let first = log.next().await;
    assert!(matches!(first, Some(StrictItem::Events { .. })), "{first:?}");
}

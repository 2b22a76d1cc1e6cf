//! What was pruned before a client had it is told, wherever its cursor stands.

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

/// An event of a late transaction goes before its client comes back for it: to the gateway that
/// was there all the time, and to a new one.
#[tokio::test]
async fn what_was_pruned_between_a_mark_and_the_head_is_told() {
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
    eventually("it was delivered", async || {
        (app.metric("late_transactions").await == 0).then_some(())
    })
    .await;
    client.batch_execute(&prune("id = 1")).await.unwrap();

    let told = r#"{"from":0,"to":1,"reason":"pruned"}"#;
    assert_eq!(app.resume("toto", &cursor).await.signal("$gap").await.data, told);
    let again = App::start(&database.url()).await;
    let mut toto = again.resume("toto", &cursor).await;
    assert_eq!(toto.signal("$gap").await.data, told);
    toto.signal("$caught-up").await;
}

/// A log of which nothing is left is not one that never had anything.
#[tokio::test]
async fn what_was_pruned_at_the_end_of_the_log_is_told_after_a_restart() {
    let database = Database::create().await;
    let client = database.connect().await;
    for _ in 0..5 {
        client.batch_execute(INSERT).await.unwrap();
    }
    for (pruned, upto) in [("id >= 4", 5), ("true", 5)] {
        client.batch_execute(&prune(pruned)).await.unwrap();
        let app = App::start(&database.url()).await;
        let told = format!(r#"{{"from":3,"to":{upto},"reason":"pruned"}}"#);
        assert_eq!(app.resume("toto", "3").await.signal("$gap").await.data, told);
        let mut all = app.gateway.read().strict(EventId::new(3));
        let item = all.next().await;
        let gap = matches!(item, Some(StrictItem::Gap { to, .. }) if to == EventId::new(upto));
        assert!(gap, "{item:?}");
        app.stop().await;
    }
}

/// The ids were started anew: what was pruned before is of another log.
#[tokio::test]
async fn notes_of_a_log_that_was_started_anew_tell_no_gap() {
    let database = Database::create().await;
    let client = database.connect().await;
    let fill = format!("{INSERT}; {INSERT}; {INSERT}; {INSERT}");
    client.batch_execute(&fill).await.unwrap();
    client.batch_execute(&prune("id = 3")).await.unwrap();
    let anew =
        "begin; set local event_piper.prune = 'on'; truncate events restart identity; commit";
    client.batch_execute(&format!("{anew}; {INSERT}; {INSERT}")).await.unwrap();
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

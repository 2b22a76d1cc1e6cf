//! Events that an aggregator refuses: dead letters, `retry` and `skip`.

use super::{
    aggregator::{Aggregator, Says},
    logged,
    process::{PumpProcess, command, said},
    write,
};
use crate::support::{eventually, postgres::Database};

async fn until_it_has(aggregator: &Aggregator, ids: &[i64], pump: &PumpProcess) {
    pump.eventually("the aggregator has what it takes", async || aggregator.ids() == ids).await;
}

#[tokio::test]
async fn stops_before_a_refused_event_until_it_is_skipped() {
    let database = Database::create().await;
    let aggregator = Aggregator::start().await;
    aggregator.store().refused.insert(3);
    let pump = PumpProcess::start(&database.url(), &aggregator, &[]);
    pump.until("live").await;
    write(&database, 5).await;
    pump.until_it_tells("stopped", false).await;
    assert_eq!(aggregator.ids(), [1, 2]);
    // The checkpoint is written before the state is `stopped`.
    let list = said(&["list"], &database.url()).await;
    assert!(list.contains("toto: running, booted, at 2, 3 events behind"), "{list}");
    assert!(list.contains("3 blocking") && list.contains("422"), "{list}");
    assert!(list.contains("no room for event 3"), "{list}");
    said(&["skip", "toto", "3"], &database.url()).await;
    until_it_has(&aggregator, &[1, 2, 4, 5], &pump).await;
    pump.until("live").await;
    let none = async || pump.metric("dead_letters").await < 0.5;
    pump.eventually("what is skipped is not counted", none).await;
    let again = command(&["retry", "toto", "3"], &database.url()).await;
    assert!(!again.status.success(), "a skipped event cannot be retried");
    // It remains skipped in another bootstrap.
    aggregator.restart_empty();
    write(&database, 1).await;
    until_it_has(&aggregator, &[1, 2, 4, 5, 6], &pump).await;
    pump.until("live").await;
}

#[tokio::test]
async fn a_stopped_pump_resumes_on_retry() {
    let database = Database::create().await;
    let aggregator = Aggregator::start().await;
    aggregator.store().refused.insert(2);
    let pump = PumpProcess::start(&database.url(), &aggregator, &[]);
    pump.until("live").await;
    write(&database, 3).await;
    pump.until("stopped").await;
    aggregator.store().refused.clear();
    said(&["retry", "toto"], &database.url()).await;
    until_it_has(&aggregator, &[1, 2, 3], &pump).await;
    let gone =
        async || (!said(&["list"], &database.url()).await.contains("blocking")).then_some(());
    eventually("nothing blocks any more", gone).await;
    assert_eq!(aggregator.store().wrong, Vec::<String>::new());
}

#[tokio::test]
async fn a_refused_event_of_a_batch_is_set_aside() {
    let database = Database::create().await;
    write(&database, 40).await;
    let aggregator = Aggregator::start().await;
    aggregator.store().refused.extend([17, 42]);
    let flags = ["--on-refusal", "set-aside", "--batch-events", "16"];
    let pump = PumpProcess::start(&database.url(), &aggregator, &flags);
    pump.until("live").await;
    write(&database, 5).await;
    let mut expected = logged(&database).await;
    expected.retain(|id| ![17, 42].contains(id));
    until_it_has(&aggregator, &expected, &pump).await;
    let list = said(&["list"], &database.url()).await;
    assert!(list.contains("17 set-aside") && list.contains("42 set-aside"), "{list}");
    eventually("both are counted", async || {
        (pump.metric("dead_letters").await > 1.5).then_some(())
    })
    .await;
    {
        let mut store = aggregator.store();
        assert_eq!(store.wrong, Vec::<String>::new());
        // The batch is halved until the event is found, and then grows again.
        assert_eq!(store.batches, [16, 16, 8, 4, 2, 1, 1, 1, 1, 2, 4, 8, 8, 0]);
        store.refused.clear();
    }
    said(&["retry", "toto", "17"], &database.url()).await;
    expected.insert(16, 17);
    until_it_has(&aggregator, &expected, &pump).await;
    // The response comes before the dead letter is deleted.
    let forgotten = async || {
        let list = said(&["list"], &database.url()).await;
        let letters: Vec<_> = list.lines().skip(1).map(str::trim_start).collect();
        matches!(letters[..], [letter] if letter.starts_with("42 set-aside"))
    };
    pump.eventually("only the other one is refused", forgotten).await;
}

#[tokio::test]
async fn dead_letters_survive_a_restart() {
    let database = Database::create().await;
    let aggregator = Aggregator::start().await;
    aggregator.store().says = Says::Nothing;
    aggregator.store().refused.insert(2);
    let flags = ["--on-refusal", "set-aside"];
    let mut pump = PumpProcess::start(&database.url(), &aggregator, &flags);
    pump.until("live").await;
    write(&database, 3).await;
    until_it_has(&aggregator, &[1, 3], &pump).await;
    pump.kill().await;
    pump.run();
    write(&database, 1).await;
    until_it_has(&aggregator, &[1, 3, 4], &pump).await;
    assert!(said(&["list"], &database.url()).await.contains("2 set-aside"));
}

/// A dead letter was not delivered, so the aggregator's latest event is an earlier one.
#[tokio::test]
async fn a_last_dead_letter_is_not_retried_after_a_restart() {
    let database = Database::create().await;
    let aggregator = Aggregator::start().await;
    aggregator.store().refused.insert(3);
    let flags = ["--on-refusal", "set-aside"];
    let mut pump = PumpProcess::start(&database.url(), &aggregator, &flags);
    pump.until("live").await;
    write(&database, 3).await;
    let noted = async || said(&["list"], &database.url()).await.contains("booted, at 3, 0 events");
    pump.eventually("it has noted that it is behind the event", noted).await;
    pump.kill().await;
    let before = aggregator.store().posts.len();
    pump.run();
    pump.until("live").await;
    write(&database, 1).await;
    until_it_has(&aggregator, &[1, 2, 4], &pump).await;
    assert_eq!(aggregator.store().posts.len(), before + 1);
}

#[tokio::test]
async fn a_dead_letter_is_deleted_when_its_event_is_accepted() {
    let database = Database::create().await;
    let aggregator = Aggregator::start().await;
    aggregator.store().refused.insert(2);
    let mut pump = PumpProcess::start(&database.url(), &aggregator, &[]);
    pump.until("live").await;
    write(&database, 2).await;
    pump.until("stopped").await;
    pump.kill().await;
    aggregator.store().refused.clear();
    pump.run();
    until_it_has(&aggregator, &[1, 2], &pump).await;
    let forgotten = async || !said(&["list"], &database.url()).await.contains("blocking");
    pump.eventually("nothing blocks any more", forgotten).await;
}

#[tokio::test]
async fn a_failed_retry_keeps_the_dead_letter() {
    let database = Database::create().await;
    let aggregator = Aggregator::start().await;
    aggregator.store().refused.extend([1, 2]);
    let flags = ["--on-refusal", "set-aside"];
    let pump = PumpProcess::start(&database.url(), &aggregator, &flags);
    pump.until("live").await;
    write(&database, 3).await;
    until_it_has(&aggregator, &[3], &pump).await;
    let prune =
        "begin; set local event_piper.prune = 'on'; delete from events where id = 2; commit";
    database.connect().await.batch_execute(prune).await.unwrap();
    let noted_at = "update event_piper_dead_letters set reason = 'before'";
    database.connect().await.batch_execute(noted_at).await.unwrap();
    said(&["retry", "toto"], &database.url()).await;
    let list = async || said(&["list"], &database.url()).await;
    let both = async || {
        let list = list().await;
        list.matches("set-aside").count() == 2 && !list.contains("before")
    };
    pump.eventually("both are set aside again", both).await;
    let list = list().await;
    assert!(list.contains("no room for event 1"), "{list}");
    assert!(list.contains("the event was pruned"), "{list}");
}

#[tokio::test]
async fn a_retried_event_ahead_is_delivered_in_order() {
    let database = Database::create().await;
    let aggregator = Aggregator::start().await;
    aggregator.store().refused.insert(17);
    let flags = ["--on-refusal", "set-aside"];
    let mut pump = PumpProcess::start(&database.url(), &aggregator, &flags);
    pump.until("live").await;
    let all = write(&database, 20).await;
    let others: Vec<_> = all.iter().copied().filter(|id| *id != 17).collect();
    until_it_has(&aggregator, &others, &pump).await;
    pump.kill().await;
    said(&["retry", "toto", "17"], &database.url()).await;
    {
        let mut store = aggregator.store();
        store.refused.clear();
        store.applied.split_off(&11);
    }
    pump.run();
    until_it_has(&aggregator, &all, &pump).await;
    assert_eq!(aggregator.store().wrong, Vec::<String>::new());
}

#[tokio::test]
async fn an_event_that_was_not_refused_cannot_be_skipped() {
    let database = Database::create().await;
    let output = command(&["skip", "toto", "3"], &database.url()).await;
    assert!(!output.status.success());
    let says = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(says.contains("none of these events is refused"), "{says}");
}

/// The table can be written with SQL.
#[tokio::test]
async fn dead_letters_with_any_times_are_listed() {
    let database = Database::create().await;
    let insert = "insert into event_piper_pumps (name) values ('toto');
        insert into event_piper_dead_letters (pump, event_id, state, reason, noted_at)
        values ('toto', 7, 'blocking', 'no room', 'infinity')";
    database.connect().await.batch_execute(insert).await.unwrap();
    let list = said(&["list"], &database.url()).await;
    assert!(list.contains("7 blocking") && list.contains("infinity"), "{list}");
}

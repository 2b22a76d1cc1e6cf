//! The pump as a process, between a real PostgreSQL and an aggregator that can fail in many ways.

pub(crate) mod aggregator;
mod faults;
mod letters;
pub(crate) mod process;
mod wire;

use self::{
    aggregator::{Aggregator, Says, payload},
    process::PumpProcess,
};
use crate::support::{
    eventually,
    postgres::{Database, Stop, TestServer},
    process::Process,
    scratch::Scratch,
};

/// Writes events, and returns their ids.
async fn write(database: &Database, count: i64) -> Vec<i64> {
    let client = database.connect().await;
    let sql = "insert into events (type, subscriber, payload)
        select 'insert', 'toto', jsonb_build_object('number', n) from generate_series(1, $1::bigint) n
        returning id";
    let rows = client.query(sql, &[&count]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// The ids of all events in the log.
async fn logged(database: &Database) -> Vec<i64> {
    let client = database.connect().await;
    let rows = client.query("select id from events order by id", &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// Waits until the aggregator has all events of the log, in order.
async fn fed(database: &Database, aggregator: &Aggregator, pump: &PumpProcess) {
    let expected = logged(database).await;
    let what = format!("the aggregator has {} events", expected.len());
    pump.eventually(&what, async || aggregator.ids() == expected).await;
    assert_eq!(aggregator.store().wrong, Vec::<String>::new(), "{}", pump.log());
}

#[tokio::test]
async fn delivers_history_in_batches_and_then_each_event() {
    let database = Database::create().await;
    write(&database, 250).await;
    let aggregator = Aggregator::start().await;
    let pump = PumpProcess::start(&database.url(), &aggregator, &["--batch-events", "100"]);
    pump.until("live").await;
    fed(&database, &aggregator, &pump).await;
    {
        let store = aggregator.store();
        assert_eq!(store.batches, [100, 100, 50, 0]);
        assert_eq!((store.singles, store.repeats), (0, 0));
        let first = store.applied.values().next().unwrap();
        assert_eq!(first["payload"], payload(1));
        assert_eq!((&first["type"], &first["subscriber"]), (&"insert".into(), &"toto".into()));
        assert!(first["timestamp"].as_str().unwrap().ends_with('Z'), "{first}");
        for absent in ["stream", "version", "uid", "metadata"] {
            assert!(first[absent].is_null() && first.get(absent).is_some(), "{first}");
        }
    }
    write(&database, 3).await;
    fed(&database, &aggregator, &pump).await;
    let store = aggregator.store();
    assert_eq!((store.singles, store.batches.len(), store.repeats), (3, 4, 0));
}

#[tokio::test]
async fn an_empty_log_is_bootstrapped_by_one_empty_batch() {
    let database = Database::create().await;
    let aggregator = Aggregator::start().await;
    let flags = ["--batch-path", "events/import"];
    let pump = PumpProcess::start(&database.url(), &aggregator, &flags);
    pump.until("live").await;
    assert_eq!(aggregator.store().batches, [0]);
}

#[tokio::test]
async fn a_pump_is_not_ready_before_the_bootstrap() {
    let database = Database::create().await;
    write(&database, 1).await;
    let aggregator = Aggregator::start().await;
    aggregator.store().faults.extend([aggregator::Fault::Hang; 1000]);
    let pump = PumpProcess::start(&database.url(), &aggregator, &["--timeout", "30s"]);
    pump.eventually("a batch hangs", async || aggregator.store().posts.len() == 1).await;
    pump.until_it_tells("bootstrapping", false).await;
    aggregator.store().faults.clear();
    aggregator.cut();
    pump.until_it_tells("live", true).await;
}

#[tokio::test]
async fn an_interrupted_bootstrap_is_resumed() {
    let database = Database::create().await;
    write(&database, 2000).await;
    let aggregator = Aggregator::start().await;
    let flags = ["--batch-events", "100"];
    aggregator
        .store()
        .faults
        .extend([aggregator::Fault::Late(std::time::Duration::from_millis(20)); 30]);
    let mut pump = PumpProcess::start(&database.url(), &aggregator, &flags);
    let begun = async || (aggregator.store().batches.len() >= 5).then_some(());
    eventually("the bootstrap is under way", begun).await;
    pump.kill().await;
    pump.run();
    pump.until("live").await;
    fed(&database, &aggregator, &pump).await;
    let store = aggregator.store();
    assert_eq!(store.booted, 1);
    assert!(store.repeats <= 100, "{} repeats", store.repeats);
}

#[tokio::test]
async fn without_a_latest_event_the_checkpoint_counts() {
    for says in [Says::Nothing, Says::Foreign] {
        let database = Database::create().await;
        write(&database, 20).await;
        let aggregator = Aggregator::start().await;
        aggregator.store().says = says;
        let mut pump = PumpProcess::start(&database.url(), &aggregator, &[]);
        fed(&database, &aggregator, &pump).await;
        let client = database.connect().await;
        let noted = async || {
            let row =
                client.query_one("select position from event_piper_pumps", &[]).await.unwrap();
            (row.get::<_, Option<i64>>(0) == Some(20)).then_some(())
        };
        eventually("the checkpoint is noted", noted).await;
        pump.kill().await;
        write(&database, 5).await;
        pump.run();
        fed(&database, &aggregator, &pump).await;
        let store = aggregator.store();
        assert_eq!((store.singles, store.repeats, store.batches.len()), (25, 0, 0), "{says:?}");
    }
}

#[tokio::test]
async fn without_a_latest_event_delivery_may_start_now() {
    let database = Database::create().await;
    write(&database, 20).await;
    let aggregator = Aggregator::start().await;
    aggregator.store().says = Says::Nothing;
    let pump = PumpProcess::start(&database.url(), &aggregator, &["--start", "now"]);
    pump.until("live").await;
    let new = write(&database, 2).await;
    let complete = async || (aggregator.ids() == new).then_some(());
    eventually("the new events arrive", complete).await;
}

/// Events of transactions that are open at the start are new, although events with greater ids are not.
#[tokio::test]
async fn starting_now_includes_open_transactions() {
    let database = Database::create().await;
    write(&database, 20).await;
    let (open, insert) = (
        database.connect().await,
        "insert into events (type, subscriber, payload) values ('t', 'toto', '1')",
    );
    open.batch_execute(&format!("begin; {insert}; {insert}")).await.unwrap();
    write(&database, 20).await;
    let aggregator = Aggregator::start().await;
    aggregator.store().says = Says::Nothing;
    let mut pump = PumpProcess::start(&database.url(), &aggregator, &["--start", "now"]);
    pump.until("live").await;
    let listed = process::said(&["list"], &database.url()).await;
    assert!(listed.contains("at 42, 0 events behind"), "{listed}");
    pump.kill().await;
    open.batch_execute(insert).await.unwrap();
    let new = write(&database, 2).await;
    pump.run();
    pump.until("live").await;
    assert!(aggregator.ids().is_empty(), "nothing is delivered before the open transaction ends");
    open.batch_execute("commit").await.unwrap();
    let expected: Vec<i64> = [21, 22, 43].into_iter().chain(new).collect();
    eventually("the new events arrive", async || (aggregator.ids() == expected).then_some(()))
        .await;
    let passed = async || {
        let row =
            database.connect().await.query_one("select owed from event_piper_pumps", &[]).await;
        row.unwrap().get::<_, Option<String>>(0).is_none().then_some(())
    };
    eventually("the beginning is forgotten", passed).await;
}

#[tokio::test]
async fn an_emptied_aggregator_is_bootstrapped_again() {
    let database = Database::create().await;
    write(&database, 30).await;
    let aggregator = Aggregator::start().await;
    let pump = PumpProcess::start(&database.url(), &aggregator, &[]);
    pump.until("live").await;
    fed(&database, &aggregator, &pump).await;
    for times in 2..=4 {
        aggregator.restart_empty();
        // The next event must not be delivered before the missing ones.
        write(&database, 1).await;
        fed(&database, &aggregator, &pump).await;
        let booted = async || (aggregator.store().booted == times).then_some(());
        eventually("it is booted again", booted).await;
    }
}

#[tokio::test]
async fn a_restored_aggregator_gets_its_missing_events() {
    let database = Database::create().await;
    let ids = write(&database, 30).await;
    let aggregator = Aggregator::start().await;
    let pump = PumpProcess::start(&database.url(), &aggregator, &[]);
    pump.until("live").await;
    fed(&database, &aggregator, &pump).await;
    aggregator.store().applied.split_off(&ids[10]);
    aggregator.cut();
    write(&database, 1).await;
    fed(&database, &aggregator, &pump).await;
    assert_eq!(aggregator.store().repeats, 0);
}

#[tokio::test]
async fn delivers_nothing_to_an_aggregator_of_another_log() {
    // An id of another event of this log, and an id that was never drawn.
    for id in [2, 9] {
        let database = Database::create().await;
        write(&database, 3).await;
        let aggregator = Aggregator::start().await;
        let other = serde_json::json!({
            "id": id, "type": "other", "timestamp": "2020-01-01T00:00:00Z", "subscriber": "toto",
            "stream": null, "version": null, "uid": null, "payload": 1, "metadata": null
        });
        aggregator.store().applied.insert(id, other);
        let pump = PumpProcess::start(&database.url(), &aggregator, &[]);
        pump.until("stopped").await;
        pump.eventually("it says why", async || pump.log().contains("is another log")).await;
        assert!(aggregator.store().posts.is_empty());
    }
}

#[tokio::test]
async fn waits_for_earlier_events_that_may_still_appear() {
    let database = Database::create().await;
    let aggregator = Aggregator::start().await;
    let pump = PumpProcess::start(&database.url(), &aggregator, &[]);
    pump.until("live").await;
    let (slow, quick) = (database.connect().await, database.connect().await);
    let insert = "insert into events (type, subscriber, payload) values ('a', 'b', '1')";
    slow.batch_execute(&format!("begin; {insert}")).await.unwrap();
    quick.batch_execute(&format!("begin; {insert}; rollback; {insert}")).await.unwrap();
    let seen = async || (pump.metric("lag_events").await > 0.0).then_some(());
    eventually("the later event is seen", seen).await;
    assert!(aggregator.ids().is_empty());
    slow.batch_execute("commit").await.unwrap();
    fed(&database, &aggregator, &pump).await;
    assert_eq!(aggregator.ids(), [1, 3]);
}

#[tokio::test]
async fn a_pump_survives_a_restart_of_postgresql() {
    let server = TestServer::start_own("").await;
    let database = Database::create_on_own(&server).await;
    let aggregator = Aggregator::start().await;
    let pump = PumpProcess::start(&database.url(), &aggregator, &[]);
    pump.until("live").await;
    for how in [Stop::Fast, Stop::Kill] {
        write(&database, 10).await;
        server.restart(how).await;
        write(&database, 10).await;
        fed(&database, &aggregator, &pump).await;
    }
}

#[tokio::test]
async fn a_gateway_runs_the_pumps_of_its_settings() {
    let database = Database::create().await;
    write(&database, 5).await;
    let (one, other) = (Aggregator::start().await, Aggregator::start().await);
    let folder = Scratch::new();
    let file = folder.path().join("event-piper.toml");
    let text = format!(
        "[[aggregator]]\nname = 'one'\nto = '{}'\n[[aggregator]]\nto = '{}'\nonly-types = ['none']\n",
        one.url(),
        other.url()
    );
    std::fs::write(&file, text).unwrap();
    let gateway = Process::launch(&database.url(), &["--config", file.to_str().unwrap()]);
    gateway.ready().await;
    let booted = async || {
        let both = one.store().booted == 1 && other.store().booted == 1;
        both.then_some(())
    };
    eventually("both are booted", booted).await;
    assert_eq!(one.ids(), logged(&database).await);
    assert!(other.ids().is_empty());
    let details = async || {
        let ask = crate::support::sse_client::ask(gateway.address(), "GET", "/readyz", &[]);
        let pumps = ask.await.json()["pumps"].clone();
        (pumps["one"] == "live" && pumps[other.url()] == "live").then_some(())
    };
    eventually("readiness tells of both", details).await;
}

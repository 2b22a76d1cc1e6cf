//! Faults of the aggregator, the network, the pump and PostgreSQL. Afterwards no event is missing.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use nix::sys::signal::Signal;
use tokio::time::sleep;

use super::{
    aggregator::{Aggregator, Fault, Says},
    fed,
    process::PumpProcess,
    write,
};
use crate::support::{
    chaos_proxy::{ChaosProxy, Strike, Weather},
    eventually,
    postgres::{Database, try_connect},
};

const FAULTS: [Fault; 8] = [
    Fault::Answer(500),
    Fault::Answer(404),
    Fault::Answer(200),
    Fault::Hang,
    Fault::Late(Duration::from_millis(100)),
    Fault::Late(Duration::from_millis(700)),
    Fault::DieAfter,
    Fault::DieBefore,
];

fn any_fault() -> Fault {
    FAULTS[fastrand::usize(..FAULTS.len())]
}

/// Writes until `stop` is set: events, rollbacks, and long transactions.
async fn write_on(url: String, stop: &AtomicBool) {
    let client = try_connect(&url).await.unwrap();
    let insert = "insert into events (type, subscriber, payload)
        select 'insert', 'toto', jsonb_build_object('number', n) from generate_series(1, 3) n";
    while !stop.load(Ordering::Relaxed) {
        let pause = Duration::from_millis(fastrand::u64(..15));
        let end = if fastrand::u8(..5) == 0 { "rollback" } else { "commit" };
        client.batch_execute(&format!("begin; {insert}")).await.unwrap();
        sleep(pause).await;
        client.batch_execute(end).await.unwrap();
    }
}

#[tokio::test]
async fn one_fault_of_each_kind_loses_nothing() {
    let database = Database::create().await;
    let aggregator = Aggregator::start().await;
    let pump = PumpProcess::start(&database.url(), &aggregator, &["--timeout", "500ms"]);
    pump.until("live").await;
    for fault in FAULTS {
        aggregator.store().faults.push_back(fault);
        write(&database, 2).await;
        fed(&database, &aggregator, &pump).await;
    }
    // The aggregator tells its latest event, so only a delayed request can deliver an event twice.
    assert!(aggregator.store().repeats <= 1, "{}", pump.log());
    assert!(pump.metric("retries_total").await >= 7.0 - 0.5);
}

#[tokio::test]
async fn honours_retry_after() {
    let database = Database::create().await;
    let aggregator = Aggregator::start().await;
    let pump = PumpProcess::start(&database.url(), &aggregator, &[]);
    pump.until("live").await;
    aggregator.store().faults.push_back(Fault::Busy);
    write(&database, 1).await;
    fed(&database, &aggregator, &pump).await;
    let store = aggregator.store();
    let [.., refused, again] = store.posts[..] else { panic!("{:?}", store.posts) };
    assert!(again - refused >= Duration::from_secs(1), "{:?}", again - refused);
}

#[tokio::test]
async fn random_kills_and_faults_lose_nothing() {
    let seed = fastrand::u64(..);
    println!("the dice: {seed}");
    fastrand::seed(seed);
    for says in [Says::Latest, Says::Nothing] {
        let database = Database::create().await;
        write(&database, 500).await;
        let aggregator = Aggregator::start().await;
        aggregator.store().says = says;
        let flags = ["--batch-events", "20", "--timeout", "400ms"];
        let start = || PumpProcess::start(&database.url(), &aggregator, &flags);
        let mut pumps = [start(), start()];
        let stop = AtomicBool::new(false);
        let mischief = async {
            for _ in 0..25 {
                let faults = std::iter::repeat_with(any_fault).take(fastrand::usize(..3));
                aggregator.store().faults.extend(faults);
                sleep(Duration::from_millis(fastrand::u64(20..250))).await;
                if fastrand::bool() {
                    let pump = &mut pumps[fastrand::usize(..2)];
                    pump.kill().await;
                    pump.run();
                }
            }
            aggregator.store().faults.clear();
            stop.store(true, Ordering::Relaxed);
        };
        let writers = [write_on(database.url(), &stop), write_on(database.url(), &stop)];
        tokio::join!(mischief, futures::future::join_all(writers));
        fed(&database, &aggregator, &pumps[0]).await;
        let count = aggregator.ids().len();
        println!("{count} events, {} came again", aggregator.store().repeats);
    }
}

#[tokio::test]
async fn a_standby_takes_over() {
    let database = Database::create().await;
    let aggregator = Aggregator::start().await;
    let mut first = PumpProcess::start(&database.url(), &aggregator, &[]);
    first.until("live").await;
    let second = PumpProcess::start(&database.url(), &aggregator, &[]);
    second.until("standby").await;
    write(&database, 10).await;
    fed(&database, &aggregator, &first).await;
    let ready = async || second.state().await.is_some_and(|(_, ready)| ready);
    second.eventually("a standby is ready", ready).await;
    first.kill().await;
    write(&database, 10).await;
    fed(&database, &aggregator, &second).await;
    second.until("live").await;
    first.run();
    first.until("standby").await;
    assert_eq!(aggregator.store().repeats, 0);
}

/// A live pump whose connection can be interrupted, and a standby.
async fn with_a_network(
    database: &Database,
    aggregator: &Aggregator,
) -> (ChaosProxy, PumpProcess, PumpProcess) {
    let (network, url) = ChaosProxy::before(database).await;
    let cut_off = PumpProcess::start(&url, aggregator, &[]);
    cut_off.until("live").await;
    let other = PumpProcess::start(&database.url(), aggregator, &[]);
    other.until("standby").await;
    (network, cut_off, other)
}

#[tokio::test]
async fn a_pump_without_its_session_cannot_move_the_checkpoint() {
    let database = Database::create().await;
    let aggregator = Aggregator::start().await;
    let (network, cut_off, other) = with_a_network(&database, &aggregator).await;
    write(&database, 5).await;
    fed(&database, &aggregator, &cut_off).await;
    // PostgreSQL sees the connections end; the pump does not.
    network.strike(Strike::LoseServer);
    other.until("live").await;
    write(&database, 5).await;
    fed(&database, &aggregator, &other).await;
    cut_off.eventually("it knows", async || cut_off.log().contains("lost the lease")).await;
    cut_off.until("standby").await;
    assert_eq!(aggregator.store().repeats, 0);
}

#[tokio::test]
async fn a_pump_without_network_gives_up_the_lease() {
    let database = Database::create().await;
    let aggregator = Aggregator::start().await;
    let (network, cut_off, other) = with_a_network(&database, &aggregator).await;
    network.set(Weather { black_hole: true, ..Weather::default() });
    write(&database, 5).await;
    other.until("live").await;
    fed(&database, &aggregator, &other).await;
    network.clear();
    cut_off.until("standby").await;
}

#[tokio::test]
async fn a_frozen_pump_loses_the_lease() {
    let database = Database::create().await;
    let version = "select current_setting('server_version_num')::int";
    let version = database.connect().await.query_one(version, &[]).await.unwrap();
    if version.get::<_, i32>(0) < 140_000 {
        return eprintln!("this PostgreSQL does not end a session because nothing comes");
    }
    let aggregator = Aggregator::start().await;
    let first = PumpProcess::start(&database.url(), &aggregator, &[]);
    first.until("live").await;
    let second = PumpProcess::start(&database.url(), &aggregator, &[]);
    second.until("standby").await;
    first.signal(Signal::SIGSTOP);
    write(&database, 5).await;
    second.until("live").await;
    fed(&database, &aggregator, &second).await;
    first.signal(Signal::SIGCONT);
    first.until("standby").await;
    write(&database, 5).await;
    fed(&database, &aggregator, &second).await;
    assert_eq!(aggregator.store().repeats, 0);
}

#[tokio::test]
async fn an_idle_aggregator_is_asked_before_delivery() {
    let database = Database::create().await;
    write(&database, 30).await;
    let aggregator = Aggregator::start().await;
    let pump = PumpProcess::start(&database.url(), &aggregator, &[]);
    pump.until("live").await;
    fed(&database, &aggregator, &pump).await;
    let quiet = async || {
        let last = *aggregator.store().posts.last().expect("it got something");
        (last.elapsed() > Duration::from_secs(2)).then_some(())
    };
    eventually("it is left alone", quiet).await;
    aggregator.forget();
    write(&database, 1).await;
    fed(&database, &aggregator, &pump).await;
}

/// Behind a proxy that keeps the connection, only asking again detects a replaced aggregator.
#[tokio::test]
async fn an_emptied_idle_aggregator_is_bootstrapped_again() {
    let database = Database::create().await;
    write(&database, 3).await;
    let aggregator = Aggregator::start().await;
    let pump = PumpProcess::start(&database.url(), &aggregator, &[]);
    pump.until("live").await;
    fed(&database, &aggregator, &pump).await;
    aggregator.forget();
    pump.eventually("it is asked and booted again", async || aggregator.store().booted == 2).await;
    assert_eq!(aggregator.ids(), [1, 2, 3]);
}

#[tokio::test]
async fn a_shutdown_writes_the_checkpoint() {
    let database = Database::create().await;
    let aggregator = Aggregator::start().await;
    let mut pump = PumpProcess::start(&database.url(), &aggregator, &[]);
    pump.until("live").await;
    write(&database, 100).await;
    fed(&database, &aggregator, &pump).await;
    pump.leave().await;
    let position = "select position from event_piper_pumps";
    let row = database.connect().await.query_one(position, &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), 100);
}

#[tokio::test]
async fn a_success_resets_the_backoff() {
    let database = Database::create().await;
    let aggregator = Aggregator::start().await;
    let pump = PumpProcess::start(&database.url(), &aggregator, &[]);
    pump.until("live").await;
    for times in [2, 1] {
        aggregator.store().faults.extend(vec![Fault::Answer(503); times]);
        write(&database, 1).await;
        fed(&database, &aggregator, &pump).await;
    }
    let log = pump.log();
    let failures = log.lines().filter_map(|line| line.split(" failures=").nth(1));
    let failures: Vec<_> = failures.filter_map(|rest| rest.split(' ').next()).collect();
    assert_eq!(failures, ["1", "2", "1"], "{log}");
}

#[tokio::test]
async fn the_lag_grows_while_an_aggregator_is_down() {
    let database = Database::create().await;
    let aggregator = Aggregator::start().await;
    let pump = PumpProcess::start(&database.url(), &aggregator, &[]);
    pump.until("live").await;
    aggregator.store().faults.extend([Fault::Answer(503); 1000]);
    write(&database, 3).await;
    let behind =
        async || pump.metric("lag_seconds").await > 0.0 && pump.metric("lag_events").await > 2.5;
    pump.eventually("the lag is told", behind).await;
    aggregator.store().faults.clear();
    fed(&database, &aggregator, &pump).await;
    let gone =
        async || pump.metric("lag_seconds").await <= 0.0 && pump.metric("lag_events").await <= 0.0;
    pump.eventually("the lag is gone", gone).await;
}

#[tokio::test]
async fn a_frozen_pump_that_wakes_up_changes_nothing() {
    let database = Database::create().await;
    let aggregator = Aggregator::start().await;
    aggregator.store().says = Says::Nothing;
    let first = PumpProcess::start(&database.url(), &aggregator, &[]);
    first.until("live").await;
    write(&database, 5).await;
    fed(&database, &aggregator, &first).await;
    let client = database.connect().await;
    let checkpoint = "select epoch, position from event_piper_pumps";
    // As if another pump had taken over while this one was frozen.
    client
        .batch_execute("update event_piper_pumps set epoch = epoch + 1, position = 777")
        .await
        .unwrap();
    let lost = async || first.log().contains("another pump has taken over").then_some(());
    eventually("the first has noticed", lost).await;
    let row = client.query_one(checkpoint, &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(1), 777, "at epoch {}", row.get::<_, i64>(0));
}

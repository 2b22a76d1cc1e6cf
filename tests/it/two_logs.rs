//! Two logs in one database, each in a schema of its own: neither holds back or delays the other.

use std::num::NonZeroU32;

use event_piper::{
    order::Hold,
    store::{
        doctor::{Severity, examine},
        error::ErrorChain,
        migrate::migrate,
        prune::{Prune, PruneError, PrunePolicy},
        pumps::Candidate,
        server::Server,
    },
};
use tokio_postgres::Client;

use crate::support::{
    app::{App, Settings},
    eventually,
    postgres::{Database, connect},
};

const INSERT: &str = "insert into events (type, subscriber, payload) values ('t', 'toto', '1')";
const EVERYTHING: PrunePolicy =
    PrunePolicy { older_than: None, keep: NonZeroU32::MIN, except: Vec::new(), whole_log: false };

/// The URL of the log in a schema.
fn url_of(database: &Database, schema: &str) -> String {
    format!("{}&options=-csearch_path%3D{schema}", database.url())
}

async fn two_logs() -> (Database, [String; 2]) {
    let database = Database::create_empty().await;
    let urls = ["one", "two"].map(|schema| url_of(&database, schema));
    for (schema, url) in ["one", "two"].into_iter().zip(&urls) {
        let client = database.connect().await;
        client.batch_execute(&format!("create schema {schema}")).await.unwrap();
        migrate(&Server::parse(url).unwrap()).await.unwrap();
    }
    (database, urls)
}

fn strict() -> Settings {
    let mut settings = Settings::default();
    settings.gateway.log.hold = Hold::Unlimited;
    settings
}

/// With an unlimited hold, a hole waits for the writers of its own log, and no others.
#[tokio::test]
async fn an_open_transaction_holds_back_its_own_log_only() {
    let (_database, [one, two]) = two_logs().await;
    let (open, writer) = (connect(&one).await, connect(&two).await);
    open.batch_execute(&format!("begin; {INSERT}")).await.unwrap();
    let app = App::start_with(&two, strict()).await;
    let mut toto = app.follow("toto").await.joined().await;
    writer.batch_execute(&format!("begin; {INSERT}; rollback; {INSERT}")).await.unwrap();
    assert_eq!(toto.rows(1).await, [2]);

    let other = App::start(&one).await;
    let mut its = other.follow("toto").await.joined().await;
    open.batch_execute("commit").await.unwrap();
    assert_eq!(its.rows(1).await, [1]);
}

#[tokio::test]
async fn each_log_has_its_own_keeper_pump_and_pruning() {
    let (database, urls) = two_logs().await;
    let mut held = Vec::new();
    for url in &urls {
        let server = Server::parse(url).unwrap();
        let app = App::start(url).await;
        let pump = Candidate::connect(&server, "aggregator").await.unwrap();
        assert!(
            pump.try_lock().await.unwrap(),
            "the pump of another log has nothing to do with this one"
        );
        let second = Candidate::connect(&server, "aggregator").await.unwrap();
        assert!(!second.try_lock().await.unwrap(), "one pump for each log");
        let prune = Prune::begin(&server, EVERYTHING, true).await.unwrap();
        let busy = Prune::begin(&server, EVERYTHING, true).await.unwrap_err();
        assert!(matches!(busy, PruneError::Busy { backend: Some(_) }), "{}", ErrorChain(&busy));
        held.push((app, pump, prune));
    }
    let client = database.connect().await;
    let keepers = "select 1 from pg_locks where locktype = 'advisory' and objid = 3 and granted
        and objsubid = 2 and mode = 'ExclusiveLock'
        and database = (select oid from pg_database where datname = current_database())";
    eventually("each log has a keeper", async || {
        (client.query(keepers, &[]).await.unwrap().len() == 2).then_some(())
    })
    .await;
    for url in &urls {
        let findings = examine(&Server::parse(url).unwrap()).await;
        let bad = findings.iter().find(|finding| finding.severity != Severity::Ok);
        assert!(bad.is_none(), "{bad:?}");
    }
}

/// A sleeping reader of one log is not in the way of the other log's writers.
#[tokio::test]
async fn writers_of_one_log_do_not_ring_for_the_other() {
    let (database, [one, two]) = two_logs().await;
    let sleeper = connect(&one).await;
    sleeper
        .batch_execute(&format!("select pg_advisory_lock({}, 1)", locks(&sleeper).await))
        .await
        .unwrap();
    let writer = connect(&two).await;
    writer.batch_execute(&format!("begin; {INSERT}")).await.unwrap();
    let held = "select string_agg(objid::text, ' ') from pg_locks
        where locktype = 'advisory' and classid = $1::int4::oid and granted
        and database = (select oid from pg_database where datname = current_database())";
    let own = locks(&writer).await;
    let client = database.connect().await;
    let held: String = client.query_one(held, &[&own]).await.unwrap().get(0);
    assert_eq!(held, "1", "it holds BELL, and did not ring");
}

/// A sleeping gateway holds the locks that the writers of its own log use, and no others.
#[tokio::test]
async fn a_gateway_uses_the_locks_of_its_own_log() {
    let (database, urls) = two_logs().await;
    let client = database.connect().await;
    let held = "select coalesce(string_agg(distinct objid::text, ' '), '') from pg_locks
        where locktype = 'advisory' and classid = $1::int4::oid and granted and objsubid = 2
        and database = (select oid from pg_database where datname = current_database())";
    let held =
        async |number: i32| -> String { client.query_one(held, &[&number]).await.unwrap().get(0) };
    let mut apps = Vec::new();
    for url in &urls {
        let number = locks(&connect(url).await).await;
        assert_eq!(held(number).await, "", "no gateway of another log holds them");
        apps.push(App::start(url).await);
        // BELL, KEEPER and READER.
        let all = async || (held(number).await == "1 3 4").then_some(());
        eventually("it sleeps, and keeps the bell of its log", all).await;
    }
}

/// The first integer of the log's locks, as its doorbell has it.
async fn locks(client: &Client) -> i32 {
    let number = "select substring(prosrc from 'lock_shared[(]([0-9]+), 1[)]')::int
        from pg_proc where oid = (select tgfoid from pg_trigger
                                  where tgrelid = 'events'::regclass and tgname = 'events_doorbell')";
    client.query_one(number, &[]).await.unwrap().get(0)
}

/// Two logs of one database that share their locks, as in earlier versions. If they were separated beside a
/// running gateway, it would not see the writers that use the new locks.
#[tokio::test]
async fn migrating_gives_a_log_locks_of_its_own() {
    let (_database, [one, two]) = two_logs().await;
    let client = connect(&two).await;
    let share = format!(
        "{INSERT}; do $$ begin
             execute replace(pg_get_functiondef('event_piper_doorbell'::regproc), '{}', '17744');
         end $$",
        locks(&client).await
    );
    client.batch_execute(&share).await.unwrap();
    assert_eq!(locks(&client).await, locks(&connect(&one).await).await);
    let findings = examine(&Server::parse(&two).unwrap()).await;
    let finding = findings.iter().find(|finding| finding.subject == "locks").unwrap();
    assert_eq!(finding.severity, Severity::Warning);
    assert!(finding.mend.contains("0011_any_session.sql"), "{finding:?}");

    let choose = include_str!("../../migrations/0011_any_session.sql");
    let app = App::start(&two).await;
    let refused = ErrorChain(&client.batch_execute(choose).await.unwrap_err()).to_string();
    assert!(refused.contains("gateways or pumps are connected"), "{refused}");
    app.stop().await;
    eventually("the gateway is gone", async || client.batch_execute(choose).await.ok()).await;
    assert_ne!(locks(&client).await, locks(&connect(&one).await).await);
}

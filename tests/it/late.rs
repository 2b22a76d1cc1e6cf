//! Transactions that stay open longer than the hold, rows that were written without the trigger, and events
//! that are gone.

use std::time::Duration;

use event_piper::{
    cursor::Mark,
    event::{EventId, Logged},
    order::{Hold, Late},
    store::{
        event_log::{PageSize, Paging},
        history::History,
        server::Server,
    },
};
use tokio::time::{sleep, timeout};
use tokio_postgres::Client;

use crate::support::{
    app::{App, Settings},
    chaos_proxy::{ChaosProxy, Weather},
    eventually,
    postgres::{Database, TestServer},
    process::Process,
};

const INSERT: &str = "insert into events (type, subscriber, payload) values ('t', 'toto', '1')";

/// A transaction that has written one event, and stays open.
async fn open_transaction(database: &Database) -> Client {
    let client = database.connect().await;
    client.batch_execute("begin").await.unwrap();
    client.batch_execute(INSERT).await.unwrap();
    client
}

#[tokio::test]
async fn too_many_late_transactions_hold_delivery_back() {
    let database = Database::create().await;
    let app = App::start(&database.url()).await;
    let mut toto = app.follow("toto").await.joined().await;
    let mut open = Vec::new();
    for _ in 0..=Late::MAX {
        open.push(open_transaction(&database).await);
    }
    let writer = database.connect().await;
    writer.batch_execute(INSERT).await.unwrap();
    let held = timeout(Duration::from_millis(500), toto.event()).await;
    assert!(held.is_err(), "{held:?} has a cursor that is too long");

    open.pop().unwrap().batch_execute("rollback").await.unwrap();
    let passed = toto.event().await;
    assert_eq!(passed.row(), 18);
    let cursor = passed.id.unwrap();
    assert_eq!(cursor.matches('~').count(), Late::MAX, "{cursor}");
    drop(toto);
    for transaction in &open {
        transaction.batch_execute("commit").await.unwrap();
    }
    let mut toto = app.resume("toto", &cursor).await;
    assert_eq!(toto.rows(Late::MAX).await, (1..=16).collect::<Vec<_>>());
    writer.batch_execute(INSERT).await.unwrap();
    assert_eq!(toto.rows(1).await, [19]);
}

#[tokio::test]
async fn an_unlimited_hold_is_strict_order() {
    let database = Database::create().await;
    let mut settings = Settings::default();
    settings.gateway.log.hold = Hold::Unlimited;
    let app = App::start_with(&database.url(), settings).await;
    let mut toto = app.follow("toto").await.joined().await;
    let slow = open_transaction(&database).await;
    let writer = database.connect().await;
    writer.batch_execute(INSERT).await.unwrap();
    let held = timeout(Duration::from_millis(500), toto.event()).await;
    assert!(held.is_err(), "{held:?} came before an id that may still appear");
    slow.batch_execute("commit").await.unwrap();
    assert_eq!(toto.rows(2).await, [1, 2]);
}

#[tokio::test]
async fn delivers_a_transaction_that_was_open_at_the_start() {
    let database = Database::create().await;
    let slow = open_transaction(&database).await;
    let writer = database.connect().await;
    writer.batch_execute(INSERT).await.unwrap();
    let app = App::start(&database.url()).await;
    let mut toto = app.follow("toto").await.joined().await;
    assert!(toto.last_id.starts_with("2~"), "{}", toto.last_id);
    let cursor = toto.last_id.clone();
    slow.batch_execute("commit").await.unwrap();
    assert_eq!(toto.rows(1).await, [1]);
    let again = App::start(&database.url()).await;
    assert_eq!(again.resume("toto", &cursor).await.rows(1).await, [1]);
}

#[tokio::test]
async fn rows_of_a_savepoint_are_late_with_their_transaction() {
    let database = Database::create().await;
    let app = App::start(&database.url()).await;
    let mut toto = app.follow("toto").await.joined().await;
    let slow = database.connect().await;
    let begin = format!("begin; savepoint a; {INSERT}; savepoint b; {INSERT}; release b");
    slow.batch_execute(&begin).await.unwrap();
    let writer = database.connect().await;
    writer.batch_execute(INSERT).await.unwrap();
    assert_eq!(toto.rows(1).await, [3]);
    let cursor = toto.last_id.clone();
    slow.batch_execute("commit").await.unwrap();
    assert_eq!(toto.rows(2).await, [1, 2]);
    assert_eq!(app.resume("toto", &cursor).await.rows(2).await, [1, 2]);
}

#[tokio::test]
async fn a_marked_cursor_resumes_behind_its_mark() {
    let database = Database::create().await;
    let app = App::start(&database.url()).await;
    let mut toto = app.follow("toto").await.joined().await;
    let slow = open_transaction(&database).await;
    slow.batch_execute(INSERT).await.unwrap();
    slow.batch_execute(INSERT).await.unwrap();
    let writer = database.connect().await;
    writer.batch_execute(INSERT).await.unwrap();
    assert_eq!(toto.rows(1).await, [4]);
    slow.batch_execute("commit").await.unwrap();
    assert_eq!(toto.rows(2).await, [1, 2]);
    let cursor = toto.last_id.clone();
    writer.batch_execute(INSERT).await.unwrap();
    let again = App::start(&database.url()).await;
    for instance in [&app, &again] {
        let mut toto = instance.resume("toto", &cursor).await;
        assert_eq!(toto.rows(2).await, [3, 5], "after {cursor}");
    }
}

/// The newest transaction is behind the end of every snapshot until a later one ends.
#[tokio::test]
async fn the_newest_transaction_counts_as_open() {
    let server = TestServer::start_own("").await;
    let database = Database::create_on_own(&server).await;
    let app = App::start(&database.url()).await;
    let mut toto = app.follow("toto").await.joined().await;
    let (older, newer) = (database.connect().await, database.connect().await);
    older.batch_execute("begin; select pg_current_xact_id()").await.unwrap();
    newer.batch_execute("begin").await.unwrap();
    newer.batch_execute(INSERT).await.unwrap();
    older.batch_execute(INSERT).await.unwrap();
    older.batch_execute("commit").await.unwrap();
    let passed = toto.event().await;
    assert_eq!(passed.row(), 2);
    newer.batch_execute("commit").await.unwrap();
    assert_eq!(toto.rows(1).await, [1]);
    assert_eq!(app.resume("toto", &passed.id.unwrap()).await.rows(1).await, [1]);
    assert_eq!(app.metric("found_behind_total").await, 0);
}

/// A writer is known before it draws its first id, and not only when its statement has ended.
#[tokio::test]
async fn a_long_statement_is_waited_for_from_its_first_row() {
    let database = Database::create().await;
    let app = App::start(&database.url()).await;
    let mut toto = app.follow("toto").await.joined().await;
    let slow = database.connect().await;
    let statement = tokio::spawn(async move {
        let insert = "insert into events (type, subscriber, payload)
                      select 't', 'toto', case row when 1 then '1'::jsonb
                                          else (select '2'::jsonb from pg_sleep(1)) end
                      from generate_series(1, 2) row";
        slow.batch_execute(insert).await
    });
    let writer = database.connect().await;
    let drawn = "select pg_sequence_last_value(pg_get_serial_sequence('events', 'id')) = 1";
    let half_way = async || writer.query_one(drawn, &[]).await.ok()?.get::<_, Option<bool>>(0);
    eventually("its first id is drawn", async || half_way().await.filter(|drawn| *drawn)).await;
    writer.batch_execute(INSERT).await.unwrap();
    assert_eq!(toto.rows(3).await, [2, 1, 3]);
    statement.await.unwrap().unwrap();
    assert_eq!(app.metric("found_behind_total").await, 0);
}

#[tokio::test]
async fn a_row_without_the_trigger_is_counted_and_delivered() {
    let database = Database::create().await;
    let app = App::start(&database.url()).await;
    let mut toto = app.follow("toto").await.joined().await;
    let (slow, writer) = (database.connect().await, database.connect().await);
    writer.batch_execute("alter table events disable trigger events_doorbell").await.unwrap();
    slow.batch_execute("begin").await.unwrap();
    slow.batch_execute(INSERT).await.unwrap();
    writer.batch_execute(INSERT).await.unwrap();
    assert_eq!(toto.rows(1).await, [2], "nothing shows that 1 is still to come");
    slow.batch_execute("commit").await.unwrap();
    assert_eq!(toto.rows(1).await, [1]);
    assert_eq!(app.metric("found_behind_total").await, 1);
}

#[tokio::test]
async fn pruned_events_are_reported_as_a_gap() {
    let database = Database::create().await;
    let app = App::start(&database.url()).await;
    let writer = database.connect().await;
    for _ in 0..3 {
        writer.batch_execute(INSERT).await.unwrap();
    }
    let prune =
        "begin; set local event_piper.prune = 'on'; delete from events where id < 3; commit";
    writer.batch_execute(prune).await.unwrap();
    eventually("all is read", async || (app.metric("head").await == 3).then_some(())).await;
    let restarted = App::start(&database.url()).await;
    let mut toto = restarted.resume("toto", "0").await;
    let gap = toto.signal("$gap").await;
    assert_eq!(gap.data, r#"{"from":0,"to":2,"reason":"pruned"}"#);
    assert_eq!(toto.rows(1).await, [3]);
}

#[tokio::test]
async fn the_log_names_the_backend_that_holds_delivery_back() {
    let database = Database::create().await;
    let gateway = Process::launch(&database.url(), &["--hold", "unlimited"]);
    gateway.ready().await;
    let open = open_transaction(&database).await;
    open.batch_execute("set application_name = 'slowpoke'").await.unwrap();
    database.connect().await.batch_execute(INSERT).await.unwrap();
    let pid: i32 = open.query_one("select pg_backend_pid()", &[]).await.unwrap().get(0);
    let who = format!("{pid} (slowpoke, postgres)");
    let said = async || gateway.log().contains(&who).then_some(());
    eventually("the backend is named", said).await;
    assert!(gateway.log().contains("delivery is held"), "{}", gateway.log());
}

/// Another transaction may write between two queries of one poll, however far apart these are. So the writers
/// are asked for after the hole was seen, and rows are read again after it is known which transactions have
/// ended.
#[tokio::test]
async fn a_slow_network_loses_no_event_between_queries() {
    let database = Database::create().await;
    let (network, url) = ChaosProxy::before(&database).await;
    network.set(Weather { delay: Duration::from_millis(10), ..Weather::default() });
    let app = App::start(&url).await;
    let mut toto = app.follow("toto").await.joined().await;
    let (one, other) = (database.connect().await, database.connect().await);
    // A poll takes four times the delay, or more.
    let some_time = async |most| sleep(Duration::from_micros(fastrand::u64(0..most))).await;
    let mut got = Vec::new();
    for _ in 0..40 {
        other.batch_execute(INSERT).await.unwrap();
        some_time(40_000).await;
        one.batch_execute("begin").await.unwrap();
        one.batch_execute(INSERT).await.unwrap();
        other.batch_execute(INSERT).await.unwrap();
        some_time(120_000).await;
        one.batch_execute("commit").await.unwrap();
        got.extend(toto.rows(3).await);
        assert_eq!(app.metric("found_behind_total").await, 0, "the auditor had to find it");
    }
    got.sort_unstable();
    assert!(got.into_iter().eq(1..=120), "each of them once");
}

/// Everybody can use advisory locks; only those of the doorbell mean a writer.
#[tokio::test]
async fn other_advisory_locks_hold_nothing_back() {
    let database = Database::create().await;
    let mut settings = Settings::default();
    settings.gateway.log.hold = Hold::Unlimited;
    let app = App::start_with(&database.url(), settings).await;
    let mut toto = app.follow("toto").await.joined().await;
    let (stranger, writer) = (database.connect().await, database.connect().await);
    let locks = "begin; select pg_current_xact_id();
                 select pg_advisory_xact_lock_shared(1, 1), pg_advisory_xact_lock_shared(1, 2)";
    stranger.batch_execute(locks).await.unwrap();
    writer.batch_execute(&format!("begin; {INSERT}; rollback; {INSERT}")).await.unwrap();
    assert_eq!(toto.rows(1).await, [2]);
}

/// A replay returns each row of the marked transactions, of these consumers, behind the mark and up to the
/// end, and no other row.
#[tokio::test]
async fn a_replay_of_marked_transactions_is_exact() {
    let database = Database::create().await;
    let writer = database.connect().await;
    let rows = |whose: [&str; 4]| {
        let values = whose.map(|who| format!("('t', '{who}', '1')")).join(", ");
        format!("insert into events (type, subscriber, payload) values {values}")
    };
    // 1 to 4, 5 to 8, and 9 to 12, each in a transaction of its own.
    for _ in 0..3 {
        writer.batch_execute(&rows(["toto", "toto", "titi", "toto"])).await.unwrap();
    }
    let xids = "select xid::text from events where id in (1, 5) order by id";
    let xids = writer.query(xids, &[]).await.unwrap();
    let [first, second] = [0, 1].map(|at| xids[at].get::<_, &str>(0).parse().unwrap());
    let mark = |xid, upto| Mark { xid, upto: EventId::new(upto) };
    let marks = [mark(first, 2), mark(second, 5)];
    let history = History::new(Server::parse(&database.url()).unwrap().pool(1));
    let read = async |after, upto| {
        let between = (EventId::new(after), EventId::new(upto));
        let paging = Paging::new(PageSize { rows: 100, bytes: 1 << 20 });
        let toto = ["toto".parse().unwrap()];
        let (page, _) = history.marked(&toto, &marks, between, paging).await.unwrap();
        page.rows.iter().map(|row| row.id().get()).collect::<Vec<_>>()
    };
    assert_eq!(read(0, 12).await, [4, 6, 8]);
    assert_eq!(read(4, 8).await, [6, 8]);
    assert_eq!(read(2, 7).await, [4, 6]);
}

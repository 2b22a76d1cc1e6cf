//! `event-piper erase` as a program, beside gateways and clients.

use tokio_postgres::Client;

use crate::support::{
    app::App,
    chaos_proxy::{ChaosProxy, Strike, Weather},
    eventually,
    postgres::Database,
    program::{command, run},
};

const ERASED: &str = r#"{"erased":true}"#;

async fn fill(client: &Client, subscriber: &str, count: i64) {
    let insert = "insert into events (type, subscriber, payload, metadata)
        select 't', $1, '\"secret\"', '{\"of\": \"a person\"}' from generate_series(1, $2::int8)";
    client.execute(insert, &[&subscriber, &count]).await.unwrap();
}

async fn text(client: &Client, sql: &str) -> Option<String> {
    client.query_one(sql, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn erases_one_subscribers_events_and_nothing_else() {
    let database = Database::create().await;
    let client = database.connect().await;
    fill(&client, "toto", 5000).await;
    fill(&client, "titi", 1).await;
    let rest = "select md5(string_agg(concat_ws('|', id, type, timestamp, subscriber, uid, xid),
        ';' order by id)) from events";
    let before = text(&client, rest).await;
    let done = run(&database, &["erase", "--subscriber", "toto"]).await;
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(done.out.starts_with("5,000 events erased, 5,000 examined\n"), "{done:?}");
    assert_eq!(text(&client, rest).await, before);
    let told = "select string_agg(format('%s %s %s %s', subscriber, payload, metadata, count),
        ', ' order by subscriber) from (select subscriber, payload, metadata, count(*) from events
        group by 1, 2, 3) told";
    assert_eq!(
        text(&client, told).await.unwrap(),
        r#"titi "secret" {"of": "a person"} 1, toto {"erased": true}  5000"#
    );
    let noted = "select string_agg(format('%s %s %s %s', subscriber, stream, upto,
        erased_at > now() - interval '1 hour'), ', ') from events_erased";
    assert_eq!(text(&client, noted).await.as_deref(), Some("toto  5000 t"));
    let again = run(&database, &["erase", "--subscriber", "toto"]).await;
    assert!(again.out.starts_with("0 events erased, 5,000 examined\n"), "{again:?}");
}

#[tokio::test]
async fn erases_a_streams_events_of_all_subscribers() {
    let database = Database::create().await;
    let client = database.connect().await;
    let fill = "insert into events (type, subscriber, stream, version, payload)
        select 't', case when n % 2 = 0 then 'toto' end, s, n, '\"secret\"'
        from generate_series(1, 3000) n, unnest(array['person-1', 'person-2']) s";
    client.batch_execute(fill).await.unwrap();
    let done = run(&database, &["erase", "--stream", "person-1"]).await;
    assert!(done.out.starts_with("3,000 events erased, 3,000 examined\n"), "{done:?}");
    let told = "select string_agg(stream || ' ' || payload || ' ' || count, ', ' order by stream)
        from (select stream, payload::text, count(*) from events group by 1, 2) told";
    assert_eq!(
        text(&client, told).await.unwrap(),
        r#"person-1 {"erased": true} 3000, person-2 "secret" 3000"#
    );
    let noted = "select string_agg(coalesce(stream, '<' || subscriber || '>'), ', '
        order by subscriber) from events_erased";
    assert_eq!(text(&client, noted).await.as_deref(), Some("<>, <toto>, person-1"));
}

#[tokio::test]
async fn a_killed_erase_continues_where_it_was() {
    let database = Database::create().await;
    let client = database.connect().await;
    fill(&client, "toto", 5000).await;
    let holder = database.connect().await;
    holder.batch_execute("begin; select from events where id = 3000 for update").await.unwrap();
    let mut erase = command(&database, &["erase", "--subscriber", "toto"]).spawn().unwrap();
    let erased = "select count(*)::text from events where payload = '{\"erased\": true}'";
    eventually("it waits for the locked row", async || {
        (text(&client, erased).await.as_deref() == Some("2000")).then_some(())
    })
    .await;
    erase.kill().await.unwrap();
    holder.batch_execute("rollback").await.unwrap();
    let done = run(&database, &["erase", "--subscriber", "toto"]).await;
    assert!(done.out.starts_with("3,000 events erased, 5,000 examined\n"), "{done:?}");
}

#[tokio::test]
async fn running_gateways_evict_erased_events() {
    let database = Database::create().await;
    let client = database.connect().await;
    fill(&client, "toto", 10).await;
    let app = App::start(&database.url()).await;
    let mut live = app.follow("toto").await.joined().await;
    let mut other = app.follow("titi").await.joined().await;
    fill(&client, "toto", 10).await;
    fill(&client, "titi", 10).await;
    live.rows(10).await;
    other.rows(10).await;
    assert_eq!(app.resume("toto", "12").await.event().await.data, r#""secret""#);
    assert_eq!(app.metric("replays_total").await, 0, "it came from memory");

    run(&database, &["erase", "--subscriber", "toto"]).await;
    eventually("the erased payloads are gone from memory", async || {
        (app.resume("toto", "12").await.event().await.data == ERASED).then_some(())
    })
    .await;
    let replays = app.metric("replays_total").await;
    assert_eq!(app.resume("titi", "22").await.event().await.data, r#""secret""#);
    assert_eq!(
        app.metric("replays_total").await,
        replays,
        "no other consumer's events were evicted"
    );
    let mut whole = app.resume("toto", "0").await;
    assert_eq!(whole.rows(20).await, (1..=20).collect::<Vec<_>>(), "ids and order are intact");
    whole.signal("$caught-up").await;

    fill(&client, "toto", 1).await;
    for stream in [&mut live, &mut whole] {
        let next = stream.event().await;
        assert_eq!(
            (next.row(), &*next.data),
            (31, r#""secret""#),
            "later events keep their payloads"
        );
    }
}

#[tokio::test]
async fn resuming_after_erasure_gets_every_event() {
    let database = Database::create().await;
    let client = database.connect().await;
    let app = App::start(&database.url()).await;
    let mut other = app.follow("titi").await.joined().await;
    fill(&client, "toto", 5).await;
    fill(&client, "titi", 1).await;
    other.rows(1).await;
    run(&database, &["erase", "--subscriber", "toto"]).await;
    eventually("memory of toto is gone", async || {
        let mut toto = app.resume("toto", "2").await;
        let event = toto.event().await;
        assert_eq!(event.row(), 3);
        (event.data == ERASED).then_some(())
    })
    .await;
    assert_eq!(app.resume("toto", "0").await.rows(5).await, (1..=5).collect::<Vec<_>>());
    fill(&client, "toto", 1).await;
    assert_eq!(app.resume("toto", "0").await.rows(6).await, [1, 2, 3, 4, 5, 7]);
}

#[tokio::test]
async fn evicts_events_erased_during_an_outage() {
    let database = Database::create().await;
    let client = database.connect().await;
    let direct = database.tcp_url();
    let place = direct.split(['@', '/']).find(|part| part.starts_with("127.0.0.1:")).unwrap();
    let proxy = ChaosProxy::start(place.parse().unwrap()).await;
    let app = App::start(&direct.replace(place, &proxy.address().to_string())).await;
    let mut live = app.follow("toto").await.joined().await;
    fill(&client, "toto", 10).await;
    live.rows(10).await;
    proxy.set(Weather { refuse: true, ..Weather::default() });
    proxy.strike(Strike::Cut);
    run(&database, &["erase", "--subscriber", "toto"]).await;
    proxy.clear();
    eventually("the erased payloads are gone from memory", async || {
        (app.resume("toto", "2").await.event().await.data == ERASED).then_some(())
    })
    .await;
}

#[tokio::test]
async fn evicts_events_changed_by_hand() {
    let database = Database::create().await;
    let client = database.connect().await;
    let app = App::start(&database.url()).await;
    let mut live = app.follow("toto").await.joined().await;
    fill(&client, "toto", 2).await;
    live.rows(2).await;
    let change = "begin; set local event_piper.prune = 'on';
        update events set payload = '\"redacted\"' where id = 2; commit";
    client.batch_execute(change).await.unwrap();
    eventually("the payload of before is gone from memory", async || {
        (app.resume("toto", "1").await.event().await.data == r#""redacted""#).then_some(())
    })
    .await;
}

#[tokio::test]
async fn demands_a_subscriber_or_a_stream() {
    let database = Database::create().await;
    for args in [&["erase"][..], &["erase", "--subscriber", "a", "--stream", "b"]] {
        let refused = run(&database, args).await;
        assert_eq!(refused.code, Some(2), "{refused:?}");
    }
}

/// More consumers than are named one by one.
#[tokio::test]
async fn evicts_the_events_of_any_number_of_consumers() {
    let database = Database::create().await;
    let client = database.connect().await;
    let app = App::start(&database.url()).await;
    let many = "insert into events (type, subscriber, payload)
                select 't', 'consumer ' || n, '\"secret\"' from generate_series(1, 1500) n";
    client.batch_execute(many).await.unwrap();
    let kept = async |app: &App| app.metric("recent_bytes").await;
    eventually("events are kept", async || (kept(&app).await > 1500 * 40).then_some(())).await;
    let change = "begin; set local event_piper.prune = 'on';
                  update events set payload = '1'; commit";
    client.batch_execute(change).await.unwrap();
    eventually("they are evicted", async || (kept(&app).await == 0).then_some(())).await;
}

/// A change in a long transaction is found once it is visible.
#[tokio::test]
async fn finds_a_change_of_a_long_transaction() {
    let database = Database::create().await;
    let client = database.connect().await;
    let app = App::start(&database.url()).await;
    fill(&client, "toto", 3).await;
    let kept = async || app.metric("recent_bytes").await;
    eventually("events are kept", async || (kept().await > 0).then_some(())).await;
    let under_way = database.connect().await;
    let change = "begin; set local event_piper.prune = 'on'; update events set payload = '1'";
    under_way.batch_execute(change).await.unwrap();
    // Another change, made and found while the first one is in progress.
    let other = "insert into events (type, subscriber, payload) values ('t', 'titi', '1')";
    client.batch_execute(other).await.unwrap();
    let passed = async || (app.metric("head").await == 4).then_some(());
    eventually("the new events are kept", passed).await;
    let before = kept().await;
    let quick = "begin; set local event_piper.prune = 'on';
                 update events set payload = '2' where subscriber = 'titi'; commit";
    client.batch_execute(quick).await.unwrap();
    eventually("they are evicted", async || (kept().await < before).then_some(())).await;
    under_way.batch_execute("commit").await.unwrap();
    eventually("all are evicted", async || (kept().await == 0).then_some(())).await;
}

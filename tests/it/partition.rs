//! A partitioned log (`postgresql/partition.sql`) under a gateway.

use event_piper::store::{
    doctor::{Severity, examine},
    error::ErrorChain,
    server::Server,
};
use tokio_postgres::{Client, error::SqlState};

use crate::support::{
    app::{App, Settings},
    postgres::Database,
    program::run,
};

const SCRIPT: &str = include_str!("../../postgresql/partition.sql");
const INSERT: &str = "insert into events (type, subscriber, payload) values ('t', 'toto', '1')";

async fn fill(client: &Client, count: i64) {
    let insert = "insert into events (type, subscriber, payload)
        select 't', 'toto', to_jsonb(n) from generate_series(1, $1::int8) n";
    client.execute(insert, &[&count]).await.unwrap();
}

/// Turns the log into partitions of a hundred ids each. The first one ends before 200.
async fn partition(client: &Client) {
    for sql in [
        SCRIPT,
        "call event_piper_prepare_partitions(100)",
        "call event_piper_partition()",
        "call event_piper_add_partitions(3)",
    ] {
        client
            .batch_execute(sql)
            .await
            .unwrap_or_else(|error| panic!("{sql}: {}", ErrorChain(&error)));
    }
}

async fn text(client: &Client, sql: &str) -> Option<String> {
    client.query_one(sql, &[]).await.unwrap().get(0)
}

const PARTITIONS: &str =
    "select string_agg(inhrelid::regclass || ' ' || pg_get_expr(relpartbound, oid),
    ', ' order by oid) from pg_inherits join pg_class on oid = inhrelid
    where inhparent = 'events'::regclass";

#[tokio::test]
async fn partitioning_loses_nothing_beside_writers_and_clients() {
    let database = Database::create().await;
    let client = database.connect().await;
    fill(&client, 50).await;
    let app = App::start(&database.url()).await;
    let mut live = app.follow("toto").await.joined().await;
    let writer = database.connect().await;
    let writing = tokio::spawn(async move {
        for _ in 0..100 {
            writer.batch_execute(INSERT).await.unwrap();
        }
    });
    partition(&client).await;
    writing.await.unwrap();
    fill(&client, 200).await;
    let all: Vec<i64> = (1..=350).collect();
    assert_eq!(live.rows(300).await, all[50..]);
    assert_eq!(app.resume("toto", "0").await.rows(350).await, all);
    app.stop().await;
    let mut settings = Settings::default();
    settings.gateway.recent = 0;
    let app = App::start_with(&database.url(), settings).await;
    assert_eq!(app.resume("toto", "0").await.rows(350).await, all);
    let partitions = text(&client, PARTITIONS).await.unwrap();
    // The end of the first partition depends on how far the writer has got.
    let first = [200, 300].map(|end| format!("events_before_{end} FOR VALUES FROM (MINVALUE) TO"));
    assert!(first.iter().any(|first| partitions.starts_with(first)), "{partitions}");
    client.batch_execute("call event_piper_add_partitions(3)").await.unwrap();
    assert!(text(&client, PARTITIONS).await.unwrap().ends_with("TO ('700')"));

    // Before PostgreSQL 15, everybody may create objects in `public`, which doctor reports.
    client.batch_execute("revoke create on schema public from public").await.unwrap();
    let findings = examine(&Server::parse(&database.url()).unwrap()).await;
    assert!(findings.iter().all(|finding| finding.severity == Severity::Ok), "{findings:#?}");
}

#[tokio::test]
async fn a_late_transaction_across_partitions_is_delivered() {
    let database = Database::create().await;
    let client = database.connect().await;
    partition(&client).await;
    let app = App::start(&database.url()).await;
    let mut toto = app.follow("toto").await.joined().await;
    let slow = database.connect().await;
    slow.batch_execute(&format!("begin; {INSERT}")).await.unwrap();
    fill(&client, 249).await;
    assert_eq!(toto.rows(249).await, (2..=250).collect::<Vec<_>>());
    let cursor = toto.last_id.clone();
    slow.batch_execute(&format!("{INSERT}; commit")).await.unwrap();
    assert_eq!(toto.rows(2).await, [1, 251]);
    assert_eq!(app.resume("toto", &cursor).await.rows(2).await, [1, 251]);
}

#[tokio::test]
async fn a_detached_partition_is_reported_as_a_gap() {
    let database = Database::create().await;
    let client = database.connect().await;
    fill(&client, 150).await;
    partition(&client).await;
    fill(&client, 250).await;
    let app = App::start(&database.url()).await;
    let mut live = app.follow("toto").await.joined().await;
    let detach = "call event_piper_detach_partition('events_before_300')";
    client.batch_execute(detach).await.unwrap();
    app.stop().await;
    let app = App::start(&database.url()).await;
    let mut behind = app.resume("toto", "17").await;
    let gap = behind.signal("$gap").await;
    assert_eq!(gap.data, r#"{"from":17,"to":299,"reason":"pruned"}"#);
    assert_eq!(behind.rows(101).await, (300..=400).collect::<Vec<_>>());
    while let Some(frame) = live.next().await {
        assert_ne!(frame.event, "$gap", "a client that is up to date misses nothing");
    }
    let kept = "select count(*)::text from events_before_300";
    assert_eq!(text(&client, kept).await.as_deref(), Some("299"));
}

#[tokio::test]
async fn duplicates_are_detected_across_partitions() {
    let database = Database::create().await;
    let client = database.connect().await;
    let event = "insert into events (type, stream, version, payload, uid)
        values ('t', 's', 1, '1', 'e5a2c0de-0000-4000-8000-000000000001')";
    client.batch_execute(event).await.unwrap();
    partition(&client).await;
    fill(&client, 250).await;
    let same_version = "insert into events (type, stream, version, payload, uid)
        values ('t', 's', 1, '1', 'e5a2c0de-0000-4000-8000-000000000002')";
    for (insert, constraint) in [(event, "events_uid"), (same_version, "events_stream_version")] {
        let refused = client.batch_execute(insert).await.unwrap_err();
        assert_eq!(refused.code(), Some(&SqlState::UNIQUE_VIOLATION));
        assert_eq!(refused.as_db_error().unwrap().constraint(), Some(constraint));
    }
    client.batch_execute("set event_piper.twice = 'skip'").await.unwrap();
    for insert in [event, same_version] {
        assert_eq!(
            client.execute(&format!("{insert} on conflict do nothing"), &[]).await.unwrap(),
            0
        );
    }
    let next = same_version.replace("'s', 1", "'s', 2");
    assert_eq!(client.execute(&next, &[]).await.unwrap(), 1, "a skipped row's uid is free");
    assert_eq!(client.execute(&next, &[]).await.unwrap(), 0);

    let eight = (0..8).map(async |_| {
        let writer = database.connect().await;
        let race = "insert into events (type, stream, version, payload) values ('t', 's', 3, '1')";
        writer.execute(race, &[]).await.is_ok()
    });
    let won = futures::future::join_all(eight).await;
    assert_eq!(won.into_iter().filter(|won| *won).count(), 1, "one writer wins a version");
}

#[tokio::test]
async fn a_partitioned_log_is_written_over_http() {
    let database = Database::create().await;
    let client = database.connect().await;
    partition(&client).await;
    let app = App::start(&database.url()).await;
    let uid = "e5a2c0de-0000-4000-8000-000000000001";
    let once = format!(r#"{{"type":"t","subscriber":"toto","payload":1,"uid":"{uid}"}}"#);
    let first = app.post("/events", &once).await;
    assert_eq!(first.status, 201, "{}", first.body);
    fill(&client, 250).await;
    assert_eq!(app.post("/events", &once).await.body, first.body, "it was written already");
    let append = r#"{"type":"t","data":{}}"#;
    for version in 1..=3 {
        let path = format!("/streams/s/{version}");
        assert_eq!(app.post(&path, append).await.status, 200);
        assert_eq!(app.post(&path, append).await.status, 409);
    }
    assert_eq!(app.post("/streams/s", append).await.json()["version"], 4);
}

#[tokio::test]
async fn a_partitioned_log_is_pruned_erased_and_amended() {
    let database = Database::create().await;
    let client = database.connect().await;
    partition(&client).await;
    client.batch_execute("call event_piper_add_partitions(5)").await.unwrap();
    let fill = "insert into events (type, timestamp, subscriber, stream, version, payload)
        select 't', now() - make_interval(days => 400 - n), 'toto', 's', n, '{}'
        from generate_series(1, 400) n";
    client.batch_execute(fill).await.unwrap();
    let pruned = run(&database, &["prune", "--older-than", "90d"]).await;
    assert_eq!(pruned.out, "310 events pruned, 400 examined\n");
    let amend = "insert into events (type, subscriber, payload, amends) values ('t', 'toto', '{\"a\": 1}', 350)";
    client.batch_execute(amend).await.unwrap();
    let app = App::start(&database.url()).await;
    let shown = app.get("/events/350?consumer=toto&amended=true", &[]).await.json();
    assert_eq!(shown["payload"], serde_json::json!({"a": 1}));
    let erased = run(&database, &["erase", "--subscriber", "toto"]).await;
    assert!(erased.out.starts_with("91 events erased, 91 examined\n"), "{erased:?}");
    let direct = "delete from events_before_500";
    let refused = client.batch_execute(direct).await.unwrap_err();
    assert!(ErrorChain(&refused).to_string().contains("append-only"), "{}", ErrorChain(&refused));
}

#[tokio::test]
async fn partitioning_keeps_rights_and_roles() {
    let database = Database::create().await;
    let client = database.connect().await;
    let writer = format!("writer_{}", database.name());
    let create = format!(
        "create role {writer};
         grant insert (type, subscriber, payload, stream, version, uid) on events to {writer};
         grant select on sequence events_id_seq to {writer}"
    );
    client.batch_execute(&create).await.unwrap();
    partition(&client).await;
    let as_writer = format!(
        "set role {writer}; insert into events (type, subscriber, stream, version, payload, uid)
         values ('t', 'toto', 's', 1, '1', gen_random_uuid());
         select last_value from events_id_seq"
    );
    client.batch_execute(&as_writer).await.unwrap();
    for forbidden in ["select * from events", "insert into events_before_200 default values"] {
        let refused = client.batch_execute(forbidden).await.unwrap_err();
        assert!(ErrorChain(&refused).to_string().contains("permission denied"), "{forbidden}");
    }
}

async fn refused(client: &Client, sql: &str) -> String {
    ErrorChain(&client.batch_execute(sql).await.expect_err(sql)).to_string()
}

#[tokio::test]
async fn detaching_is_recorded_and_frees_all_names() {
    let database = Database::create().await;
    let client = database.connect().await;
    partition(&client).await;
    let uid = "insert into events (type, subscriber, payload, uid)
        values ('t', 'toto', '1', 'e5a2c0de-0000-4000-8000-000000000001')";
    let version = |stream: &str, version: i64| {
        format!(
            "insert into events (type, stream, version, payload) values
            ('t', '{stream}', {version}, '1')"
        )
    };
    // In the first partition; the stream `s` continues in another one.
    for sql in [uid, &version("gone", 1), &version("s", 1)] {
        client.batch_execute(sql).await.unwrap();
    }
    fill(&client, 250).await;
    client.batch_execute(&version("s", 2)).await.unwrap();
    client.batch_execute("insert into events_pruned values ('toto', 5000)").await.unwrap();
    let other = "create table other (id bigint, subscriber text, stream text, uid uuid)";
    client.batch_execute(other).await.unwrap();
    let wrong = refused(&client, "call event_piper_detach_partition('other')").await;
    assert!(wrong.contains("other is no partition of events"), "{wrong}");
    let detach = "call event_piper_detach_partition('events_before_200')";
    client.batch_execute(detach).await.unwrap();

    assert!(refused(&client, &version("s", 1)).await.contains("version 1 of stream s"));
    for sql in [uid, &version("gone", 1), &version("s", 3)] {
        client.batch_execute(sql).await.unwrap();
    }
    let pruned = "select string_agg(subscriber || ' ' || upto, ', ' order by subscriber)
        from events_pruned where subscriber is not null";
    assert_eq!(text(&client, pruned).await.as_deref(), Some(" 3, toto 5000"));
    let everybodys = "select count(*)::text from events_pruned where subscriber is null";
    assert_eq!(text(&client, everybodys).await.as_deref(), Some("0"));
}

#[tokio::test]
async fn partitions_are_created_ahead_and_ids_continue() {
    let database = Database::create().await;
    let client = database.connect().await;
    fill(&client, 99).await;
    partition(&client).await;
    let again = refused(&client, "call event_piper_prepare_partitions(100)").await;
    assert!(again.contains("partitioned already"), "{again}");
    let partitions = "select string_agg(inhrelid::regclass::text, ' ' order by 1)
        from (select inhrelid from pg_inherits where inhparent = 'events'::regclass
              order by inhrelid::regclass::text) ordered";
    let first = "events_before_200 events_before_300 events_before_400";
    assert_eq!(text(&client, partitions).await.as_deref(), Some(first));
    fill(&client, 1).await;
    assert_eq!(text(&client, "select max(id)::text from events").await.as_deref(), Some("100"));
    client.batch_execute("call event_piper_add_partitions(3)").await.unwrap();
    let more = format!("{first} events_before_500");
    assert_eq!(text(&client, partitions).await, Some(more), "three whole ones are ahead again");
}

/// A session with `session_replication_role = replica` does not avoid any check.
#[tokio::test]
async fn partitioning_keeps_triggers_and_owner() {
    let database = Database::create().await;
    let client = database.connect().await;
    let owner = format!("owner_{}", database.name());
    let reader = format!("reader_{}", database.name());
    let own = format!(
        "create role {owner}; create role {reader};
         alter table events owner to {owner};
         grant select on events to {reader} with grant option"
    );
    client.batch_execute(&own).await.unwrap();
    let triggers = "select string_agg(tgname, ' ' order by tgname) from pg_trigger
        where tgrelid = 'events'::regclass and not tgisinternal and tgenabled = 'A'";
    for sql in [SCRIPT, "call event_piper_prepare_partitions(100)"] {
        client.batch_execute(sql).await.unwrap();
    }
    let before = text(&client, triggers).await.unwrap();
    assert!(before.contains("events_once"), "{before}");
    partition(&client).await;
    assert_eq!(text(&client, triggers).await, Some(before));
    let rest = "select coalesce(string_agg(tgname, ' '), '') from pg_trigger
        where tgrelid in (select inhrelid from pg_inherits where inhparent = 'events'::regclass)
        and tgname in ('events_once', 'events_well_formed') and tgenabled <> 'A'";
    assert_eq!(text(&client, rest).await.as_deref(), Some(""));
    let owned = "select relowner::regrole::text from pg_class where oid = 'events'::regclass";
    assert_eq!(text(&client, owned).await.as_deref(), Some(&*owner));
    let grants = format!(
        "select has_table_privilege('{reader}', 'events', 'select with grant option')::text"
    );
    assert_eq!(text(&client, &grants).await.as_deref(), Some("true"));
}

/// A database in which a backslash in a string escapes the next character, as in old versions.
#[tokio::test]
async fn partitions_with_any_setting_of_strings() {
    let database = Database::create().await;
    let off = format!("alter database {} set standard_conforming_strings = off", database.name());
    database.connect().await.batch_execute(&off).await.unwrap();
    let client = database.connect().await;
    fill(&client, 50).await;
    partition(&client).await;
    fill(&client, 200).await;
    let partitions = text(&client, PARTITIONS).await.unwrap();
    assert!(partitions.ends_with("TO ('400')"), "{partitions}");
}

//! The statements that the database accepts and rejects from writers.

mod doorbell;

use event_piper::store::error::ErrorChain;
use tokio_postgres::{Client, error::SqlState};

use crate::support::postgres::Database;

async fn log() -> (Database, Client) {
    let database = Database::create().await;
    let client = database.connect().await;
    (database, client)
}

async fn text(client: &Client, sql: &str) -> Option<String> {
    client.query_one(sql, &[]).await.unwrap().get(0)
}

async fn refusal(client: &Client, sql: &str) -> String {
    ErrorChain(&client.batch_execute(sql).await.unwrap_err()).to_string()
}

const EVENT: &str = "insert into events (type, subscriber, payload) values ('insert', 'toto', '1')";

#[tokio::test]
async fn the_table_accepts_every_documented_kind_of_event() {
    let (_database, client) = log().await;
    for values in [
        "('a', 'toto', null, null, 'null')",
        "('a', null, 's', 1, '1')",
        "('a', 'toto', 's', 2, '\"x\"')",
        "('é \u{1F600} \u{2028} $', 'tôtô', '$s', 1, '[]')",
        "(repeat('a', 1024), repeat('b', 1024), repeat('c', 1024), 1, '{}')",
    ] {
        let insert = "insert into events (type, subscriber, stream, version, payload) values ";
        client.batch_execute(&format!("{insert}{values}")).await.unwrap();
    }
}

#[tokio::test]
async fn the_table_rejects_invalid_events_with_the_reason() {
    let (_database, client) = log().await;
    for (values, reason) in [
        ("('', 'toto', null, null)", "type is empty"),
        ("(e'a\\nb', 'toto', null, null)", "type contains a control character"),
        ("(e'a\\u0085', 'toto', null, null)", "type contains a control character"),
        ("(e'a\\x7f', 'toto', null, null)", "type contains a control character"),
        ("('$a', 'toto', null, null)", "type begins with $"),
        ("(repeat('a', 1025), 'toto', null, null)", "type is longer"),
        ("('a', '', null, null)", "subscriber is empty"),
        ("('a', e'a\\t', null, null)", "subscriber contains a control character"),
        ("('a', repeat('a', 1025), null, null)", "subscriber is longer"),
        ("('a', 'toto', '', 1)", "stream is empty"),
        ("('a', 'toto', e'\\r', 1)", "stream contains a control character"),
        ("('a', 'toto', repeat('a', 1025), 1)", "stream is longer"),
        ("('a', null, null, null)", "neither subscriber nor stream"),
        ("('a', 'toto', 's', null)", "stream and version belong together"),
        ("('a', null, 's', null)", "stream and version belong together"),
        ("('a', 'toto', null, 1)", "stream and version belong together"),
        ("('a', 'toto', 's', 0)", "version counts from 1"),
        // A separate condition checks events of streams.
        ("('', 'toto', 's', 1)", "type is empty"),
        ("(e'a\\nb', 'toto', 's', 1)", "type contains a control character"),
        ("('$a', null, 's', 1)", "type begins with $"),
        ("(repeat('a', 1025), 'toto', 's', 1)", "type is longer"),
        ("('a', '', 's', 1)", "subscriber is empty"),
        ("('a', e'a\\t', 's', 1)", "subscriber contains a control character"),
        ("('a', repeat('a', 1025), 's', 1)", "subscriber is longer"),
        // The limits are in bytes.
        ("(repeat('é', 513), 'toto', null, null)", "type is longer"),
        ("('a', repeat('é', 513), null, null)", "subscriber is longer"),
        ("(repeat('é', 513), null, 's', 1)", "type is longer"),
        ("('a', repeat('é', 513), 's', 1)", "subscriber is longer"),
        ("('a', null, repeat('é', 513), 1)", "stream is longer"),
    ] {
        let insert =
            "insert into events (payload, type, subscriber, stream, version) select '1', v.*";
        let refused = refusal(
            &client,
            &format!("{insert} from (values {values}) v (t, s, st, ve)")
                .replace("v.*", "v.t, v.s::text, v.st::text, v.ve::bigint"),
        )
        .await;
        assert!(refused.contains(reason), "{values}: {refused}");
    }
}

#[tokio::test]
async fn an_invalid_event_violates_a_named_constraint() {
    let (_database, client) = log().await;
    let bad = "insert into events (type, subscriber, payload) values ('', 'toto', '1')";
    let error = client.batch_execute(bad).await.unwrap_err();
    let error = error.as_db_error().unwrap();
    assert_eq!(*error.code(), SqlState::CHECK_VIOLATION);
    assert_eq!(error.constraint(), Some("events_well_formed"));
}

#[tokio::test]
async fn a_writer_cannot_choose_the_transaction_or_the_id() {
    let (_database, client) = log().await;
    for xid in [
        "insert into events (type, subscriber, payload, xid) values ('a', 'b', '1', '7')",
        "insert into events (type, stream, version, payload, xid) values ('a', 's', 1, '1', '7')",
    ] {
        assert!(refusal(&client, xid).await.contains("xid is given by the database"));
    }
    let id = "insert into events (id, type, subscriber, payload) values (7, 'a', 'b', '1')";
    assert!(refusal(&client, id).await.contains("GENERATED ALWAYS"));
}

#[tokio::test]
async fn an_event_has_its_top_level_transaction() {
    let (_database, client) = log().await;
    client
        .batch_execute(&format!(
            "begin; {EVENT}; savepoint a; {EVENT}; rollback to a; {EVENT}; release a; commit"
        ))
        .await
        .unwrap();
    let seen = "select count(*) || ' ' || count(distinct xid) || ' ' || min(pg_xact_status(xid))
        from events";
    assert_eq!(text(&client, seen).await.as_deref(), Some("2 1 committed"));
}

#[tokio::test]
async fn the_table_accepts_many_rows_and_copy() {
    let (_database, client) = log().await;
    let many = "insert into events (type, subscriber, payload)
        select 'many', 'toto', to_jsonb(n) from generate_series(1, 100000) n";
    client.batch_execute(many).await.unwrap();
    let copy = "copy events (type, subscriber, payload) from stdin";
    let sink = client.copy_in::<_, &[u8]>(copy).await.unwrap();
    futures::pin_mut!(sink);
    futures::SinkExt::send(&mut sink, b"copied\ttoto\t{\"a\": 1}\n".as_slice()).await.unwrap();
    assert_eq!(sink.finish().await.unwrap(), 1);
    let counted = "select count(*) || ' ' || max(id) from events";
    assert_eq!(text(&client, counted).await.as_deref(), Some("100001 100001"));
}

#[tokio::test]
async fn a_uid_is_written_once() {
    let (_database, client) = log().await;
    let insert = "insert into events (type, subscriber, payload, uid)
        values ('a', 'toto', '1', 'e5a2c0de-0000-4000-8000-000000000001')";
    let quietly = format!("{insert} on conflict (uid) do nothing");
    assert_eq!(client.execute(&quietly, &[]).await.unwrap(), 1);
    assert_eq!(client.execute(&quietly, &[]).await.unwrap(), 0);
    let error = client.batch_execute(insert).await.unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::UNIQUE_VIOLATION));
}

#[tokio::test]
async fn a_version_of_a_stream_is_written_once() {
    let (_database, client) = log().await;
    let insert = "insert into events (type, stream, version, payload) values ('a', 's', 1, '1')";
    client.batch_execute(insert).await.unwrap();
    let error = client.batch_execute(insert).await.unwrap_err();
    assert_eq!(error.as_db_error().unwrap().constraint(), Some("events_stream_version"));
}

#[tokio::test]
async fn the_log_is_append_only() {
    let (_database, client) = log().await;
    client.batch_execute(EVENT).await.unwrap();
    for change in [
        "delete from events",
        "truncate events",
        "update events set payload = '2'",
        "insert into events (type, subscriber, payload) values ('a', 'b', '1')
            on conflict (id) do update set payload = '2'",
    ] {
        let refused = refusal(&client, change).await;
        assert!(refused.contains("append-only"), "{refused}");
        assert!(refused.contains("event_piper.prune"), "{refused}");
    }
    assert_eq!(text(&client, "select payload::text from events").await.as_deref(), Some("1"));
}

#[tokio::test]
async fn a_corrected_row_keeps_its_transaction() {
    let (_database, client) = log().await;
    client.batch_execute(EVENT).await.unwrap();
    let before = text(&client, "select xid::text from events").await;
    let correct = "begin; set local event_piper.prune = 'on';
        update events set payload = '\"redacted\"'; commit";
    client.batch_execute(correct).await.unwrap();
    assert_eq!(text(&client, "select xid::text from events").await, before);
    assert!(refusal(&client, "delete from events").await.contains("append-only"));
}

#[tokio::test]
async fn a_corrected_row_must_be_a_valid_event() {
    let (_database, client) = log().await;
    client.batch_execute(EVENT).await.unwrap();
    client.batch_execute("set event_piper.prune = 'on'").await.unwrap();
    for change in ["type = ''", "subscriber = null", "stream = 's'", "xid = null"] {
        let update = format!("update events set {change}");
        assert!(client.batch_execute(&update).await.is_err(), "{update}");
    }
}

/// A log that is copied from another database keeps its transaction ids.
#[tokio::test]
async fn rows_of_other_transactions_can_be_loaded_with_prune_on() {
    let (_database, client) = log().await;
    let load = "begin; set local event_piper.prune = 'on';
        insert into events (type, subscriber, payload, xid) values ('a', 'b', '1', '7');
        insert into events (type, stream, version, payload, xid) values ('a', 's', 1, '1', '8');
        commit";
    client.batch_execute(load).await.unwrap();
    let xids = "select string_agg(xid::text, ' ' order by id) from events";
    assert_eq!(text(&client, xids).await.as_deref(), Some("7 8"));
}

const PRUNED: &str = "select string_agg(coalesce(subscriber, 'everybody') || ' ' || upto, ', '
    order by subscriber) from events_pruned";

#[tokio::test]
async fn pruned_events_are_recorded_by_subscriber() {
    let (_database, client) = log().await;
    let fill = "insert into events (type, subscriber, payload)
        select 'a', case when n % 2 = 0 then 'even' else 'odd' end, '1' from generate_series(1, 9) n;
        insert into events (type, stream, version, payload) values ('a', 's', 1, '1')";
    client.batch_execute(fill).await.unwrap();
    let prune = |condition: &str| {
        format!("begin; set local event_piper.prune = 'on'; delete from events {condition}; commit")
    };
    client.batch_execute(&prune("where id <= 5")).await.unwrap();
    assert_eq!(text(&client, PRUNED).await.as_deref(), Some("even 4, odd 5"));
    client.batch_execute(&prune("where id = 3 or subscriber = 'even'")).await.unwrap();
    assert_eq!(text(&client, PRUNED).await.as_deref(), Some("even 8, odd 5"));
    client.batch_execute(&prune("where subscriber is null")).await.unwrap();
    assert_eq!(text(&client, PRUNED).await.as_deref(), Some(" 10, even 8, odd 5"));
}

#[tokio::test]
async fn a_truncated_log_is_recorded_for_all_subscribers() {
    let (_database, client) = log().await;
    let truncate = "begin; set local event_piper.prune = 'on'; truncate events; commit";
    client.batch_execute(truncate).await.unwrap();
    assert_eq!(text(&client, PRUNED).await, None, "no event was deleted");
    for expected in ["everybody 2", "everybody 4"] {
        client.batch_execute(&format!("{EVENT}; {EVENT}")).await.unwrap();
        client.batch_execute(truncate).await.unwrap();
        assert_eq!(text(&client, PRUNED).await.as_deref(), Some(expected));
    }
}

/// Gateways use these records to evict changed events from memory.
#[tokio::test]
async fn changed_events_are_recorded_up_to_the_greatest_id() {
    let (_database, client) = log().await;
    let fill = "insert into events (type, subscriber, payload)
        values ('a', 'toto', '1'), ('a', 'titi', '1'), ('a', 'toto', '1');
        insert into events (type, stream, version, payload) values ('a', 's', 1, '1')";
    client.batch_execute(fill).await.unwrap();
    let erased = "select string_agg(subscriber || ' ' || upto, ', ' order by subscriber)
        from events_erased";
    let by = "select xid::text from events_erased where subscriber = 'toto'";
    let mut before = None;
    for (change, expected) in [
        ("payload = '2' where id = 3", "toto 3"),
        ("payload = '2' where id = 1", "toto 3"),
        ("subscriber = 'tata' where id = 2", "tata 2, titi 2, toto 3"),
        ("payload = '2' where id = 4", " 4, tata 2, titi 2, toto 3"),
    ] {
        let change = format!(
            "begin; set local event_piper.prune = 'on'; update events set {change}; commit"
        );
        client.batch_execute(&change).await.unwrap();
        assert_eq!(text(&client, erased).await.as_deref(), Some(expected), "{change}");
        let changed_by = text(&client, by).await;
        let totos = change.contains("id = 3") || change.contains("id = 1");
        assert_eq!(changed_by != before, totos, "{change}");
        before = changed_by;
    }
}

#[tokio::test]
async fn concurrent_prunes_record_the_greatest_id() {
    let (database, client) = log().await;
    let fill = "insert into events (type, subscriber, payload)
        select 'a', 'c' || n % 50, '1' from generate_series(1, 1000) n";
    client.batch_execute(fill).await.unwrap();
    let prunes = (0..8).map(async |part| {
        let own = database.connect().await;
        for slice in 0..5 {
            let delete = format!(
                "begin; set local event_piper.prune = 'on';
                 delete from events where id % 8 = {part} and id % 5 = {slice}; commit"
            );
            own.batch_execute(&delete).await.unwrap();
        }
    });
    futures::future::join_all(prunes).await;
    let sum = "select count(*) || ' ' || min(upto) || ' ' || max(upto) from events_pruned";
    assert_eq!(text(&client, sum).await.as_deref(), Some("50 951 1000"));
}

/// The programs that read these tables rely on valid contents.
#[tokio::test]
async fn the_other_tables_reject_invalid_rows() {
    let (_database, client) = log().await;
    let key = "insert into event_piper_keys (id, name, hash, rights) values
        ('0123456789abcdef', 'shop', sha256(''), '{}')";
    let pump = "insert into event_piper_pumps (name) values ('p')";
    let letter = "insert into event_piper_dead_letters (pump, event_id, state, reason)
        values ('p', 1, 'blocking', '')";
    let keep = "insert into events_keep (stream) values ('s')";
    let erased = "insert into events_erased (subscriber, stream, upto) values ('toto', null, 1)";
    for right in [key, pump, letter, keep, erased] {
        client.batch_execute(right).await.unwrap();
    }
    for (right, good, bad) in [
        (key, "0123456789abcdef", "0123456789abcdeg"),
        (key, "0123456789abcdef", "0123456789abcdef0"),
        (key, "'shop'", "''"),
        (key, "'shop'", "e'sh\\nop'"),
        (key, "sha256('')", "'short'"),
        (key, "'{}'", "'[]'"),
        (letter, "blocking", "forgotten"),
        (keep, "'s'", "''"),
        (erased, "'toto', null", "null, null"),
        (erased, "'toto', null", "'toto', 's'"),
    ] {
        let wrong = right.replace(good, bad);
        let error = client.batch_execute(&wrong).await.expect_err(&wrong);
        assert_eq!(error.code(), Some(&SqlState::CHECK_VIOLATION), "{wrong}");
    }
}

#[tokio::test]
async fn dead_letters_follow_the_name_and_deletion_of_their_pump() {
    let (_database, client) = log().await;
    let letters = "insert into event_piper_pumps (name) values ('a'), ('b');
        insert into event_piper_dead_letters (pump, event_id, state, reason)
        values ('a', 1, 'blocking', ''), ('b', 1, 'blocking', '');
        update event_piper_pumps set name = 'c' where name = 'a';
        delete from event_piper_pumps where name = 'b'";
    client.batch_execute(letters).await.unwrap();
    let left = "select string_agg(pump, ' ') from event_piper_dead_letters";
    assert_eq!(text(&client, left).await.as_deref(), Some("c"));
}

//! A foreign table `events`: each command says so, and changes nothing.

use crate::support::{postgres::Database, program::run};

const FOREIGN: [&str; 6] = [
    "create table events (id serial primary key, name text, starts_at timestamptz)",
    "create table events ()",
    "create view events as select 1 as id, 'x'::text as type, now() as timestamp",
    "create view events as select 1::bigint as id, 'x'::text as type, now() as timestamp,
        'x'::text as subscriber, '{}'::jsonb as payload, null::text as stream, null::bigint as version,
        null::uuid as uid, null::jsonb as metadata, '2'::xid8 as xid, null::bigint as amends",
    "create sequence events",
    "create table events (id uuid, type int, timestamp text, subscriber text, payload text,
        stream text, version text, uid text, metadata text, xid int, amends text)",
];

#[tokio::test]
async fn every_command_rejects_a_foreign_table() {
    for table in FOREIGN {
        let database = Database::create_empty().await;
        database.connect().await.batch_execute(table).await.unwrap();
        for command in [
            &["doctor"][..],
            &["prune", "--older-than", "1d"],
            &["erase", "--subscriber", "toto"],
            &["serve", "--no-migrate", "--listen", "127.0.0.1:0"],
            &["serve", "--listen", "127.0.0.1:0"],
            &["migrate"],
            &["pump", "--to", "http://127.0.0.1:9/", "--name", "x", "--no-migrate"],
        ] {
            let done = run(&database, command).await;
            let said = format!("{}{}", done.out, done.err);
            assert_eq!(done.code, Some(1), "{table}: {command:?}: {done:?}");
            assert!(said.contains("it is not EventPiper's"), "{table}: {command:?}: {done:?}");
            assert!(said.contains("a schema of its own"), "{table}: {command:?}: {done:?}");
            assert!(!said.contains("panicked"), "{table}: {command:?}: {done:?}");
        }
    }
}

#[tokio::test]
async fn commands_without_a_schema_say_what_to_run() {
    let database = Database::create_empty().await;
    for command in [
        &["doctor"][..],
        &["prune", "--older-than", "1d"],
        &["erase", "--stream", "s"],
        &["pump", "list"],
        &["pump", "retry", "toto"],
        &["keys", "list"],
        &["keys", "create", "--name", "x", "--read", "*"],
    ] {
        let done = run(&database, command).await;
        let said = format!("{}{}", done.out, done.err);
        assert_eq!(done.code, Some(1), "{command:?}: {done:?}");
        assert!(said.contains("event-piper migrate"), "{command:?}: {done:?}");
        assert!(!said.contains("panicked"), "{command:?}: {done:?}");
    }
}

/// A foreign object has the name of another table or function of the log.
#[tokio::test]
async fn migrate_names_the_foreign_object() {
    for (taken, name) in [
        ("create table events_pruned (id int)", "events_pruned"),
        ("create view event_piper_keys as select 1 as id", "event_piper_keys"),
        (
            "create function event_piper_append_only() returns int language sql as 'select 1'",
            "event_piper_append_only",
        ),
        (
            "create function event_piper_doorbell() returns int language sql as 'select 1'",
            "event_piper_doorbell",
        ),
    ] {
        let database = Database::create_empty().await;
        database.connect().await.batch_execute(taken).await.unwrap();
        let done = run(&database, &["migrate"]).await;
        assert_eq!(done.code, Some(1), "{taken}: {done:?}");
        for said in [name, "is not EventPiper's", "a schema of its own"] {
            assert!(done.err.contains(said), "{taken}: {said}: {done:?}");
        }
    }
}

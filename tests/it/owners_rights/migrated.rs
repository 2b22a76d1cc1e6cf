//! `migrate` repairs databases of earlier versions, and schemas that were renamed.

use event_piper::store::{doctor::Severity, error::ErrorChain, migrate::migrate, server::Server};
use tokio_postgres::Client;

use super::world::{CALLS, EVIL, login, owners_rights, refusal, text, whole_log};
use crate::support::postgres::Database;

/// A database of an earlier version, with partitions, and what a role could do in it.
#[tokio::test]
async fn migrate_repairs_a_database_of_an_earlier_version() {
    let database = Database::create_empty().await;
    let client = database.connect().await;
    client.batch_execute(EVIL).await.unwrap();
    migrate_to_0009(&client).await;
    let once = "create table events_uids (uid uuid primary key);
        create table events_streams (stream text primary key, version bigint not null);
        create function event_piper_once() returns trigger
        language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
        begin
            execute format('insert into %I.events_uids values ($1) on conflict do nothing', tg_table_schema)
              using new.uid;
            return new;
        end $$";
    client.batch_execute(once).await.unwrap();
    let own = format!(
        "create schema own authorization ROLE; grant temporary on database {} to ROLE",
        database.name()
    );
    let attackers =
        [login(&database, "bare", "").await, login(&database, "owner_of_something", &own).await];
    let evil = "create temp view events as
            select 1::bigint as id, 'toto'::text as subscriber, null::text as stream, null::bigint as amends
             where mallory.note('amends');
        grant select on pg_temp.events to public;
        select event_piper_amends(1, 2, 'toto', null, '{}', 'pg_temp.events'::regclass)";
    let own = "create view own.events_uids as select gen_random_uuid() as uid;
        create function own.evil() returns trigger language plpgsql as
            'begin perform mallory.note(''once''); return null; end';
        create trigger evil instead of insert on own.events_uids for each row execute function own.evil();
        create table own.t (uid uuid);
        grant usage on schema own to public; grant all on all tables in schema own to public;
        create trigger t before insert on own.t for each row execute function public.event_piper_once()";
    let _ = attackers[0].batch_execute(evil).await;
    attackers[1].batch_execute(own).await.unwrap();
    let insert = "insert into own.t values (gen_random_uuid())";
    attackers[1].batch_execute(insert).await.unwrap();
    assert_eq!(
        text(&client, CALLS).await,
        "postgres amends, postgres once",
        "the attack works before the migration"
    );

    let server = Server::parse(&database.url()).unwrap();
    let finding = owners_rights(&server).await;
    assert_eq!(finding.0, Severity::Fatal);
    assert!(finding.1.contains("event_piper_amends(") && finding.1.contains("event_piper_once()"));
    assert!(finding.2.contains("event-piper migrate"), "{finding:?}");

    assert_eq!(migrate(&server).await.unwrap().applied[0], "0010_owners_rights");
    client.batch_execute("truncate mallory.calls").await.unwrap();
    let again = "select event_piper_amends(1, 2, 'toto', null, '{}', 'pg_temp.events'::regclass)";
    assert!(refusal(&attackers[0], again).await.contains("does not exist"));
    // A trigger that another role attached before the migration still exists, and raises an error.
    assert!(refusal(&attackers[1], insert).await.contains("works for public.events only"));
    assert_eq!(text(&client, CALLS).await, "");
    assert_eq!(owners_rights(&server).await.0, Severity::Ok);
}

async fn migrate_to_0009(client: &Client) {
    let record = "create table event_piper_migrations (number int primary key, name text not null,
        checksum text not null, applied_at timestamptz not null default now())";
    client.batch_execute(record).await.unwrap();
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/migrations");
    let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    let mut files: Vec<_> = files.collect();
    files.sort();
    for (number, file) in (1..=9).zip(files) {
        let name = file.file_stem().unwrap().to_str().unwrap();
        let sql = std::fs::read_to_string(&file).unwrap();
        client.batch_execute(&sql).await.unwrap();
        let note = "insert into event_piper_migrations (number, name, checksum)
            values ($1, $2, encode(sha256(convert_to($3, 'UTF8')), 'hex'))";
        client.execute(note, &[&number, &name, &sql]).await.unwrap();
    }
}

/// The schema that now has the log's former name may belong to another role.
#[tokio::test]
async fn a_renamed_schema_works_again_after_migrate() {
    let (database, client) = whole_log().await;
    let insert = "insert into events (type, subscriber, payload) values ('a', 'toto', '{}')";
    let amend =
        "insert into events (type, subscriber, payload, amends) values ('a', 'toto', '{}', 1)";
    let prune =
        "begin; set local event_piper.prune = 'on'; delete from events where id = 1; commit";
    client.batch_execute(insert).await.unwrap();
    let rename = format!(
        "alter schema public rename to \"it's\"; create schema public; grant usage on schema public to public;
         alter database {} set search_path = \"it's\"; set search_path = \"it's\"",
        database.name()
    );
    client.batch_execute(&rename).await.unwrap();
    client.batch_execute(insert).await.unwrap();
    for statement in [prune, amend] {
        let refused = refusal(&client, statement).await;
        assert!(refused.contains("works for public.events only"), "{refused}");
        let _ = client.batch_execute("rollback").await;
    }
    let server = Server::parse(&database.url()).unwrap();
    let finding = owners_rights(&server).await;
    assert_eq!(finding.0, Severity::Fatal);
    assert!(finding.1.contains("another schema") && finding.2.contains("event-piper migrate"));
    assert!(!migrate(&server).await.unwrap().applied.is_empty());
    assert_eq!(migrate(&server).await.unwrap().applied.len(), 0);
    for statement in [amend, prune] {
        client.batch_execute(statement).await.unwrap();
    }
    let pruned = "select subscriber || ' ' || upto from events_pruned";
    assert_eq!(text(&client, pruned).await, "toto 1");
    assert_eq!(owners_rights(&server).await.0, Severity::Ok);
}

/// The owner of a function can replace its body.
#[tokio::test]
async fn migrate_refuses_objects_of_another_owner() {
    for squat in [
        "create table event_piper_amending (amends bigint, id bigint, subscriber text, stream text, payload jsonb)",
        "create function event_piper_remember_truncated() returns trigger language plpgsql as 'begin return null; end'",
    ] {
        let database = Database::create_empty().await;
        let client = database.connect().await;
        client.batch_execute("grant create on schema public to public").await.unwrap();
        let mallory = login(&database, "mallory", "").await;
        if squat.contains("function") {
            migrate_to_0009(&client).await;
            client
                .batch_execute("drop function event_piper_remember_truncated() cascade")
                .await
                .unwrap();
        }
        mallory.batch_execute(squat).await.unwrap();
        let error = migrate(&Server::parse(&database.url()).unwrap()).await.unwrap_err();
        let words = ErrorChain(&error).to_string();
        assert!(words.contains("belongs to mallory"), "{words}");
    }
}

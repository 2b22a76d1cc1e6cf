//! Functions that run with their owner's rights do the log's work, whoever calls them, and nothing else.
//!
//! They are found in the catalogue, so that later ones are tried as well.

use event_piper::store::{
    doctor::{Severity, examine},
    error::Chain,
    migrate::migrate,
    server::Server,
};
use tokio_postgres::Client;

use crate::{
    roles,
    support::postgres::{Database, connect},
};

const PARTITION: &str = include_str!("../../postgresql/partition.sql");

/// Every function of the log's schema that runs with its owner's rights, qualified.
const OWNERS_RIGHTS: &str = "
    select format('%I.%I', nspname, proname) as name, pronargs::int as arguments, prosrc as body,
           coalesce(proconfig::text, '') as settings,
           has_function_privilege('public', p.oid, 'execute') as open
      from pg_proc p join pg_namespace n on n.oid = pronamespace
     where prosecdef and pronamespace = (select relnamespace from pg_class where oid = 'events'::regclass)
     order by 1";

/// What somebody does who wants to act as the owner. Whoever runs it is noted in `mallory.calls`.
const EVIL: &str = "
    create schema mallory; grant usage, create on schema mallory to public;
    create table mallory.calls (who name, what text);
    grant insert on mallory.calls to public;
    create function mallory.note(what text) returns bool language sql as
        'insert into mallory.calls values (current_user, what) returning true';";

/// A log that has everything, in a schema that anybody may use.
async fn whole_log() -> (Database, Client) {
    let database = Database::create().await;
    let client = database.connect().await;
    for sql in [PARTITION, EVIL] {
        client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{}", Chain(&error)));
    }
    roles::create(&database).await;
    (database, client)
}

/// A connection of a login that has these rights and no others.
async fn login(database: &Database, name: &str, rights: &str) -> Client {
    let name = format!("{name}_{}", database.name());
    let create = format!("create role {name} login; {}", rights.replace("ROLE", &name));
    database.connect().await.batch_execute(&create).await.unwrap();
    connect(&database.url().replace("user=postgres", &format!("user={name}"))).await
}

async fn attackers(database: &Database) -> Vec<Client> {
    let name = database.name();
    let own =
        format!("create schema own authorization ROLE; grant temporary on database {name} to ROLE");
    vec![
        login(database, "bare", "").await,
        login(database, "owner_of_something", &own).await,
        login(database, "writer", "grant event_piper_writer to ROLE").await,
    ]
}

async fn refusal(client: &Client, sql: &str) -> String {
    Chain(&client.batch_execute(sql).await.expect_err(sql)).to_string()
}

async fn text(client: &Client, sql: &str) -> String {
    client.query_one(sql, &[]).await.unwrap().get::<_, Option<String>>(0).unwrap_or_default()
}

#[tokio::test]
async fn no_such_function_takes_anything_from_its_caller() {
    let (_database, client) = whole_log().await;
    let functions = client.query(OWNERS_RIGHTS, &[]).await.unwrap();
    assert_eq!(functions.len(), 5, "one for each trigger that needs the owner's rights");
    for function in functions {
        let name: &str = function.get("name");
        assert_eq!(function.get::<_, i32>("arguments"), 0, "{name} takes arguments");
        assert_eq!(function.get::<_, &str>("settings"), r#"{"search_path=pg_catalog, pg_temp"}"#);
        assert!(!function.get::<_, bool>("open"), "PUBLIC may execute {name}");
        let body = function.get::<_, &str>("body").to_lowercase();
        for taken in ["execute ", "tg_table", "tg_argv", "tg_name", "::regclass)."] {
            assert!(!body.contains(taken), "{name} contains {taken}");
        }
    }
}

#[tokio::test]
async fn nobody_calls_them_or_attaches_them_to_another_table() {
    let (database, client) = whole_log().await;
    let functions = client.query(OWNERS_RIGHTS, &[]).await.unwrap();
    for attacker in attackers(&database).await {
        let tables = "create temp table events (id bigint, subscriber text, stream text, uid uuid)";
        attacker.batch_execute(tables).await.unwrap();
        for function in &functions {
            let name: &str = function.get("name");
            for attempt in [
                format!("select {name}()"),
                format!(
                    "create trigger t before insert on pg_temp.events for each row execute function {name}()"
                ),
                format!(
                    "create trigger t after delete on pg_temp.events referencing old table as gone
                         for each statement execute function {name}()"
                ),
                format!("create event trigger t on ddl_command_start execute function {name}()"),
                format!("alter function {name}() set search_path = mallory"),
                format!(
                    "create or replace function {name}() returns trigger language plpgsql as ''"
                ),
            ] {
                let refused = refusal(&attacker, &attempt).await;
                let words = ["permission denied", "must be owner"];
                assert!(words.iter().any(|words| refused.contains(words)), "{attempt}: {refused}");
            }
        }
    }
}

/// Each such function, with a trigger that somebody else might attach it by, and what fires it.
const ATTACHED: [(&str, &str, &str); 5] = [
    (
        "event_piper_check_amendment",
        "before insert on TABLE for each row",
        "insert into TABLE (amends) values (1)",
    ),
    (
        "event_piper_once",
        "before insert on TABLE for each row",
        "insert into TABLE (uid, stream, version) values (gen_random_uuid(), 's', 1)",
    ),
    (
        "event_piper_remember_changed",
        "after update on TABLE referencing old table as was new table as became for each statement",
        "update TABLE set id = 2",
    ),
    (
        "event_piper_remember_deleted",
        "after delete on TABLE referencing old table as gone for each statement",
        "delete from TABLE",
    ),
    (
        "event_piper_remember_truncated",
        "before truncate on TABLE for each statement",
        "truncate TABLE",
    ),
];

/// As in a database that was restored without its grants: EXECUTE is everybody's again.
#[tokio::test]
async fn even_with_execute_they_refuse_another_table() {
    let (database, client) = whole_log().await;
    let open = "grant execute on all functions in schema public to public";
    client.batch_execute(open).await.unwrap();
    let names = "select string_agg(proname, ' ' order by proname) from pg_proc
        where prosecdef and pronamespace = 'public'::regnamespace";
    let tried = ATTACHED.map(|(function, ..)| function).join(" ");
    assert_eq!(text(&client, names).await, tried, "each has to be tried");
    let attacker = &attackers(&database).await[1];
    let tables = "
        create table own.events (amends bigint, id bigint default 1, subscriber text default 'x',
                                 stream text, payload jsonb, uid uuid, version bigint);
        create temp table events (like own.events including all);
        create view own.events_pruned as select 'x'::text as subscriber, 1::bigint as upto,
            now() as pruned_at where mallory.note('pruned');
        create view own.events_erased as select 'x'::text as subscriber where mallory.note('erased');
        create view own.events_uids as select gen_random_uuid() as uid where mallory.note('uids');
        grant usage on schema own to public; grant all on all tables in schema own to public";
    attacker.batch_execute(tables).await.unwrap();
    for table in ["own.events", "pg_temp.events"] {
        for (function, event, statement) in ATTACHED {
            let trigger = format!("create trigger t {event} execute function public.{function}()");
            attacker.batch_execute(&trigger.replace("TABLE", table)).await.unwrap();
            let refused = refusal(attacker, &statement.replace("TABLE", table)).await;
            assert!(refused.contains(&format!("{function}() works for ")), "{function}: {refused}");
            attacker.batch_execute(&format!("drop trigger t on {table}")).await.unwrap();
        }
    }
    assert_eq!(text(&client, CALLS).await, "");
}

const CALLS: &str = "select string_agg(distinct who || ' ' || what, ', ') from mallory.calls";

/// Everything that could be taken for PostgreSQL's own, or for a table of the log: in a schema that stands
/// before `pg_catalog`, and in the temporary one, which comes before both.
const IMPOSTORS: &str = "
    do $$
    declare
        it record;
    begin
        for it in
            select p.proname as name, pg_get_function_identity_arguments(p.oid) as arguments,
                   format_type(p.prorettype, null) as result
              from pg_proc p
             where p.pronamespace = 'pg_catalog'::regnamespace and p.prokind = 'f' and not p.proretset
               and p.provariadic = 0
               and p.proname in ('to_regclass', 'pg_partition_root', 'current_setting', 'set_config',
                   'has_any_column_privilege', 'pg_get_serial_sequence', 'currval', 'jsonb_typeof', 'format',
                   'quote_ident', 'quote_literal', 'octet_length', 'pg_current_xact_id', 'pg_notify',
                   'pg_try_advisory_xact_lock_shared', 'now', 'lower', 'hashtext')
        loop
            execute format('create function mallory.%I(%s) returns %s language sql as '
                           '$f$ select mallory.note(%L); select null::%3$s $f$',
                           it.name, it.arguments, it.result, 'function ' || it.name);
        end loop;
        for it in
            select oprname as name, oprleft::regtype as l, oprright::regtype as r, oprresult::regtype as result,
                   row_number() over () as n
              from pg_operator
             where oprname in ('=', '<>', '~', '!~', '<', '<=', '>', '>=', '||', '->>', '?') and oprkind = 'b'
               and oprleft::regtype::text in ('text', 'bigint', 'integer', 'xid8', 'oid', 'jsonb', 'boolean',
                                              'name')
               and oprright::regtype::text in ('text', 'bigint', 'integer', 'xid8', 'oid', 'boolean', 'name')
        loop
            execute format('create function mallory.operator_%s(%s, %s) returns %s language sql as '
                           '$f$ select mallory.note(%L); select null::%4$s $f$',
                           it.n, it.l, it.r, it.result, 'operator ' || it.name);
            execute format('create operator mallory.%s (function = mallory.operator_%s, leftarg = %s, '
                           'rightarg = %s)', it.name, it.n, it.l, it.r);
        end loop;
    end
    $$;
    create aggregate mallory.max(bigint) (sfunc = int8larger, stype = bigint);
    grant execute on all functions in schema mallory to public";
const TEMPORARY_IMPOSTORS: &str = "
    create domain pg_temp.text as pg_catalog.text check (mallory.note('type text'));
    create domain pg_temp.bigint as pg_catalog.int8 check (mallory.note('type bigint'));
    create domain pg_temp.int8 as pg_catalog.int8 check (mallory.note('type int8'));
    create domain pg_temp.xid8 as pg_catalog.text check (mallory.note('type xid8'));
    create domain pg_temp.regclass as pg_catalog.text check (mallory.note('type regclass'));
    create temp table events (id pg_catalog.int8, subscriber pg_catalog.text);
    create temp table gone (id pg_catalog.int8, subscriber pg_catalog.text);
    create temp table was (id pg_catalog.int8, subscriber pg_catalog.text);
    create temp table became (id pg_catalog.int8, subscriber pg_catalog.text);
    create temp table events_pruned (subscriber pg_catalog.text, upto pg_catalog.int8);
    create temp table events_erased (subscriber pg_catalog.text, upto pg_catalog.int8);
    create temp table event_piper_amending (amends pg_catalog.int8);
    create temp table events_uids (uid pg_catalog.uuid);
    create temp table events_streams (stream pg_catalog.text, version pg_catalog.int8);
    create temp table pg_class (oid pg_catalog.oid, relname pg_catalog.name);
    create temp table new (type pg_catalog.text);
    set search_path = pg_temp, mallory, pg_catalog, public";

/// The whole life of a log, with nothing in the statements themselves that an impostor could take over.
const LIFE: &str = "
    insert into public.events (type, subscriber, payload) values ('a', 'toto', '{}');
    insert into public.events (type, subscriber, payload, uid, stream, version)
    values ('a', 'toto', '{}', 'e5a2c0de-0000-4000-8000-000000000001', 's', 1);
    insert into public.events (type, subscriber, payload, amends)
    select 'a', 'toto', '[{\"op\": \"remove\", \"path\": \"/a\"}]', e.id from public.events e
     where e.uid operator(pg_catalog.=) 'e5a2c0de-0000-4000-8000-000000000001';
    begin; set local event_piper.prune = 'on';
    update public.events set payload = '1';
    delete from public.events; truncate public.events; commit";

#[tokio::test]
async fn nothing_that_is_named_like_postgresqls_own_is_called() {
    for partitioned in [false, true] {
        let (database, client) = whole_log().await;
        client.batch_execute(IMPOSTORS).await.unwrap_or_else(|error| panic!("{}", Chain(&error)));
        if partitioned {
            for call in ["prepare_partitions(100)", "partition()", "add_partitions(3)"] {
                client.batch_execute(&format!("call event_piper_{call}")).await.unwrap();
            }
        }
        let rights = format!(
            "grant select, insert, update, delete, truncate on events to ROLE;
             grant temporary on database {} to ROLE",
            database.name()
        );
        let attacker = login(&database, "attacker", &rights).await;
        // The owner, too: what it has in its own temporary schema changes nothing.
        for session in [attacker, database.connect().await] {
            session.batch_execute(TEMPORARY_IMPOSTORS).await.unwrap();
            session.batch_execute(LIFE).await.unwrap_or_else(|error| panic!("{}", Chain(&error)));
            assert_eq!(text(&client, CALLS).await, "");
            let kept = "select count(*) || ' ' || string_agg(distinct coalesce(subscriber, 'everybody'), ' ')
                from events_pruned";
            // Everybody's row is written by a TRUNCATE that found something.
            assert_eq!(text(&client, kept).await, "1 toto");
            let erased = "select string_agg(subscriber, ' ') from events_erased";
            assert_eq!(text(&client, erased).await, "toto");
            let bad = session.batch_execute(
                "insert into public.events (type, subscriber, payload) values ('$gap', 'toto', '1')",
            );
            assert!(Chain(&bad.await.unwrap_err()).to_string().contains("type begins with $"));
            let clear =
                "delete from events_pruned; delete from events_erased; truncate mallory.calls;
                delete from events_uids; delete from events_streams";
            client.batch_execute(clear).await.unwrap();
        }
    }
}

#[tokio::test]
async fn who_may_not_write_learns_nothing_from_the_check_of_amendments() {
    let (database, client) = whole_log().await;
    let event = "insert into events (type, subscriber, payload) values ('a', 'toto', '{}')";
    client.batch_execute(event).await.unwrap();
    for attacker in &attackers(&database).await[..2] {
        for (amends, subscriber) in [(1, "toto"), (1, "titi"), (7, "toto")] {
            let ask = format!(
                "set event_piper.prune = 'off';
                 insert into event_piper_amending values ({amends}, 9, '{subscriber}', null, '{{}}')"
            );
            let refused = refusal(attacker, &ask).await;
            assert!(refused.contains("permission denied for table public.events"), "{refused}");
        }
        let hole =
            "insert into event_piper_amending values (1, 9, 'toto', null, '{}') returning amends";
        let refused = refusal(attacker, hole).await;
        assert!(refused.contains("permission denied"), "{refused}");
    }
}

/// INSERT is all that it takes, however it was come by.
#[tokio::test]
async fn who_may_write_may_amend() {
    let (database, client) = whole_log().await;
    let function = "create role app; grant insert on events to app;
        grant usage on schema public to app; set role app;
        create function pg_temp.nothing() returns int language sql as 'select 1';
        reset role;
        create function amend() returns void language sql security definer set search_path = public as
            $$ insert into events (type, subscriber, payload, amends) values ('a', 'toto', '{}', 1) $$;
        alter function amend() owner to app;
        insert into events (type, subscriber, payload) values ('a', 'toto', '{}')"
        .replace("app", &format!("app_{}", database.name()));
    client.batch_execute(&function).await.unwrap();
    let amend =
        "insert into events (type, subscriber, payload, amends) values ('a', 'toto', '{}', 1)";
    let app = format!("app_{}", database.name());
    for (name, rights, statement) in [
        ("granted", "grant insert (type, subscriber, payload, amends) on events to ROLE", amend),
        ("member", &*format!("grant {app} to ROLE"), amend),
        (
            "switcher",
            &*format!("alter role ROLE noinherit; grant {app} to ROLE"),
            &*format!("set role {app}; {amend}"),
        ),
        ("caller", "", "select amend()"),
    ] {
        let writer = login(&database, name, rights).await;
        writer
            .batch_execute(statement)
            .await
            .unwrap_or_else(|error| panic!("{name}: {}", Chain(&error)));
        let wrong = statement.replace("'{}', 1", "'{}', 77");
        if wrong != statement {
            let refused = refusal(&writer, &wrong).await;
            assert!(refused.contains("no earlier event 77"), "{refused}");
        }
    }
    let kept = "select count(*)::text from event_piper_amending";
    assert_eq!(text(&client, kept).await, "0");
}

/// A database as it was before, with partitions as well, and what a login could do there.
#[tokio::test]
async fn a_database_that_was_migrated_before_is_found_and_mended() {
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
        "what this is about can be done here"
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
    // A trigger that somebody attached before is still there, and refuses.
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

async fn owners_rights(server: &Server) -> (Severity, String, String) {
    finding(server, "owner's rights").await
}

async fn finding(server: &Server, subject: &str) -> (Severity, String, String) {
    let findings = examine(server).await;
    let finding = findings.into_iter().find(|finding| finding.subject == subject).unwrap();
    (finding.severity, finding.found, finding.mend)
}

/// A schema that is called as the log's was once may be somebody else's.
#[tokio::test]
async fn after_a_schema_was_renamed_they_refuse_until_migrate_makes_them_again() {
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

/// Who owns a function of the log can put another body into it.
#[tokio::test]
async fn what_somebody_else_has_put_there_is_not_taken_for_ours() {
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
        let words = Chain(&error).to_string();
        assert!(words.contains("belongs to mallory"), "{words}");
    }
}

/// Everything that a trigger on a table of the log could be called by, while a function of ours is at work.
const NOTES: [&str; 4] = ["events_pruned", "events_erased", "events_uids", "events_streams"];

/// What is done to the log that these functions have a part in, one transaction each.
const WORK: [&str; 5] = [
    "insert into public.events (type, subscriber, payload, uid, stream, version)
     values ('a', 'toto', '{}', gen_random_uuid(), 's' || random(), 1)",
    "insert into public.events (type, subscriber, payload, amends) values ('a', 'toto', '{}', 1)",
    "set event_piper.prune = 'on'; update public.events set payload = '1' where id = 2",
    "set event_piper.prune = 'on'; delete from public.events where id = 2",
    "set event_piper.prune = 'on'; truncate public.events",
];

/// A partitioned log with two events, migrated by the superuser.
async fn partitioned_log() -> (Database, Client) {
    let database = Database::create().await;
    let client = database.connect().await;
    for sql in [
        PARTITION,
        EVIL,
        "call event_piper_prepare_partitions(100)",
        "call event_piper_partition()",
        "insert into events (type, subscriber, payload) values ('a', 'toto', '{}'), ('a', 'toto', '{}')",
    ] {
        client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{}", Chain(&error)));
    }
    (database, client)
}

/// As `grant all on all tables` gives it, or default privileges.
#[tokio::test]
async fn who_may_create_triggers_does_not_act_as_the_owner() {
    let (database, client) = partitioned_log().await;
    let name = database.name();
    let rights = format!(
        "create schema own authorization ROLE; grant temporary on database {name} to ROLE;
         grant all on all tables in schema public to ROLE"
    );
    let attacker = login(&database, "trigger", &rights).await;
    let evil = "create function own.evil() returns trigger language plpgsql as
        'begin perform mallory.note(tg_table_name); return new; end'";
    attacker.batch_execute(evil).await.unwrap();
    for table in NOTES {
        let trigger = format!(
            "create trigger evil before insert or update on public.{table}
             for each row execute function own.evil()"
        );
        attacker.batch_execute(&trigger).await.unwrap();
    }
    for (at, work) in WORK.iter().enumerate() {
        let done = attacker.batch_execute(work).await;
        // An amendment is noted nowhere.
        if at != 1 {
            let refused = Chain(&done.expect_err(work)).to_string();
            assert!(refused.contains("another role could act as its owner"), "{work}: {refused}");
        }
    }
    assert_eq!(text(&client, CALLS).await, "");
    let server = Server::parse(&database.url()).unwrap();
    let grants = finding(&server, "grants").await;
    assert_eq!(grants.0, Severity::Warning);
    assert!(grants.1.contains("has TRIGGER on events_pruned"), "{grants:?}");
    assert!(grants.1.contains("has INSERT on event_piper_keys"), "{grants:?}");

    // What doctor says to run is enough.
    let drop = NOTES.map(|table| format!("drop trigger evil on {table};")).concat();
    client.batch_execute(&format!("{drop} {}", grants.2)).await.unwrap();
    assert_eq!(finding(&server, "grants").await.0, Severity::Ok);
    for work in WORK {
        client.batch_execute(work).await.unwrap_or_else(|error| panic!("{}", Chain(&error)));
    }
}

/// What a foreign key deletes may have a trigger, which runs as whoever deletes.
#[tokio::test]
async fn who_may_create_foreign_keys_does_not_act_as_the_owner() {
    let (database, client) = partitioned_log().await;
    let rights = "create schema own authorization ROLE;
        grant insert, references on all tables in schema public to ROLE";
    let attacker = login(&database, "references", rights).await;
    let evil = "create table own.f (uid uuid references public.events_uids on delete cascade
                                    deferrable initially deferred);
        create function own.evil() returns trigger language plpgsql as
            'begin perform mallory.note(''cascade''); return null; end';
        create trigger evil after delete on own.f for each row execute function own.evil()";
    attacker.batch_execute(evil).await.unwrap();
    let version = |uid: char| {
        format!(
            "insert into public.events (type, payload, stream, version, uid)
             values ('a', '{{}}', 's', 1, 'e5a2c0de-0000-4000-8000-00000000000{uid}')"
        )
    };
    let conflict = format!(
        "begin; set local event_piper.twice = 'skip';
         insert into own.f values ('e5a2c0de-0000-4000-8000-000000000002'); {}; commit",
        version('2')
    );
    let first = attacker.batch_execute(&version('1')).await;
    let second = attacker.batch_execute(&conflict).await;
    assert_eq!(text(&client, CALLS).await, "");
    for done in [first, second] {
        let refused = Chain(&done.unwrap_err()).to_string();
        assert!(refused.contains("another role could act as its owner"), "{refused}");
    }
    client.batch_execute("drop table own.f").await.unwrap();
    client.batch_execute(&version('1')).await.unwrap();
}

#[tokio::test]
async fn migrate_takes_away_the_right_to_create_triggers_on_notes() {
    let database = Database::create_empty().await;
    let client = database.connect().await;
    let defaults = format!(
        "create role app_{0} login; alter default privileges in schema public grant all on tables to app_{0};
         alter default privileges in schema public grant all on tables to public",
        database.name()
    );
    client.batch_execute(&defaults).await.unwrap();
    migrate(&Server::parse(&database.url()).unwrap()).await.unwrap();
    client.batch_execute(PARTITION).await.unwrap();
    let left = "select string_agg(distinct relname, ' ' order by relname) from pg_class c, aclexplode(relacl) a
        where a.grantee <> relowner and a.privilege_type in ('TRIGGER', 'REFERENCES') and relname ~ '^event(s_|_piper_[ak])'
          and relname <> 'events_keep' and relname <> 'events_partitions'";
    assert_eq!(text(&client, left).await, "");
}

/// Migrated by a superuser, and then given to an ordinary role.
#[tokio::test]
async fn the_owner_of_the_log_does_not_act_as_the_owner_of_the_functions() {
    let (database, client) = partitioned_log().await;
    let app = login(&database, "app", "grant create on schema public to ROLE").await;
    let role = format!("app_{}", database.name());
    client.batch_execute(&format!("alter table events owner to {role}")).await.unwrap();
    for work in [WORK[0], WORK[1], WORK[3], WORK[4]] {
        let refused = refusal(&app, work).await;
        assert!(refused.contains("another role could act as its owner"), "{work}: {refused}");
    }
    // A view takes the place of the table that a function reads.
    let view = "begin; alter table events rename to log;
        create view events as select id, subscriber, stream, amends from log where mallory.note('view')";
    app.batch_execute(view).await.unwrap();
    let amend = "insert into event_piper_amending values (1, 9, 'toto', null, '{}')";
    let refused = refusal(&app, amend).await;
    assert!(refused.contains("another role could act as its owner"), "{refused}");
    app.batch_execute("rollback").await.unwrap();
    assert_eq!(text(&client, CALLS).await, "");

    let server = Server::parse(&database.url()).unwrap();
    let found = owners_rights(&server).await;
    assert_eq!(found.0, Severity::Fatal);
    assert!(found.1.contains(&format!("{role} owns a table of the log")), "{found:?}");
    assert_eq!(migrate(&server).await.unwrap().applied, ["0010_owners_rights", "0012_one_owner"]);
    assert_eq!(owners_rights(&server).await.0, Severity::Ok);
    assert_eq!(migrate(&server).await.unwrap().applied.len(), 0);
    for work in WORK {
        app.batch_execute(work).await.unwrap_or_else(|error| panic!("{work}: {}", Chain(&error)));
    }
}

/// The order in which the manual names them, and the other one.
#[tokio::test]
async fn roles_sql_gives_partitions_to_the_owner_of_the_log_as_well() {
    let (database, client) = partitioned_log().await;
    roles::create(&database).await;
    client.batch_execute("call event_piper_add_partitions(2)").await.unwrap();
    let others = "select string_agg(name, ' ') from (
            select relname::text, relowner from pg_class where relnamespace = 'public'::regnamespace
            union all
            select proname, proowner from pg_proc where pronamespace = 'public'::regnamespace
        ) its(name, owner) where owner <> 'event_piper_owner'::regrole";
    assert_eq!(text(&client, others).await, "");
    let server = Server::parse(&database.url()).unwrap();
    assert_eq!(owners_rights(&server).await.0, Severity::Ok);
    for work in WORK {
        client.batch_execute(work).await.unwrap_or_else(|error| panic!("{}", Chain(&error)));
    }
}

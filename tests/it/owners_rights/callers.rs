//! What a role can do with these functions if it may call them, or attaches them to its own tables.

use event_piper::store::error::ErrorChain;

use super::world::{CALLS, attackers, login, refusal, text, whole_log};

/// Every function of the log's schema that runs with its owner's rights, with a schema-qualified name.
const OWNERS_RIGHTS: &str = "
    select format('%I.%I', nspname, proname) as name, pronargs::int as arguments, prosrc as body,
           coalesce(proconfig::text, '') as settings,
           has_function_privilege('public', p.oid, 'execute') as open
      from pg_proc p join pg_namespace n on n.oid = pronamespace
     where prosecdef and pronamespace = (select relnamespace from pg_class where oid = 'events'::regclass)
     order by 1";

#[tokio::test]
async fn owners_functions_use_nothing_of_their_caller() {
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
async fn no_other_role_calls_or_attaches_owners_functions() {
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

/// Each such function, a trigger with which another role might attach it, and a statement that fires the
/// trigger.
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

/// A database that was restored without its grants: every role has EXECUTE again.
#[tokio::test]
async fn owners_functions_refuse_another_table() {
    let (database, client) = whole_log().await;
    let open = "grant execute on all functions in schema public to public";
    client.batch_execute(open).await.unwrap();
    let names = "select string_agg(proname, ' ' order by proname) from pg_proc
        where prosecdef and pronamespace = 'public'::regnamespace";
    let tried = ATTACHED.map(|(function, ..)| function).join(" ");
    assert_eq!(text(&client, names).await, tried, "each function is tested");
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

#[tokio::test]
async fn the_amendment_check_reveals_nothing_without_insert() {
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

/// INSERT is sufficient: granted, inherited, through `set role`, or through a function.
#[tokio::test]
async fn a_role_with_insert_may_amend() {
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
            .unwrap_or_else(|error| panic!("{name}: {}", ErrorChain(&error)));
        let wrong = statement.replace("'{}', 1", "'{}', 77");
        if wrong != statement {
            let refused = refusal(&writer, &wrong).await;
            assert!(refused.contains("no earlier event 77"), "{refused}");
        }
    }
    let kept = "select count(*)::text from event_piper_amending";
    assert_eq!(text(&client, kept).await, "0");
}

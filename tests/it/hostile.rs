//! The SQL of the log in sessions with unusual settings. The guarantees for writers, pruning and readers hold in
//! each of them.

use event_piper::store::error::ErrorChain;
use tokio_postgres::Client;

use crate::support::postgres::Database;

/// Session settings that break code that relies on their defaults.
const SETTINGS: [&str; 38] = [
    "search_path = ''",
    "search_path = pg_temp, pg_catalog",
    "standard_conforming_strings = off",
    "backslash_quote = off",
    "escape_string_warning = off",
    "quote_all_identifiers = on",
    "DateStyle = 'SQL, DMY'",
    "DateStyle = 'German, YMD'",
    "IntervalStyle = 'sql_standard'",
    "TimeZone = 'Asia/Kathmandu'",
    "bytea_output = 'escape'",
    "default_transaction_isolation = 'serializable'",
    "default_transaction_isolation = 'repeatable read'",
    "default_transaction_deferrable = on",
    "default_transaction_read_only = on",
    "row_security = off",
    "session_replication_role = replica",
    "check_function_bodies = off",
    "plan_cache_mode = force_generic_plan",
    "plan_cache_mode = force_custom_plan",
    "transform_null_equals = on",
    "array_nulls = off",
    "xmloption = 'document'",
    "extra_float_digits = -15",
    "client_encoding = 'LATIN1'",
    "statement_timeout = '10min'",
    "lock_timeout = '10min'",
    "idle_in_transaction_session_timeout = '10min'",
    "jit_above_cost = 0",
    "from_collapse_limit = 1",
    "geqo_threshold = 2",
    "work_mem = '64kB'",
    "synchronous_commit = off",
    "client_min_messages = error",
    "constraint_exclusion = on",
    "plpgsql.variable_conflict = use_variable",
    "plpgsql.variable_conflict = use_column",
    "plpgsql.extra_errors = 'all'",
];

/// Turns off every planner switch of this server.
const PLANNER: &str = "
    select 'set ' || name || ' = off' from pg_settings
     where starts_with(name, 'enable_') and vartype = 'bool' order by 1";

/// A transaction that writes although the session's default is read-only.
const WRITE: &str = "begin read write;";

/// Events are read as they were written, invalid ones are rejected, and deletions and changes are noted.
async fn live(database: &Database, session: &Client, setting: &str) {
    let ok = async |sql: &str| {
        let all = format!("{WRITE} {sql}; commit");
        session
            .batch_execute(&all)
            .await
            .unwrap_or_else(|error| panic!("{setting}: {sql}: {}", ErrorChain(&error)));
    };
    let refused = async |sql: &str, words: &str| {
        let all = format!("{WRITE} {sql}; commit");
        let error = session.batch_execute(&all).await.expect_err(&format!("{setting}: {sql}"));
        assert!(
            ErrorChain(&error).to_string().contains(words),
            "{setting}: {sql}: {}",
            ErrorChain(&error)
        );
        session.batch_execute("rollback").await.unwrap();
    };
    ok("insert into public.events (type, subscriber, payload) values ('a', 'toto', '{\"a\": 1}')")
        .await;
    let watcher = database.connect().await;
    let newest = "select max(id) from events";
    let first: i64 = watcher.query_one(newest, &[]).await.unwrap().get(0);
    ok("insert into public.events (type, stream, version, payload, uid)
        values ('a', 's', 1, '{}', 'e5a2c0de-0000-4000-8000-000000000001')")
    .await;
    let amend = format!(
        "insert into public.events (type, subscriber, payload, amends) values ('a', 'toto', '{{}}', {first})"
    );
    ok(&amend).await;
    ok("insert into public.events (type, stream, version, payload, uid)
        values ('a', 's', 2, '{}', 'e5a2c0de-0000-4000-8000-000000000001') on conflict (uid) do nothing")
    .await;
    for (values, words) in [
        ("'$gap', 'toto', null, null, null", "type begins with $"),
        ("'', 'toto', null, null, null", "type is empty"),
        ("'a' || chr(10), 'toto', null, null, null", "control character"),
        ("'a', 'to' || chr(9), null, null, null", "control character"),
        ("'$gap', null, 's', 5, null", "type begins with $"),
        ("'a', null, null, null, null", "neither subscriber nor stream"),
        ("'a', 'toto', null, null, 7777777", "no earlier event 7777777"),
        (&*format!("'a', 'titi', null, null, {first}"), "another subscriber"),
    ] {
        let insert = format!(
            "insert into public.events (type, subscriber, stream, version, amends, payload)
             values ({values}, '1')"
        );
        refused(&insert, words).await;
    }
    let given =
        "insert into public.events (type, subscriber, payload, xid) values ('a', 'toto', '1', '7')";
    if !setting.contains("replica") {
        refused(given, "xid is given by the database").await;
    }
    for change in [
        "update public.events set payload = '2'",
        "delete from public.events",
        "truncate public.events",
    ] {
        refused(change, "append-only").await;
    }
    ring(database, session, setting).await;
    ok("set local event_piper.prune = 'on'; update public.events set payload = '2'").await;
    ok("set local event_piper.prune = 'on'; delete from public.events").await;
    ok("insert into public.events (type, subscriber, payload) values ('a', 'tata', '1')").await;
    ok("set local event_piper.prune = 'on'; truncate public.events").await;

    let known = "select (select string_agg(coalesce(subscriber, 'everybody') || ' ' || upto, ', '
                                           order by upto, subscriber) from events_pruned)
        || '; ' || (select string_agg(subscriber || ' ' || upto, ', ' order by upto, subscriber)
                    from events_erased)
        || '; ' || (select count(*) from event_piper_amending)";
    let known: String = watcher.query_one(known, &[]).await.unwrap().get(0);
    let ids = |known: &str| known.chars().filter(|c| !c.is_ascii_digit()).collect::<String>();
    assert_eq!(ids(&known), ids(" 1, toto 2, everybody 3;  1, toto 2; 0"), "{setting}: {known}");
}

/// The trigger notifies a sleeping reader, holds its lock, and does not block writers.
async fn ring(database: &Database, session: &Client, setting: &str) {
    let sleeper = database.connect().await;
    sleeper.batch_execute("select pg_advisory_lock(17744, 1)").await.unwrap();
    let write = format!(
        "{WRITE} insert into public.events (type, subscriber, payload) values ('a', 'toto', '1')"
    );
    session.batch_execute(&write).await.unwrap();
    let locks = "select string_agg(objid || ' ' || mode, ', ' order by objid) from pg_locks
        where locktype = 'advisory' and classid = 17744 and granted
          and database = (select oid from pg_database where datname = current_database())";
    let locks: String = sleeper.query_one(locks, &[]).await.unwrap().get(0);
    assert_eq!(locks, "1 ExclusiveLock, 2 ShareLock", "{setting}");
    session.batch_execute("commit").await.unwrap();
    sleeper.batch_execute("select pg_advisory_unlock(17744, 1)").await.unwrap();
}

#[tokio::test]
async fn the_log_works_with_any_session_settings() {
    let database = Database::create().await;
    let client = database.connect().await;
    let planner = client.query(PLANNER, &[]).await.unwrap();
    let settings = SETTINGS.map(|setting| format!("set {setting}")).into_iter();
    let settings = settings.chain(planner.iter().map(|row| row.get(0)));
    for setting in settings {
        let session = database.connect().await;
        // The settings of plpgsql exist once it is loaded.
        session.batch_execute("load 'plpgsql'").await.unwrap();
        session
            .batch_execute(&setting)
            .await
            .unwrap_or_else(|error| panic!("{setting}: {}", ErrorChain(&error)));
        live(&database, &session, &setting).await;
        let clear = "delete from events_pruned; delete from events_erased";
        client.batch_execute(clear).await.unwrap();
    }
}

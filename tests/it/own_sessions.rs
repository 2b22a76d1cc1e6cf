//! Our own sessions behave the same, whatever a database, a role or an administrator has set.

use std::panic::AssertUnwindSafe;

use event_piper::store::{
    doctor::{Severity, examine},
    migrate::migrate,
    server::Server,
};
use futures::{FutureExt, StreamExt, stream};

use crate::support::{
    life::Life,
    postgres::{Database, connect},
};

/// Settings with good uses that change what a statement means, how it is planned, how its answer is printed,
/// or how long it may take. Each is tried by itself.
const HOSTILE: [&str; 30] = [
    "standard_conforming_strings = off",
    "default_transaction_isolation = serializable",
    "default_transaction_isolation = 'repeatable read'",
    "default_transaction_read_only = on",
    "default_transaction_deferrable = on",
    "search_path = '$user', strange, public",
    "search_path = strange, pg_catalog, public",
    "search_path = pg_temp, public, pg_catalog",
    "quote_all_identifiers = on",
    "DateStyle = 'SQL, DMY'",
    "DateStyle = 'German'",
    "IntervalStyle = iso_8601",
    "TimeZone = 'Australia/Lord_Howe'",
    "bytea_output = escape",
    "extra_float_digits = -15",
    "client_encoding = LATIN1",
    "row_security = off",
    "plan_cache_mode = force_generic_plan",
    "plan_cache_mode = force_custom_plan",
    "jit_above_cost = 0",
    "statement_timeout = 1000",
    "lock_timeout = 1",
    "idle_in_transaction_session_timeout = 1000",
    "session_replication_role = replica",
    "transform_null_equals = on",
    "array_nulls = off",
    "xmloption = document",
    "client_min_messages = debug5",
    "check_function_bodies = off",
    "work_mem = 64",
];

/// Settings that only some versions have. They end sessions, so they have to leave time to begin one.
const HOSTILE_WHERE_KNOWN: [&str; 2] =
    ["idle_session_timeout = 1000", "transaction_timeout = 1000"];

/// A schema whose operators, functions and tables hide the built-in ones if its name comes before
/// `pg_catalog`.
const STRANGE: &str = "
create schema strange;
create function strange.no(text, text) returns boolean language sql immutable as 'select false';
create operator strange.= (leftarg = text, rightarg = text, function = strange.no);
create operator strange.~ (leftarg = text, rightarg = text, function = strange.no);
create function strange.pg_is_in_recovery() returns boolean language sql as 'select true';
create function strange.current_setting(text, boolean) returns text language sql
    as $$ select 'off'::text $$;
create table strange.events_keep (id int);
create table strange.events_pruned (id int);
create table strange.pg_settings (id int);
create table strange.event_piper_pumps (id int)";

/// Runs through the life of a log as a role that has these settings. Returns what went wrong.
async fn lives_with(settings: &[String]) -> Result<(), String> {
    let database = Database::create_empty().await;
    let client = database.connect().await;
    let role = format!("hostile_{}", database.name());
    client.batch_execute(&format!("create role {role} superuser login")).await.unwrap();
    client.batch_execute(STRANGE).await.unwrap();
    // A search_path may determine another schema for a log that does not exist yet.
    if settings.iter().any(|setting| setting.starts_with("search_path")) {
        migrate(&Server::parse(&database.url()).unwrap()).await.unwrap();
    }
    for setting in settings {
        let set = format!("alter role {role} set {setting}");
        client.batch_execute(&set).await.map_err(|error| format!("{set}: {error:?}"))?;
    }
    let url = database.url().replace("user=postgres", &format!("user={role}"));
    let server = Server::parse(&url).unwrap();
    let all = async {
        migrate(&server).await.unwrap();
        Life { url, client: connect(&database.url()).await }.lives().await;
        // Before PostgreSQL 15, everybody may create objects in `public`, which doctor reports.
        let revoke = "revoke create on schema public from public";
        connect(&database.url()).await.batch_execute(revoke).await.unwrap();
        let findings = examine(&server).await;
        let bad = findings.iter().find(|finding| finding.severity != Severity::Ok);
        assert!(bad.is_none(), "{bad:?}");
    };
    AssertUnwindSafe(all).catch_unwind().await.map_err(|panic| {
        let said = panic.downcast_ref::<String>().map(String::as_str);
        let said = said.or(panic.downcast_ref::<&str>().copied()).unwrap_or("a panic");
        format!("{settings:?}: {said}")
    })
}

async fn all_live(settings: Vec<Vec<String>>) {
    let lives = settings.into_iter().map(|settings| async move { lives_with(&settings).await });
    let outcomes: Vec<_> = stream::iter(lives).buffer_unordered(4).collect().await;
    let failed: Vec<_> = outcomes.into_iter().filter_map(Result::err).collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn works_with_any_settings() {
    all_live(HOSTILE.iter().map(|setting| vec![(*setting).to_owned()]).collect()).await;
}

#[tokio::test]
async fn works_with_settings_of_some_versions_only() {
    let known = Database::create_empty().await.connect().await;
    let rows = known.query("select name from pg_settings where context = 'user'", &[]).await;
    let names: Vec<String> = rows.unwrap().iter().map(|row| row.get(0)).collect();
    let known = |setting: &&str| names.iter().any(|name| setting.starts_with(name.as_str()));
    let here = HOSTILE_WHERE_KNOWN.iter().filter(|setting| known(setting));
    let mut each: Vec<Vec<String>> = here.map(|setting| vec![(*setting).to_owned()]).collect();
    // The planner has only the most expensive plan left.
    let enabled = names.iter().filter(|name| name.starts_with("enable_"));
    each.push(enabled.map(|name| format!("{name} = off")).collect());
    all_live(each).await;
}

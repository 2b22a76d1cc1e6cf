//! What our own sessions rely on: every setting that changes what our statements mean, said once.
//!
//! An administrator, a role or a database may have other defaults. Nothing of ours depends on them:
//! each session sets its own values, together with the first statement that it sends.
//!
//! Some things are left as they are, on purpose. `synchronous_commit` is the administrator's choice of
//! how durable a commit is. `session_replication_role` may be changed by superusers only, and our
//! triggers fire in every role. Where rows are written or changed, triggers of others run in our
//! sessions; these must find the time zone, the date style and the schemas that they find elsewhere.

use tokio_postgres::{Client, SimpleQueryMessage};

type Result<T> = std::result::Result<T, tokio_postgres::Error>;

/// What a session is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// It reads the log.
    Read,
    /// It changes rows of the log that are there, which must not be hidden from it.
    Change,
    /// It appends events. Row security of the table, where there is some, applies to it.
    Append,
}

/// What the server said of itself when a session was set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Settled {
    /// The process id of the session's backend.
    pub(super) pid: i32,
    /// The server is a standby. A standby that is promoted keeps its sessions, but a primary never
    /// becomes a standby without ending them: so a session that began on a primary stays on one.
    pub(super) standby: bool,
}

/// The settings of every session; those that the server does not know are skipped.
///
/// - Strings, names and isolation, on which the meaning of a statement rests.
/// - No time-out of others applies: statements have deadlines of their own, on our side. A session that
///   is frozen in a transaction does not hold its locks for ever.
/// - A server notices within seconds that the gateway has gone, as the gateway does the other way round,
///   so that locks do not outlive it for hours. (Only Linux tells a busy server that its client has gone.
///   On a Unix socket the keep-alive settings are ignored.)
/// - JIT never pays for statements this short.
const EVERY: &str = "
    ('standard_conforming_strings', 'on'), ('client_encoding', 'UTF8'),
    ('quote_all_identifiers', 'off'), ('client_min_messages', 'notice'),
    ('default_transaction_isolation', 'read committed'), ('default_transaction_read_only', 'off'),
    ('default_transaction_deferrable', 'off'),
    ('statement_timeout', '0'), ('lock_timeout', '0'), ('idle_session_timeout', '0'),
    ('transaction_timeout', '0'), ('idle_in_transaction_session_timeout', '60s'),
    ('tcp_keepalives_idle', '5'), ('tcp_keepalives_interval', '2'), ('tcp_keepalives_count', '2'),
    ('tcp_user_timeout', '8000'),
    ('client_connection_check_interval',
     case when version() ~ 'linux' then '1s' else '0' end),
    ('jit', 'off')";

/// How values are printed, for sessions in which only our own statements run.
const PRINTED: &str = ",
    ('DateStyle', 'ISO, YMD'), ('IntervalStyle', 'postgres'), ('TimeZone', 'UTC'),
    ('bytea_output', 'hex'), ('extra_float_digits', '1')";

/// Rows that a policy hides from us look like ids that were never used, and events would be lost. With
/// this, PostgreSQL refuses the statement instead, and names the table.
const NO_ROW_IS_HIDDEN: &str = ", ('row_security', 'off')";
const POLICIES_APPLY: &str = ", ('row_security', 'on')";

/// Our statements are written for the plans that PostgreSQL makes when nothing is switched off; these
/// settings get their built-in values. What things cost is left to the administrator.
const PLANNER: &str = "
    starts_with(name, 'enable_') or starts_with(name, 'geqo')
    or name in ('plan_cache_mode', 'from_collapse_limit', 'join_collapse_limit',
                'constraint_exclusion', 'cursor_tuple_fraction', 'force_parallel_mode',
                'debug_parallel_query')";

/// The role's `search_path` says in which schema the log is: in the first one that has a record of our
/// migrations; where none has, in the first one. That schema comes first from then on, so that all of
/// our tables are the ones there, whatever else the path finds under their names. Built-in functions and
/// operators come before those of others, and temporary tables last. (Until this statement has run, an
/// operator of a schema in the path may stand before a built-in one.)
const SEARCH_PATH: &str = "
select pg_catalog.set_config('search_path', coalesce(
    pg_catalog.string_agg(pg_catalog.quote_ident(path.name), ', ' order by path.is_log desc, path.place)
        OPERATOR(pg_catalog.||) ', pg_temp', ''), IS_LOCAL)
from (
    select known.name, known.place, known.place OPERATOR(pg_catalog.=) pg_catalog.min(
               case when known.has_record then known.place end) over () is true as is_log
    from (
        select listed.name::pg_catalog.text as name, listed.place,
               exists (select from pg_catalog.pg_class
                       join pg_catalog.pg_namespace
                         on pg_namespace.oid OPERATOR(pg_catalog.=) pg_class.relnamespace
                       where pg_class.relname OPERATOR(pg_catalog.=) 'event_piper_migrations'
                         and pg_namespace.nspname OPERATOR(pg_catalog.=) listed.name) as has_record
        from pg_catalog.unnest(pg_catalog.current_schemas(false)) with ordinality listed(name, place)
        where listed.name OPERATOR(pg_catalog.<>) 'pg_catalog'
          and not pg_catalog.starts_with(listed.name::pg_catalog.text, 'pg_temp')
    ) known
) path";

/// Comes first: a time-out of others would else end the very statement that ends it.
const NO_TIMEOUT: &str = "set statement_timeout = 0;";
const NO_LOCAL_TIMEOUT: &str = "set local statement_timeout = 0;";

/// Begins a transaction that behaves as ours do, whatever the defaults are: what settles the session
/// takes a snapshot, which in a deferrable transaction may wait for long.
const BEGIN: &str = "begin isolation level read committed, read write, not deferrable;";

/// Asks what [`settled`] reads. It is the last of the statements that are sent with [`settings`].
pub(super) const HELLO: &str = "select pg_backend_pid(), pg_is_in_recovery()";

/// The statements that set a session up.
pub(super) fn settings(purpose: Purpose) -> String {
    format!("{NO_TIMEOUT} {BEGIN} {}; commit;", statements(purpose, "false"))
}

/// Sets a session up, in one round trip.
pub(super) async fn settle(client: &Client, purpose: Purpose) -> Result<Settled> {
    let hello = format!("{} {HELLO}", settings(purpose));
    Ok(settled(&client.simple_query(&hello).await?))
}

/// What the server answers to [`HELLO`].
///
/// # Panics
/// When that was not the last statement.
pub(super) fn settled(answers: &[SimpleQueryMessage]) -> Settled {
    let last = answers.iter().rev().find_map(|answer| match answer {
        SimpleQueryMessage::Row(row) => Some((row.get(0)?.parse().ok()?, row.get(1)? == "t")),
        _ => None,
    });
    let (pid, standby) = last.expect("the last statement answers a process id and a boolean");
    Settled { pid, standby }
}

/// Begins a transaction with the same settings for itself only, in one round trip. Through a pooler that
/// lends sessions by the transaction, nothing is left behind in a session that belongs to others.
pub(super) async fn begin(client: &Client, purpose: Purpose) -> Result<()> {
    let settings = statements(purpose, "true");
    client.batch_execute(&format!("{BEGIN} {NO_LOCAL_TIMEOUT} {settings}")).await
}

fn statements(purpose: Purpose, is_local: &str) -> String {
    let others = match purpose {
        Purpose::Read => [PRINTED, NO_ROW_IS_HIDDEN],
        Purpose::Change => ["", NO_ROW_IS_HIDDEN],
        Purpose::Append => ["", POLICIES_APPLY],
    };
    let path = SEARCH_PATH.replace("IS_LOCAL", is_local);
    format!(
        "{path};
         select set_config(pg_settings.name, own.value, {is_local})
         from pg_settings join (values {EVERY}{}) own(name, value) on own.name = pg_settings.name;
         select set_config(name, boot_val, {is_local})
         from pg_settings where ({PLANNER}) and setting <> boot_val",
        others.concat()
    )
}

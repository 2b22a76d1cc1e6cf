//! The settings of our own sessions: every setting that changes what our statements mean, in one place.
//!
//! An administrator, a role or a database may have other defaults. Nothing of ours depends on them: each
//! session sets its own values together with the first statement that it sends.
//!
//! Some settings are left alone on purpose. `synchronous_commit` is the administrator's choice of how durable
//! a commit is. `session_replication_role` may be changed by superusers only, and our triggers fire in every
//! role. Sessions that write or change rows run other people's triggers, which must find the time zone, the
//! date style and the schemas that they find elsewhere.

use tokio_postgres::{Client, SimpleQueryMessage};

type Result<T> = std::result::Result<T, tokio_postgres::Error>;

/// What a session is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Reading the log.
    Read,
    /// Changing existing rows of the log, none of which may be hidden.
    Change,
    /// Appending events. Row security of the table, if there is any, applies.
    Append,
}

/// What the server said about itself when a session was set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Settled {
    /// The process id of the session's backend.
    pub(super) pid: i32,
    /// Whether the server is a standby. A standby that is promoted keeps its sessions, but a primary never
    /// becomes a standby without ending them. So a session that began on a primary stays on one.
    pub(super) standby: bool,
}

/// The settings of every session. Settings that the server does not know are skipped.
///
/// - Strings, names and isolation, which determine the meaning of a statement.
/// - Timeouts are off: statements have deadlines on our side. A session that is frozen in a transaction does
///   not hold its locks for ever.
/// - The server notices within seconds that the gateway has gone, as the gateway does the other way round, so
///   that locks do not outlive the gateway for hours. (Only Linux tells a busy server that its client has
///   gone. On a Unix socket the keepalive settings are ignored.)
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

/// How values are printed, in sessions that run only our own statements.
const PRINTED: &str = ",
    ('DateStyle', 'ISO, YMD'), ('IntervalStyle', 'postgres'), ('TimeZone', 'UTC'),
    ('bytea_output', 'hex'), ('extra_float_digits', '1')";

/// Rows that a policy hides look like ids that were never used, and events would be lost. With this setting
/// PostgreSQL refuses the statement instead, and names the table.
const NO_ROW_IS_HIDDEN: &str = ", ('row_security', 'off')";
const POLICIES_APPLY: &str = ", ('row_security', 'on')";

/// Our statements are written for the plans that PostgreSQL makes when nothing is switched off. These
/// settings get their built-in values. The cost settings are left to the administrator.
const PLANNER: &str = "
    starts_with(name, 'enable_') or starts_with(name, 'geqo')
    or name in ('plan_cache_mode', 'from_collapse_limit', 'join_collapse_limit',
                'constraint_exclusion', 'cursor_tuple_fraction', 'force_parallel_mode',
                'debug_parallel_query')";

/// The role's `search_path` determines the schema of the log: the first one that has a table of our
/// migrations, or else the first one. From then on that schema comes first, so that all of our tables are the
/// ones there, whatever else the path contains. Built-in functions and operators come before those of other
/// schemas, and temporary tables last. (Until this statement has run, an operator of a schema in the path may
/// come before a built-in one.)
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

/// Comes first: otherwise a default timeout could cancel the very statement that removes it.
const NO_TIMEOUT: &str = "set statement_timeout = 0;";
const NO_LOCAL_TIMEOUT: &str = "set local statement_timeout = 0;";

/// Begins a transaction with fixed properties, whatever the defaults are. The statements that set up a
/// session take a snapshot, which can wait for long in a deferrable transaction.
const BEGIN: &str = "begin isolation level read committed, read write, not deferrable;";

/// Asks for what [`settled`] parses. It has to be the last of the statements that are sent with [`settings`].
pub(super) const HELLO: &str = "select pg_backend_pid(), pg_is_in_recovery()";

/// The statements that set a session up.
pub(super) fn settings(purpose: Purpose) -> String {
    format!("{NO_TIMEOUT} {BEGIN} {}; commit;", statements(purpose, "false"))
}

/// Sets up a session, in one round trip.
pub(super) async fn settle(client: &Client, purpose: Purpose) -> Result<Settled> {
    let hello = format!("{} {HELLO}", settings(purpose));
    Ok(settled(&client.simple_query(&hello).await?))
}

/// Parses the answer to [`HELLO`].
///
/// # Panics
/// If that was not the last statement.
pub(super) fn settled(answers: &[SimpleQueryMessage]) -> Settled {
    let last = answers.iter().rev().find_map(|answer| match answer {
        SimpleQueryMessage::Row(row) => Some((row.get(0)?.parse().ok()?, row.get(1)? == "t")),
        _ => None,
    });
    let (pid, standby) = last.expect("the last statement answers a process id and a boolean");
    Settled { pid, standby }
}

/// Begins a transaction with the same settings for this transaction only, in one round trip. If a pooler
/// lends the session by the transaction, nothing is left behind for its other users.
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

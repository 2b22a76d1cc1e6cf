//! The functions that run with their owner's rights, and what writers need beside INSERT.

use tokio_postgres::Client;

use super::{Examined, Finding};
use crate::postgres::{doorbell::LOCKS, migrate::SHARES_ITS_LOCKS};

/// Functions of the log's schema that run with their owner's rights and that others can turn against the
/// owner, each with what is wrong: `unsafe` where it takes a table from its caller, `elsewhere` where it was
/// made for the log of another schema, `open` where PUBLIC may execute it.
const OWNERS_RIGHTS: &str = "\
select case when function.prosrc ~ 'tg_table_schema|relnamespace' then 'unsafe'
            when position(quote_literal(format('%I.events', home.nspname)) in function.prosrc) = 0
            then 'elsewhere' else 'open' end as fault,
       function.oid::regprocedure::text
from pg_class log
join pg_namespace home on home.oid = log.relnamespace
join pg_proc function on function.pronamespace = home.oid
where log.oid = to_regclass('events') and function.prosecdef
  and starts_with(function.proname::text, 'event_piper_')
  and (position(quote_literal(format('%I.events', home.nspname)) in function.prosrc) = 0
       or has_function_privilege('public', function.oid, 'execute'))
order by fault desc, 2";

/// The table that checks amendments: does it check, and whom does it let in?
const AMENDMENTS: &str = "\
select trigger.tgenabled::text, has_table_privilege('public', checks.oid, 'insert')
from pg_class log
join pg_class checks on checks.relnamespace = log.relnamespace
                    and checks.relname = 'event_piper_amending'
left join pg_trigger trigger on trigger.tgrelid = checks.oid
                            and trigger.tgname = 'event_piper_amending_check'
where log.oid = to_regclass('events')";

pub(super) async fn owners_rights(client: &Client) -> Examined {
    const SUBJECT: &str = "owner's rights";
    let rows = client.query(OWNERS_RIGHTS, &[]).await?;
    let of = |fault: &str| {
        let those = rows.iter().filter(|row| row.get::<_, &str>(0) == fault);
        those.map(|row| row.get(1)).collect::<Vec<&str>>().join(", ")
    };
    let (unsafe_ones, elsewhere, open) = (of("unsafe"), of("elsewhere"), of("open"));
    Ok(if !unsafe_ones.is_empty() {
        Finding::fatal(
            SUBJECT,
            format!("every login of the database can act as the owner of {unsafe_ones}"),
            "Run `event-piper migrate` as the tables' owner, now; then read docs/security.md, which tells \
             how to find out whether it was used.",
        )
    } else if !elsewhere.is_empty() {
        Finding::fatal(
            SUBJECT,
            format!("made for the log of another schema, and refuse to work: {elsewhere}"),
            "The schema was renamed, or the functions were restored into another one: run \
             `event-piper migrate` as the tables' owner.",
        )
    } else if !open.is_empty() {
        Finding::warning(
            SUBJECT,
            format!("PUBLIC may execute {open}"),
            "For each: revoke execute on function ... from public;",
        )
    } else {
        Finding::ok(SUBJECT, "used for the log alone")
    })
}

pub(super) async fn amendments(client: &Client) -> Examined {
    const SUBJECT: &str = "amendments";
    const ENABLE: &str = "alter table event_piper_amending enable always trigger \
                          event_piper_amending_check;";
    let Some(row) = client.query_opt(AMENDMENTS, &[]).await? else {
        return Ok(Finding::fatal(
            SUBJECT,
            "there is no table event_piper_amending",
            "Run `event-piper migrate` as the tables' owner.",
        ));
    };
    let (enabled, everybody): (Option<String>, bool) = (row.get(0), row.get(1));
    Ok(match (enabled.as_deref(), everybody) {
        (Some("A"), true) => Finding::ok(SUBJECT, "checked as they are written"),
        (Some("A"), false) => Finding::warning(
            SUBJECT,
            "writers may need a grant to amend events",
            "grant insert on event_piper_amending to public; (it checks, and keeps nothing)",
        ),
        _ => Finding::warning(SUBJECT, "not checked, or not in replica sessions", ENABLE),
    })
}

pub(super) async fn locks(client: &Client) -> Examined {
    const SUBJECT: &str = "locks";
    let shared: bool =
        client.query_one(&SHARES_ITS_LOCKS.replace("LOCKS", LOCKS), &[]).await?.get(0);
    Ok(if shared {
        Finding::warning(
            SUBJECT,
            "another log in this database has the same: the two wait for each other",
            "Stop the gateways and pumps of this database, run migrations/0011_any_session.sql in the schema \
             of this log, as the tables' owner, and start them again.",
        )
    } else {
        Finding::ok(SUBJECT, "the log's own")
    })
}

//! Examines the functions that run with their owner's rights, and the rights that writers need besides INSERT.

use tokio_postgres::Client;

use super::finding::{Examined, Finding};
use crate::{doorbell::LOCKS, migrate::SHARES_ITS_LOCKS};

/// The functions of the log's schema that run with their owner's rights, each with its fault: `unsafe` if it takes a
/// table from its caller, `elsewhere` if it was made for the log of another schema, `weaker` if the owner of a
/// table of the log could act as the owner of the function, `open` if PUBLIC may execute it, null if it has none.
const OWNERS_RIGHTS: &str = "\
select case when function.prosrc ~ 'tg_table_schema|relnamespace' then 'unsafe'
            when position(quote_literal(format('%I.events', home.nspname)) in function.prosrc) = 0
            then 'elsewhere'
            when weaker.owner is not null then 'weaker'
            when has_function_privilege('public', function.oid, 'execute') then 'open' end as fault,
       function.oid::regprocedure::text, function.proowner::regrole::text, weaker.owner::regrole::text
from pg_class log
join pg_namespace home on home.oid = log.relnamespace
join pg_proc function on function.pronamespace = home.oid,
lateral (
    select min(its.relowner) as owner from pg_class its
    where its.relnamespace = log.relnamespace
      and (its.oid = log.oid or its.relname in ('events_pruned', 'events_erased', 'events_uids',
                                                'events_streams', 'event_piper_amending'))
      and not pg_has_role(its.relowner, function.proowner, 'member')
) weaker
where log.oid = to_regclass('events') and function.prosecdef
  and starts_with(function.proname::text, 'event_piper_')
order by 2";

/// Whether the table that checks amendments does check, and whether everybody may insert into it.
const AMENDMENTS: &str = "\
select trigger.tgenabled::text, has_table_privilege('public', checks.oid, 'insert')
from pg_class log
join pg_class checks on checks.relnamespace = log.relnamespace
                    and checks.relname = 'event_piper_amending'
left join pg_trigger trigger on trigger.tgrelid = checks.oid
                            and trigger.tgname = 'event_piper_amending_check'
where log.oid = to_regclass('events')";

/// The rights by which roles other than the owner could act for others, and the statements that revoke them: to
/// create keys, or to have their own functions called when others write. Default privileges and `grant all on all
/// tables` give such rights.
const GRANTS: &str = "\
with granted as (
    select its.oid, its.relowner, acl.grantee, acl.privilege_type
    from pg_class log join pg_class its on its.relnamespace = log.relnamespace,
         lateral (select given.grantee, given.privilege_type from aclexplode(its.relacl) given
                  union all
                  select given.grantee, given.privilege_type
                  from pg_attribute its_column, aclexplode(its_column.attacl) given
                  where its_column.attrelid = its.oid) acl
    where log.oid = to_regclass('events')
      and (its.relname = 'event_piper_keys' and acl.privilege_type in ('INSERT', 'UPDATE')
           or acl.privilege_type = 'TRIGGER' and its.oid = log.oid
           or acl.privilege_type in ('TRIGGER', 'REFERENCES')
              and (its.relname in ('event_piper_keys', 'events_pruned', 'events_erased', 'events_uids',
                                      'events_streams', 'event_piper_amending')))
), given as (
    select case grantee when 0 then 'public' else grantee::regrole::text end as receiver,
           privilege_type, oid::regclass::text as name
    from granted
    where grantee <> relowner and (grantee = 0 or not pg_has_role(grantee, relowner, 'member'))
    group by 1, 2, 3
)
select string_agg(format('%s has %s on %s', receiver, privilege_type, name), ', '
                  order by receiver, name),
       string_agg(format('revoke %s on %s from %s;', lower(privilege_type), name, receiver), ' '
                  order by receiver, name)
from given";

/// Whether everybody may create objects in the schema of the log.
const OPEN_SCHEMA: &str = "\
select quote_ident(home.nspname), has_schema_privilege('public', home.oid, 'create')
from pg_class log join pg_namespace home on home.oid = log.relnamespace
where log.oid = to_regclass('events')";

/// Rights by which a role could act for others.
pub(super) async fn grants(client: &Client) -> Examined {
    const SUBJECT: &str = "grants";
    let row = client.query_one(GRANTS, &[]).await?;
    let (found, mend): (Option<String>, Option<String>) = (row.get(0), row.get(1));
    let (Some(found), Some(mend)) = (found, mend) else {
        return Ok(Finding::ok(
            SUBJECT,
            "no other role can create keys, or have its functions called when others write",
        ));
    };
    let why = "a role that may insert keys can act as anybody, and a trigger runs with the rights of the writer";
    Ok(Finding::warning(SUBJECT, format!("{found}: {why}"), mend))
}

pub(super) async fn schema(client: &Client) -> Examined {
    const SUBJECT: &str = "schema's rights";
    let row = client.query_one(OPEN_SCHEMA, &[]).await?;
    let (schema, open): (&str, bool) = (row.get(0), row.get(1));
    Ok(if open {
        Finding::warning(
            SUBJECT,
            format!(
                "everybody may create objects in the schema {schema}, also functions that our statements \
                 could take for PostgreSQL's own"
            ),
            format!("revoke create on schema {schema} from public;"),
        )
    } else {
        Finding::ok(SUBJECT, format!("not everybody may create objects in {schema}"))
    })
}

pub(super) async fn owners_rights(client: &Client) -> Examined {
    const SUBJECT: &str = "owner's rights";
    let rows = client.query(OWNERS_RIGHTS, &[]).await?;
    let of = |fault: &str| {
        let those = rows.iter().filter(|row| row.get::<_, Option<&str>>(0) == Some(fault));
        those.map(|row| row.get(1)).collect::<Vec<&str>>().join(", ")
    };
    let (unsafe_ones, elsewhere, open) = (of("unsafe"), of("elsewhere"), of("open"));
    Ok(if !unsafe_ones.is_empty() {
        Finding::fatal(
            SUBJECT,
            format!("every login of the database can act as the owner of {unsafe_ones}"),
            "Run `event-piper migrate` as the tables' owner, now; then read in docs/security.md how to find \
             out whether this was used.",
        )
    } else if !elsewhere.is_empty() {
        Finding::fatal(
            SUBJECT,
            format!(
                "these functions were made for the log of another schema, and refuse to work: {elsewhere}"
            ),
            "The schema was renamed, or the functions were restored into another one: run \
             `event-piper migrate` as the tables' owner.",
        )
    } else if let Some(row) =
        rows.iter().find(|row| row.get::<_, Option<&str>>(0) == Some("weaker"))
    {
        let (function, powerful, weaker): (&str, &str, &str) = (row.get(1), row.get(2), row.get(3));
        Finding::fatal(
            SUBJECT,
            format!(
                "{weaker} owns a table of the log, and could act as {powerful} by {function}; so these \
                 functions refuse to work"
            ),
            "Run `event-piper migrate` as a superuser: it gives the log's functions to the log's owner.",
        )
    } else if !open.is_empty() {
        Finding::warning(
            SUBJECT,
            format!("PUBLIC may execute {open}"),
            "For each: revoke execute on function ... from public;",
        )
    } else {
        Finding::ok(SUBJECT, "used only for the log")
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
            "another log in this database uses the same locks: the two wait for each other",
            "Stop the gateways and pumps of this database, run migrations/0011_any_session.sql in the schema \
             of this log, as the tables' owner, and start them again.",
        )
    } else {
        Finding::ok(SUBJECT, "not shared with another log")
    })
}

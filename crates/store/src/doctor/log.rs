//! Examines the table `events`: its doorbell, its ids, the rights to read it, and other ways of writing to it.

use tokio_postgres::Client;

use super::finding::{Examined, Finding};
use crate::{migrate::doorbell_body, restored, shape::NoLog};

/// `pg_trigger.tgtype` of BEFORE INSERT FOR EACH STATEMENT.
const BEFORE_INSERT_STATEMENT: i32 = 2 | 4;

const RIGHTS: &str = "\
select coalesce(has_table_privilege(to_regclass('events'), 'SELECT'), false),
       coalesce(has_table_privilege(to_regclass('events_pruned'), 'SELECT'), false),
       coalesce(has_table_privilege(to_regclass('events_erased'), 'SELECT'), false),
       coalesce(has_sequence_privilege(to_regclass(pg_get_serial_sequence('events', 'id')),
                                       'SELECT'), false)";
const ROW_SECURITY: &str = "select row_security_active('events')";
const DOORBELL: &str = "\
select t.tgenabled::text, t.tgtype::int, t.tgqual is null,
       regexp_replace(p.prosrc, 'lock_shared[(][0-9]+, ', 'lock_shared(17744, ', 'g')
from pg_trigger t join pg_proc p on p.oid = t.tgfoid
where t.tgrelid = to_regclass('events') and t.tgname = 'events_doorbell'";
const IDS: &str = "\
select a.attidentity::text, s.seqcache, s.seqincrement, s.seqcycle
from pg_attribute a
left join pg_sequence s on s.seqrelid = to_regclass(pg_get_serial_sequence('events', 'id'))
where a.attrelid = to_regclass('events') and a.attname = 'id'";
const SEQUENCE: &str = "\
select coalesce((select max(log.id)::int8 from events log), 0),
       coalesce(pg_sequence_last_value(to_regclass(pg_get_serial_sequence('events', 'id'))), 0)";
const RULES: &str = "\
select coalesce(string_agg(quote_ident(rulename), ', ' order by rulename)
                    filter (where is_instead), ''),
       coalesce(string_agg(quote_ident(rulename), ', ' order by rulename)
                    filter (where not is_instead), '')
from pg_rewrite where ev_class = to_regclass('events') and rulename <> '_RETURN'";
const GUARDS_OFF: &str = "\
select coalesce(string_agg(name, ', ' order by name), '')
from unnest(array['events_append_only', 'events_append_only_truncate',
                  'events_remember_deleted', 'events_remember_truncated',
                  'events_remember_changed']) name
where not exists (select from pg_trigger
                  where tgrelid = to_regclass('events') and tgname = name and tgenabled = 'A')";
const ADMITS: &str = "\
select coalesce((select tgenabled::text from pg_trigger
                 where tgrelid = to_regclass('events') and tgname = 'events_well_formed'), '')";
const PRUNED_AHEAD: &str = "\
select coalesce((select max(pruned.upto) from events_pruned pruned), 0)
       > coalesce(pg_sequence_last_value(to_regclass(pg_get_serial_sequence('events', 'id'))), 0)";
const NOTIFYING_TRIGGERS: &str = "\
select coalesce(string_agg(quote_ident(t.tgname), ', ' order by t.tgname), '')
from pg_trigger t join pg_proc p on p.oid = t.tgfoid
where t.tgrelid = to_regclass('events') and not t.tgisinternal and t.tgname <> 'events_doorbell'
  and p.prosrc ~* 'pg_notify|\\mnotify\\M'";
const OTHER_WAYS_IN: &str = "\
select exists (select from pg_subscription_rel where srrelid = to_regclass('events')),
       exists (select from pg_inherits join pg_class on oid = inhparent
               where inhparent = to_regclass('events') and relkind <> 'p')";

/// The finding that there is no log of ours.
pub(super) fn missing(none: &NoLog) -> Finding {
    let mend = match none {
        NoLog::Foreign { .. } | NoLog::NoTable { .. } => {
            "Then run `event-piper migrate`, and postgresql/roles.sql."
        }
        _ => "Run `event-piper migrate` as the tables' owner, then postgresql/roles.sql.",
    };
    Finding::fatal("table", none.to_string(), mend)
}

pub(super) async fn rights(client: &Client) -> Examined {
    const SUBJECT: &str = "rights";
    let row = client.query_one(RIGHTS, &[]).await?;
    let objects = ["events", "events_pruned", "events_erased", "the sequence of events.id"];
    let granted = (0..objects.len()).map(|column| row.get::<_, bool>(column));
    let lacking = objects.iter().zip(granted).filter(|(_, granted)| !granted);
    let lacking: Vec<_> = lacking.map(|(object, _)| *object).collect();
    Ok(if lacking.is_empty() {
        Finding::ok(SUBJECT, "the role may read everything that delivery needs")
    } else {
        Finding::fatal(
            SUBJECT,
            format!("the role may not read {}", lacking.join(", ")),
            "As the tables' owner: grant event_piper_gateway to the role (postgresql/roles.sql).",
        )
    })
}

pub(super) async fn row_security(client: &Client) -> Examined {
    const SUBJECT: &str = "row security";
    let active: bool = client.query_one(ROW_SECURITY, &[]).await?.get(0);
    Ok(if active {
        Finding::fatal(
            SUBJECT,
            "policies hide rows from this role; hidden rows are passed over as if their ids were never used",
            "Give the gateway's role the attribute bypassrls, or: alter table events disable row \
             level security;",
        )
    } else {
        Finding::ok(SUBJECT, "no row is hidden from this role")
    })
}

pub(super) async fn doorbell(client: &Client) -> Examined {
    const SUBJECT: &str = "doorbell";
    const ENABLE: &str = "alter table events enable always trigger events_doorbell;";
    const RECREATE: &str = "Drop the trigger if it is there, create it as in postgresql/schema.sql, and run \
                        migrations/0011_any_session.sql again.";
    let Some(row) = client.query_opt(DOORBELL, &[]).await? else {
        return Ok(Finding::fatal(SUBJECT, "the trigger events_doorbell is not there", RECREATE));
    };
    let (enabled, kind): (String, i32) = (row.get(0), row.get(1));
    let (unconditional, body): (bool, String) = (row.get(2), row.get(3));
    Ok(if kind != BEFORE_INSERT_STATEMENT || !unconditional {
        Finding::fatal(SUBJECT, "the trigger does not fire before every insert", RECREATE)
    } else if body != doorbell_body() {
        Finding::fatal(
            SUBJECT,
            "the trigger's function is not the one that this program relies on",
            RECREATE,
        )
    } else {
        match enabled.as_str() {
            "A" => Finding::ok(SUBJECT, "the trigger is enabled"),
            "O" => {
                Finding::warning(SUBJECT, "the trigger does not fire in replica sessions", ENABLE)
            }
            _ => Finding::fatal(SUBJECT, "the trigger is disabled", ENABLE),
        }
    })
}

pub(super) async fn ids(client: &Client) -> Examined {
    const SUBJECT: &str = "ids";
    const REORDER: &str = "alter table events alter id set increment 1 set no cycle;";
    let Some(row) = client.query_opt(IDS, &[]).await? else {
        return Ok(Finding::fatal(
            SUBJECT,
            "events has no column id",
            "Run `event-piper migrate`.",
        ));
    };
    let identity: String = row.get(0);
    let (cache, increment): (Option<i64>, Option<i64>) = (row.get(1), row.get(2));
    Ok(if identity != "a" {
        Finding::fatal(
            SUBJECT,
            "writers may choose ids themselves",
            "alter table events alter id set generated always; (where id is no identity column \
             yet, add generated always as identity)",
        )
    } else if cache != Some(1) {
        Finding::fatal(
            SUBJECT,
            "sessions draw ids in advance, without the doorbell",
            "alter sequence events_id_seq cache 1; then let the writers reconnect.",
        )
    } else if increment != Some(1) || row.get::<_, Option<bool>>(3) == Some(true) {
        Finding::fatal(SUBJECT, "ids do not count up by one", REORDER)
    } else {
        Finding::ok(SUBJECT, "drawn by the database, one at a time")
    })
}

pub(super) async fn sequence(client: &Client) -> Examined {
    const SUBJECT: &str = "sequence";
    let row = client.query_one(SEQUENCE, &[]).await?;
    let (greatest, drawn): (i64, i64) = (row.get(0), row.get(1));
    Ok(if greatest > drawn {
        Finding::fatal(
            SUBJECT,
            format!("there are ids up to {greatest}, and the sequence is at {drawn}"),
            "select setval(pg_get_serial_sequence('events', 'id'), max(id)) from events;",
        )
    } else {
        Finding::ok(SUBJECT, format!("at {drawn}, no id is above it"))
    })
}

/// Rows of another cluster have that cluster's transaction ids, which this cluster will use as well.
pub(super) async fn origin(client: &Client) -> Examined {
    const SUBJECT: &str = "origin of rows";
    client.batch_execute(&format!("begin; {}", restored::BY_THE_INDEX)).await?;
    let asked = client.query_one(restored::ARE_THERE, &[]).await;
    client.batch_execute("rollback").await?;
    let foreign: bool = asked?.get(0);
    Ok(if foreign {
        Finding::warning(
            SUBJECT,
            "rows were restored from another cluster, and their transactions may be mistaken for \
             transactions of this one",
            "Run `event-piper migrate` as the tables' owner: it marks these rows as old.",
        )
    } else {
        Finding::ok(SUBJECT, "written in this cluster")
    })
}

pub(super) async fn append_only(client: &Client) -> Examined {
    const SUBJECT: &str = "append-only";
    let off: String = client.query_one(GUARDS_OFF, &[]).await?.get(0);
    Ok(if off.is_empty() {
        Finding::ok(SUBJECT, "guarded by triggers, and what is pruned is recorded")
    } else {
        Finding::warning(
            SUBJECT,
            format!("missing, or not always enabled: {off}; events can be deleted unnoticed"),
            "For each: alter table events enable always trigger ...; where it is missing, create \
             it as in postgresql/schema.sql.",
        )
    })
}

/// Without this trigger, a writer could claim to be another transaction, or forge the gateway's own events.
pub(super) async fn well_formed(client: &Client) -> Examined {
    const SUBJECT: &str = "rows";
    const ENABLE: &str = "alter table events enable always trigger events_well_formed;";
    let enabled: String = client.query_one(ADMITS, &[]).await?.get(0);
    Ok(match enabled.as_str() {
        "A" => Finding::ok(SUBJECT, "checked when they are written"),
        "O" => Finding::warning(SUBJECT, "not checked in replica sessions", ENABLE),
        "" => Finding::fatal(
            SUBJECT,
            "the trigger events_well_formed is not there: rows are not checked before they are delivered",
            "Create it as in postgresql/schema.sql.",
        ),
        _ => Finding::fatal(
            SUBJECT,
            "the trigger events_well_formed is disabled: rows are not checked before they are delivered",
            ENABLE,
        ),
    })
}

pub(super) async fn pruned(client: &Client) -> Examined {
    const SUBJECT: &str = "memory of pruning";
    let ahead: bool = client.query_one(PRUNED_AHEAD, &[]).await?.get(0);
    Ok(if ahead {
        Finding::warning(
            SUBJECT,
            "the record of pruned ids has ids that are still to come, because the sequence was restarted",
            "As the tables' owner: delete from events_pruned;",
        )
    } else {
        Finding::ok(SUBJECT, "agrees with the log")
    })
}

pub(super) async fn other_triggers(client: &Client) -> Examined {
    const SUBJECT: &str = "other triggers";
    let notifying: String = client.query_one(NOTIFYING_TRIGGERS, &[]).await?.get(0);
    Ok(if notifying.is_empty() {
        Finding::ok(SUBJECT, "none of them notifies")
    } else {
        Finding::warning(
            SUBJECT,
            format!("{notifying} also notifies, so writers commit only one after the other"),
            "Drop triggers whose notifications are not needed: drop trigger ... on events;",
        )
    })
}

/// Rows that are written without the doorbell can be passed over.
pub(super) async fn other_ways_in(client: &Client) -> Examined {
    const SUBJECT: &str = "other ways in";
    let row = client.query_one(OTHER_WAYS_IN, &[]).await?;
    Ok(match (row.get(0), row.get(1)) {
        (true, _) => Finding::fatal(
            SUBJECT,
            "a logical subscription writes to events without the doorbell: its rows arrive up to a second \
             late, and a row that comes after one with a greater id may be missed",
            "Take events out of the publication, or run the gateway on the publisher.",
        ),
        (_, true) => Finding::fatal(
            SUBJECT,
            "events has child tables, which can be written to without the doorbell",
            "alter table ... no inherit events; for each of them.",
        ),
        (false, false) => Finding::ok(SUBJECT, "none"),
    })
}

/// A rule rewrites statements before any trigger sees them.
pub(super) async fn rules(client: &Client) -> Examined {
    const SUBJECT: &str = "rules";
    let row = client.query_one(RULES, &[]).await?;
    let (instead, also): (String, String) = (row.get(0), row.get(1));
    Ok(if !instead.is_empty() {
        Finding::fatal(
            SUBJECT,
            format!("{instead} replaces statements by others"),
            "drop rule ... on events; use a trigger for its purpose.",
        )
    } else if !also.is_empty() {
        Finding::warning(
            SUBJECT,
            format!("with {also}, PostgreSQL refuses `on conflict`, which writing over HTTP uses"),
            "Replace it by a trigger, and drop rule ... on events;",
        )
    } else {
        Finding::ok(SUBJECT, "none")
    })
}

//! Roles that own a table of the log, or may create triggers and foreign keys on one.

use event_piper::store::{doctor::Severity, error::ErrorChain, migrate::migrate, server::Server};

use super::world::{
    CALLS, PARTITION, WORK, finding, login, owners_rights, partitioned_log, refusal, text,
};
use crate::{roles, support::postgres::Database};

/// The tables that the log's functions write. A trigger on one of them could run while such a function does.
const NOTES: [&str; 4] = ["events_pruned", "events_erased", "events_uids", "events_streams"];

/// The right comes from `grant all on all tables`, or from default privileges.
#[tokio::test]
async fn a_role_with_trigger_cannot_act_as_the_owner() {
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
        // An amendment writes to none of these tables.
        if at != 1 {
            let refused = ErrorChain(&done.expect_err(work)).to_string();
            assert!(refused.contains("another role could act as its owner"), "{work}: {refused}");
        }
    }
    assert_eq!(text(&client, CALLS).await, "");
    let server = Server::parse(&database.url()).unwrap();
    let grants = finding(&server, "grants").await;
    assert_eq!(grants.0, Severity::Warning);
    assert!(grants.1.contains("has TRIGGER on events_pruned"), "{grants:?}");
    assert!(grants.1.contains("has INSERT on event_piper_keys"), "{grants:?}");

    // The statements that doctor prints, and dropping the triggers, are sufficient.
    let drop = NOTES.map(|table| format!("drop trigger evil on {table};")).concat();
    client.batch_execute(&format!("{drop} {}", grants.2)).await.unwrap();
    assert_eq!(finding(&server, "grants").await.0, Severity::Ok);
    for work in WORK {
        client.batch_execute(work).await.unwrap_or_else(|error| panic!("{}", ErrorChain(&error)));
    }
}

/// A foreign key deletes rows of a table whose trigger then runs as the role that deletes.
#[tokio::test]
async fn a_role_with_references_cannot_act_as_the_owner() {
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
        let refused = ErrorChain(&done.unwrap_err()).to_string();
        assert!(refused.contains("another role could act as its owner"), "{refused}");
    }
    client.batch_execute("drop table own.f").await.unwrap();
    client.batch_execute(&version('1')).await.unwrap();
}

#[tokio::test]
async fn migrate_revokes_trigger_and_references() {
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

/// A superuser migrated the log, and then gave it to an ordinary role.
#[tokio::test]
async fn the_logs_owner_cannot_act_as_the_functions_owner() {
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
        app.batch_execute(work)
            .await
            .unwrap_or_else(|error| panic!("{work}: {}", ErrorChain(&error)));
    }
}

/// Partitions that were added before `roles.sql` ran, and partitions that are added afterwards.
#[tokio::test]
async fn roles_sql_gives_partitions_to_the_logs_owner() {
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
        client.batch_execute(work).await.unwrap_or_else(|error| panic!("{}", ErrorChain(&error)));
    }
}

//! Functions, operators, types and tables with the names of PostgreSQL's own, or of the log's.

use event_piper::store::error::ErrorChain;

use super::world::{CALLS, login, text, whole_log};

/// Objects with the names of PostgreSQL's own objects or of the log's tables. They are in a schema before
/// `pg_catalog` in the search path, and in the temporary schema, which comes before both.
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

/// All operations on a log. The statements themselves contain no name that an impostor could take over.
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
async fn objects_named_like_postgresqls_own_are_not_called() {
    for partitioned in [false, true] {
        let (database, client) = whole_log().await;
        client
            .batch_execute(IMPOSTORS)
            .await
            .unwrap_or_else(|error| panic!("{}", ErrorChain(&error)));
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
        // Also as the owner: the objects in its own temporary schema have no effect.
        for session in [attacker, database.connect().await] {
            session.batch_execute(TEMPORARY_IMPOSTORS).await.unwrap();
            session
                .batch_execute(LIFE)
                .await
                .unwrap_or_else(|error| panic!("{}", ErrorChain(&error)));
            assert_eq!(text(&client, CALLS).await, "");
            let kept = "select count(*) || ' ' || string_agg(distinct coalesce(subscriber, 'everybody'), ' ')
                from events_pruned";
            // Only a TRUNCATE of a table with rows writes the row for all subscribers.
            assert_eq!(text(&client, kept).await, "1 toto");
            let erased = "select string_agg(subscriber, ' ') from events_erased";
            assert_eq!(text(&client, erased).await, "toto");
            let bad = session.batch_execute(
                "insert into public.events (type, subscriber, payload) values ('$gap', 'toto', '1')",
            );
            assert!(ErrorChain(&bad.await.unwrap_err()).to_string().contains("type begins with $"));
            let clear =
                "delete from events_pruned; delete from events_erased; truncate mallory.calls;
                delete from events_uids; delete from events_streams";
            client.batch_execute(clear).await.unwrap();
        }
    }
}

-- Nobody but the owner of the log decides what its functions do with their owner's rights.
--
-- These functions read and write the tables of the log. Whoever owns such a table, or may create triggers on
-- it, decides what runs there. So an ordinary role could act as the owner of the functions in two ways:
--
--   * The functions belonged to another role than the table: a superuser had migrated, and then
--     `alter table events owner to app`.
--   * The role had the privilege TRIGGER or REFERENCES on a table that a function writes to, as `grant all
--     on all tables` gives them. (What a foreign key with ON DELETE CASCADE deletes may have triggers, too.)
--
-- From here on each function asks first whether it works with such a table, and refuses if so. This file
-- gives all of them to the owner of the log, and takes these privileges away.
--
-- An amendment is checked when it is inserted only: who erases events had to have the right to INSERT. And
-- `event_piper.prune`, which anybody may set, spares nobody the check but those who may give an xid.
--
-- The tables that remember what was pruned and erased get a replica identity. Without one, PostgreSQL refuses
-- to prune or erase for the second time while there is a publication for all tables.
--
-- `event-piper migrate` applies this file again after a schema was renamed or an owner was changed.
do $migration$
declare
    outside constant text := pg_catalog.current_setting('search_path');
    home    name;
    schema  oid;
    -- The owner of the log.
    keeper  oid;
    made    record;
    body    text;
begin
    select n.nspname, n.oid, c.relowner
      into strict home, schema, keeper
      from pg_catalog.pg_class c
      join pg_catalog.pg_namespace n on n.oid operator(pg_catalog.=) c.relnamespace
     where c.oid operator(pg_catalog.=) pg_catalog.to_regclass('events');
    -- Nothing that is not PostgreSQL's own has a say in what follows.
    perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);

    for made in
        select format('table %s', c.oid::regclass) as name, c.relowner as owner
          from pg_class c
         where c.relnamespace = schema and c.relkind in ('r', 'p')
           and c.relname in ('events_pruned', 'events_erased', 'events_uids', 'events_streams',
                             'event_piper_amending')
        union all
        select format('function %s', p.oid::regprocedure), p.proowner
          from pg_proc p
         where p.pronamespace = schema and starts_with(p.proname::text, 'event_piper_') and p.prokind = 'f'
    loop
        if made.owner <> keeper and not pg_has_role(made.owner, keeper, 'member') then
            raise exception using
                errcode = 'EP002',
                message = format('the %s belongs to %s, and the log to %s', made.name,
                                 made.owner::regrole, keeper::regrole),
                hint = format('Find out who made it. If it is right: alter %s owner to %s;',
                              made.name, keeper::regrole);
        elsif made.owner <> keeper then
            begin
                execute format('alter %s owner to %s', made.name, keeper::regrole);
            exception when insufficient_privilege then
                raise exception using
                    errcode = 'EP002',
                    message = format('the %1$s belongs to %2$s, and the log to %3$s, which could act as %2$s',
                                     made.name, made.owner::regrole, keeper::regrole),
                    hint = 'Run event-piper migrate once as a superuser.';
            end;
        end if;
    end loop;

    for made in
        select c.oid::regclass as name, case given.grantee when 0 then 'public'
                                             else given.grantee::regrole::text end as grantee,
               given.privilege_type as privilege
          from pg_class c, aclexplode(c.relacl) given
         where c.relnamespace = schema and c.relkind in ('r', 'p') and given.grantee <> c.relowner
           and given.privilege_type in ('TRIGGER', 'REFERENCES')
           and c.relname in ('events_pruned', 'events_erased', 'events_uids', 'events_streams',
                             'event_piper_amending', 'event_piper_keys')
    loop
        execute format('revoke %s on %s from %s cascade', made.privilege, made.name, made.grantee);
    end loop;

    for made in
        select p.proname as name, p.prosrc as body,
               (select string_agg(format('%L::regclass', format('%I.%I', home, its)), ', ')
                  from unnest(known.tables) its) as tables
          from pg_proc p
          join (values
                   ('event_piper_check_amendment', array['events', 'event_piper_amending']),
                   ('event_piper_remember_deleted', array['events', 'events_pruned']),
                   ('event_piper_remember_truncated', array['events', 'events_pruned']),
                   ('event_piper_remember_changed', array['events', 'events_erased']),
                   ('event_piper_once', array['events', 'events_uids', 'events_streams'])
               ) known (name, tables) on known.name = p.proname
         where p.pronamespace = schema and position('relhastriggers' in p.prosrc) = 0
    loop
        -- Behind the question for which table it is called.
        body := regexp_replace(made.body, E'\n    end if;\n', replace(format($guard$
    end if;
    -- Whoever owns one of these tables, a function that a trigger of them calls, or a table with a foreign
    -- key on them, decides what runs here.
    if exists (select from pg_class c
                where c.oid in (%1$s)
                  and (not pg_has_role(c.relowner, current_user, 'member')
                       or c.relhastriggers and c.relname <> 'events' and exists (
                              select from pg_trigger t
                                left join pg_proc p on p.oid = t.tgfoid and not t.tgisinternal
                                left join pg_class f on f.oid = t.tgconstrrelid and t.tgisinternal
                               where t.tgrelid = c.oid
                                 and not pg_has_role(coalesce(p.proowner, f.relowner), current_user,
                                                     'member'))))
    then
        raise exception using
            errcode = 'insufficient_privilege',
            message = '%2$s() refuses to work: by a table of the log that it uses, or a trigger of that '
                || 'table, another role could act as its owner',
            hint = 'Drop triggers and foreign keys of others on this table. If the log belongs to another role than its '
                || 'functions, run event-piper migrate as a superuser.';
    end if;
$guard$,
            made.tables, made.name), E'\\', E'\\\\'));
        if body = made.body then
            raise exception 'the function % is not the one that this program makes', made.name;
        end if;
        if made.name = 'event_piper_check_amendment' then
            -- Whoever has changed to another role writes with the rights of that role.
            body := replace(body, 'if has_any_column_privilege(session_user, ', $may$if (
            has_any_column_privilege(session_user, {log}, 'INSERT')
            or current_setting('role') <> 'none'
               and has_any_column_privilege(current_setting('role')::name, $may$);
            body := replace(body, $was$, 'INSERT') is not true then$was$,
                            $is$, 'INSERT')) is not true then$is$);
            -- Whoever may give a row its xid loads rows from elsewhere, in any order. Writers may not, and
            -- cannot do without the check by a setting.
            body := replace(body, $was$if current_setting('event_piper.prune', true) = 'on' then$was$,
                            $is$if current_setting('event_piper.prune', true) = 'on' and (
            has_column_privilege(session_user, {log}, 'xid', 'INSERT')
            or current_setting('role') <> 'none'
               and has_column_privilege(current_setting('role')::name, {log}, 'xid', 'INSERT'))
    then$is$);
            body := replace(body, '{log}', quote_literal(format('%I.events', home)));
        end if;
        execute format('create or replace function %I.%I() returns trigger language plpgsql '
                       'security definer set search_path = pg_catalog, pg_temp as %L',
                       home, made.name, body);
    end loop;

    -- What is changed later was right when it was written. Whoever erases needs no right to INSERT.
    select p.prosrc into strict body
      from pg_proc p where p.pronamespace = schema and p.proname = 'event_piper_admit';
    execute format('create or replace function %I.event_piper_admit() returns trigger language plpgsql as %L',
                   home, replace(body, 'if new.amends is not null then',
                                 $is$if new.amends is not null and tg_op operator(pg_catalog.=) 'INSERT' then$is$));

    execute format('alter table %I.events_pruned replica identity full', home);
    execute format('alter table %I.events_erased replica identity full', home);
    perform set_config('search_path', outside, true);
end
$migration$;

-- What runs in other people's sessions means the same in each of them, and each log has locks of its own.
--
-- A session may put operators, functions and types of its own before PostgreSQL's, by its search_path. So
-- the functions that run with a writer's rights name the schema of everything that they use. That costs
-- nothing; a search_path of the functions themselves would cost an INSERT 26 thousand instructions beside 174.
--
-- The doorbell's locks belonged to the database. Where it has several logs, each in a schema of its own,
-- their writers and readers waited for each other, and only one of their pumps ran. From here on the first
-- integer of the locks is the log's: 17744 for the first log of a database, as before, and a number made
-- of the schema's name for others. It stands in the doorbell's function, where readers look it up.
--
-- Nothing changes for a database with one log.
--
-- Rows that logical replication brings bear the transactions of the server that they come from, and were
-- refused. They get the transaction that writes them here.
--
-- This file can be applied again.
do $migration$
declare
    outside constant text := pg_catalog.current_setting('search_path');
    -- Where the number of a log's locks stands in its doorbell.
    place   constant text := 'try_advisory_xact_lock_shared[(]([0-9]+), 1[)]';
    log     oid;
    home    name;
    schema  oid;
    locks   int;
    made    record;
    readers text;
begin
    select c.oid, n.nspname, n.oid
      into strict log, home, schema
      from pg_catalog.pg_class c
      join pg_catalog.pg_namespace n on n.oid operator(pg_catalog.=) c.relnamespace
     where c.oid operator(pg_catalog.=) pg_catalog.to_regclass('events');
    -- Nothing that is not PostgreSQL's own has a say in what follows.
    perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);

    -- Two logs that choose at the same time choose one after the other.
    perform pg_advisory_xact_lock(17744, 7);
    select substring(prosrc from place)::int into locks
      from pg_proc where pronamespace = schema and proname = 'event_piper_doorbell';
    locks := coalesce(locks, 17744);
    if exists (select from pg_proc
                where proname = 'event_piper_doorbell' and pronamespace <> schema
                  and substring(prosrc from place)::int8 = locks)
    then
        -- Writers that hold the locks of before have ended when this is had.
        execute format('lock table %I.events in share row exclusive mode', home);
        -- Readers that look at the locks of before would pass over rows.
        select string_agg(pid::text, ', ' order by pid) into readers
          from pg_locks
         where locktype = 'advisory' and objsubid = 2
           and (classid::int8 = locks and objid = 4 or classid::int8 = locks + 1)
           and database = (select oid from pg_database where datname = current_database());
        if readers is not null
           and pg_sequence_last_value(pg_get_serial_sequence(format('%I.events', home), 'id')::regclass)
               is not null
        then
            raise exception using
                errcode = 'EP003',
                message = format('gateways or pumps are connected to this database (backends %s)', readers),
                hint = 'This log gets locks of its own, beside those of another log in the database. Stop '
                    || 'all gateways of this database, run event-piper migrate, and start them again.';
        end if;
        -- Even, since the number behind it is that of the pumps' locks.
        locks := hashtext(home) & 2147483646;
    end if;

    for made in
        select * from (values
('event_piper_doorbell', $doorbell$
declare
    -- The transaction has its id before it has a lock: readers look for both.
    writer constant pg_catalog.xid8 not null := pg_catalog.pg_current_xact_id();
begin
    if not pg_catalog.pg_try_advisory_xact_lock_shared({locks}, 1) then
        perform pg_catalog.pg_advisory_xact_lock_shared({locks}, 2);
        -- PREPARE TRANSACTION does not allow NOTIFY. Who needs it says
        -- `set event_piper.bell = 'off'`; readers then find the event within a second.
        if (pg_catalog.current_setting('event_piper.bell', true) operator(pg_catalog.=) 'off') is not true
        then
            perform pg_catalog.pg_notify('new_events', '');
        end if;
    end if;
    return null;
end
$doorbell$),
('event_piper_append_only', $append_only$
begin
    if (pg_catalog.current_setting('event_piper.prune', true) operator(pg_catalog.=) 'on') is not true then
        raise exception using
            errcode = 'object_not_in_prerequisite_state',
            message = pg_catalog.format('%I is append-only: %s was refused', tg_table_name, tg_op),
            hint = 'To prune on purpose: begin; set local event_piper.prune = ''on''; ... commit;';
    end if;
    return null;
end
$append_only$),
('event_piper_replicated', $replicated$
begin
    if pg_catalog.current_setting('session_replication_role') operator(pg_catalog.=) 'replica'
       and (pg_catalog.current_setting('event_piper.prune', true) operator(pg_catalog.=) 'on') is not true
    then
        new.xid := pg_catalog.pg_current_xact_id();
    end if;
    return new;
end
$replicated$)
        ) function (name, body)
    loop
        execute format('create or replace function %I.%I() returns trigger language plpgsql as %L',
                       home, made.name, replace(made.body, '{locks}', locks::text));
    end loop;

    -- It fires in sessions with session_replication_role = replica only, and so costs others nothing; and
    -- before events_well_formed, by its name.
    if not exists (select from pg_trigger where tgrelid = log and tgname = 'events_replicated') then
        execute format('create trigger events_replicated before insert or update on %I.events '
                       'for each row execute function %1$I.event_piper_replicated()', home);
        execute format('alter table %I.events enable replica trigger events_replicated', home);
    end if;
    perform set_config('search_path', outside, true);
end
$migration$;

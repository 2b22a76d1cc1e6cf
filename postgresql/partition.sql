-- Partitions, for logs of billions of events. An old partition is detached as a whole, in a moment, instead
-- of deleting its rows. Below some hundred million events, `event-piper prune` is sufficient.
--
--     psql -f partition.sql events                       -- creates these procedures, and nothing else
--     call event_piper_prepare_partitions(100000000);    -- takes long; blocks no one
--     call event_piper_partition();                      -- takes a moment; blocks everyone
--     call event_piper_add_partitions(3);                -- run it regularly from then on, e.g. daily
--     call event_piper_detach_partition('events_before_100000000');
--
-- Run these as the tables' owner, in their schema, in a session of their own (`call` outside of a
-- transaction). Each step can be repeated after it was interrupted or has timed out waiting for a lock.
--
-- A partitioned table has no unique index across its partitions. From the second of these lines on, writers
-- therefore see the following changes:
--
--   * Two small tables enforce uniqueness: events_uids has each uid, events_streams has the last version of
--     each stream. A trigger checks them before each row with a uid or a stream, which costs such a row
--     about as much again as its former indexes.
--   * The versions of a stream must increase.
--   * PostgreSQL refuses `on conflict (uid) do nothing`. Use `set event_piper.twice = 'skip'` in the
--     session instead: then rows that exist already are skipped, with or without `on conflict do nothing`.
--     Without this setting, a duplicate is the same error as before (23505, events_uid or
--     events_stream_version).
--   * Do not write to a partition directly; writers have no right to do so.

create table if not exists events_uids (
    uid uuid primary key
);
create table if not exists events_streams (
    stream  text primary key,
    version bigint not null
);
create table if not exists events_partitions (
    -- The number of ids in one partition.
    size bigint not null check (size > 0)
);

-- The function runs with its owner's rights, so that a writer needs only INSERT on events. The schema is
-- part of its body, and it refuses to work for any other table than the log.
do $make_once$
declare
    outside constant text := pg_catalog.current_setting('search_path');
    log     oid;
    home    name;
    schema  oid;
    keeper  oid;
    foreign_one text;
    its     record;
begin
    select c.oid, n.nspname, n.oid, c.relowner
      into strict log, home, schema, keeper
      from pg_catalog.pg_class c
      join pg_catalog.pg_namespace n on n.oid operator(pg_catalog.=) c.relnamespace
     where c.oid operator(pg_catalog.=) pg_catalog.to_regclass('events');
    -- Nothing that is not PostgreSQL's own has a say in what follows.
    perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    -- Whoever owns a table can attach triggers to it, which would run with the rights of this function.
    select format('%s of %s', c.oid::regclass, c.relowner::regrole) into foreign_one
      from pg_class c
     where c.relnamespace = schema and c.relname in ('events_uids', 'events_streams', 'events_partitions')
       and c.relowner <> keeper and not pg_has_role(c.relowner, keeper, 'member');
    if foreign_one is not null then
        raise exception 'there is a table % already, and the log belongs to %', foreign_one, keeper::regrole
            using hint = 'Find out who made it, and drop it or change its owner.';
    end if;
    execute format(
        'create or replace function %I.event_piper_once() returns trigger language plpgsql '
        'security definer set search_path = pg_catalog, pg_temp as %L', home,
        replace(replace(replace(replace($once$
-- Written once, in a log that is partitioned: asks, and notes, in one step that waits for whoever is
-- writing the same just now. With the rights of the owner, so that a writer needs INSERT on events only.
declare
    twice text;
    noted bigint;
begin
    if coalesce(pg_partition_root(tg_relid), tg_relid) is distinct from to_regclass({log}) then
        raise exception using
            errcode = 'object_not_in_prerequisite_state',
            message = format('event_piper_once() works for %s only', {log}),
            hint = 'After a schema was renamed, run event-piper migrate.';
    end if;
    -- Whoever owns one of these tables, a function that a trigger of them calls, or a table with a foreign
    -- key on them, decides what runs here.
    if exists (select from pg_class c
                where c.oid in ({log}::regclass, {uids}::regclass, {streams}::regclass)
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
            message = 'event_piper_once() refuses to work: by a table of the log that it uses, or a trigger '
                || 'of that table, another role could act as its owner',
            hint = 'Drop triggers and foreign keys of others on this table. If the log belongs to another role than its '
                || 'functions, run event-piper migrate as a superuser.';
    end if;
    if new.uid is not null then
        insert into {schema}.events_uids (uid) values (new.uid) on conflict do nothing;
        get diagnostics noted = row_count;
        if noted = 0 then
            twice := 'events_uid';
        end if;
    end if;
    if twice is null and new.stream is not null then
        insert into {schema}.events_streams as known (stream, version) values (new.stream, new.version)
            on conflict (stream) do update
           set version = excluded.version where known.version < excluded.version;
        get diagnostics noted = row_count;
        if noted = 0 then
            twice := 'events_stream_version';
            if new.uid is not null then
                delete from {schema}.events_uids known where known.uid = new.uid;
            end if;
        end if;
    end if;
    if twice is null then
        return new;
    end if;
    if current_setting('event_piper.twice', true) = 'skip' then
        return null;
    end if;
    raise exception using
        errcode = 'unique_violation', constraint = twice,
        message = case twice
            when 'events_uid' then format('uid %s was written already', new.uid)
            else format('version %s of stream %s was written already, or a later one',
                        new.version, new.stream)
        end,
        hint = 'To have it skipped: set event_piper.twice = ''skip''.';
end
$once$,
            '{schema}', quote_ident(home)),
            '{log}', quote_literal(format('%I.events', home))),
            '{uids}', quote_literal(format('%I.events_uids', home))),
            '{streams}', quote_literal(format('%I.events_streams', home))));
    execute format('revoke execute on function %I.event_piper_once() from public', home);
    execute format('grant execute on function %I.event_piper_once() to %s', home, keeper::regrole);
    -- All of it belongs to the owner of the log, also where a superuser runs this.
    execute format('alter function %I.event_piper_once() owner to %s', home, keeper::regrole);
    for its in
        select c.oid::regclass as name from pg_class c
         where c.relnamespace = schema and c.relowner <> keeper
           and c.relname in ('events_uids', 'events_streams', 'events_partitions')
    loop
        execute format('alter table %s owner to %s', its.name, keeper::regrole);
    end loop;
    -- What default privileges have granted.
    for its in
        select c.oid::regclass as name, case given.grantee when 0 then 'public'
                                            else given.grantee::regrole::text end as grantee,
               given.privilege_type as privilege
          from pg_class c, aclexplode(c.relacl) given
         where c.relnamespace = schema and given.grantee <> keeper
           and given.privilege_type in ('TRIGGER', 'REFERENCES')
           and c.relname in ('events_uids', 'events_streams')
    loop
        execute format('revoke %s on %s from %s cascade', its.privilege, its.name, its.grantee);
    end loop;
    perform set_config('search_path', outside, true);
end
$make_once$;

-- Prepares the partitions while readers and writers continue. The existing table becomes the first partition,
-- for ids up to a bound that is one to two partitions away. Call event_piper_partition before writers reach
-- the bound: beyond it, their rows are refused.
create or replace procedure event_piper_prepare_partitions(ids_each bigint)
language plpgsql as $prepare$
declare
    top   bigint;
    place bigint := 0;
    upper bigint;
begin
    if (select relkind from pg_class where oid = 'events'::regclass) = 'p' then
        raise exception 'events is partitioned already';
    end if;
    insert into events_partitions select ids_each where not exists (select from events_partitions);
    if not exists (select from pg_trigger
                   where tgrelid = 'events'::regclass and tgname = 'events_once') then
        perform set_config('lock_timeout', '5s', true);
        create trigger events_once before insert on events
            for each row when (new.uid is not null or new.stream is not null)
            execute function event_piper_once();
        alter table events enable always trigger events_once;
    end if;
    commit;

    -- What is written from here on, the trigger notes; the rest is noted here, bit by bit.
    select coalesce(max(id), 0) into top from events;
    while place < top loop
        select max(id) into upper
          from (select id from events where id > place order by id limit 20000) page;
        insert into events_uids
        select uid from events where id > place and id <= upper and uid is not null order by uid
            on conflict do nothing;
        insert into events_streams as known
        select stream, max(version) from events
         where id > place and id <= upper and stream is not null group by stream order by stream
            on conflict (stream) do update set version = greatest(known.version, excluded.version);
        place := upper;
        commit;
    end loop;

    -- Known beforehand, the bound need not be looked up in every row when everybody waits.
    if not exists (select from pg_constraint
                   where conrelid = 'events'::regclass and conname = 'events_first_partition') then
        select (coalesce(pg_sequence_last_value(pg_get_serial_sequence('events', 'id')::regclass), 0)
                / size + 2) * size
          into upper from events_partitions;
        perform set_config('lock_timeout', '5s', true);
        execute format('alter table events add constraint events_first_partition '
                       'check (id < %s) not valid', upper);
        commit;
    end if;
    alter table events validate constraint events_first_partition;
end
$prepare$;

-- Replaces the table with the partitioned one, atomically. Readers and writers are blocked for a moment.
create or replace procedure event_piper_partition()
language plpgsql as $partition$
declare
    own       constant name := (
        select rolname from pg_class join pg_roles on pg_roles.oid = relowner
         where pg_class.oid = 'events'::regclass);
    sequence  constant text := pg_get_serial_sequence('events', 'id');
    upper     constant bigint := (
        select (regexp_match(pg_get_constraintdef(oid), '[0-9]+'))[1] from pg_constraint
         where conrelid = 'events'::regclass and conname = 'events_first_partition' and convalidated);
    first     constant text := 'events_before_' || upper;
    was       oid;
    last_id   bigint;
    grants    text[];
    receivers text[];
    triggers  text[];
    enabled   text[];
    again     text;
begin
    if upper is null then
        raise exception 'call event_piper_prepare_partitions first, to its end';
    end if;
    perform set_config('lock_timeout', '5s', true);
    lock table events in access exclusive mode;
    was := 'events'::regclass;

    select array_agg(format('grant %s%s on %s to %s%s', privilege_type, of_column, thing, receiver,
                            case when is_grantable then ' with grant option' else '' end)),
           array_agg(distinct receiver) filter (where receiver <> quote_ident(own))
      into grants, receivers
      from (select acl.*, '' as of_column, 'events' as thing
              from pg_class, aclexplode(relacl) acl where oid = was
            union all
            select acl.*, '', 'sequence ' || sequence
              from pg_class, aclexplode(relacl) acl where oid = sequence::regclass
            union all
            select acl.*, format(' (%I)', attname), 'events'
              from pg_attribute, aclexplode(attacl) acl where attrelid = was) given,
           lateral (select case grantee when 0 then 'public'
                                else quote_ident(pg_get_userbyid(grantee)) end) to_whom(receiver);
    -- What fires for each row is inherited by the partitions; what fires for each statement fires at
    -- the table that the statement names, so that both have it.
    select array_agg(pg_get_triggerdef(oid)),
           array_agg(format('alter table events %s trigger %I',
                            case tgenabled when 'A' then 'enable always' when 'R' then 'enable replica'
                                           when 'D' then 'disable' else 'enable' end, tgname))
      into triggers, enabled
      from pg_trigger where tgrelid = was and not tgisinternal;
    drop trigger events_once on events;
    drop trigger events_replicated on events;
    drop trigger events_well_formed on events;

    last_id := coalesce(pg_sequence_last_value(sequence::regclass), 0);
    alter table events alter id drop identity;
    execute format('alter table events rename to %I', first);
    alter index events_pkey rename to events_before_pkey;
    alter index events_xid rename to events_before_xid;
    alter index events_subscriber_id rename to events_before_subscriber_id;
    alter index events_amends rename to events_before_amends;
    -- These stay with the first partition alone.
    alter index events_stream_version rename to events_before_stream_version;
    alter index events_uid rename to events_before_uid;

    execute format('create table events (like %I including defaults including comments) '
                   'partition by range (id)', first);
    execute format('comment on table events is %L', obj_description(was, 'pg_class'));
    execute format('alter table events owner to %I', own);
    execute format('alter table events alter id add generated always as identity '
                   '(sequence name %s)', sequence);
    perform setval(sequence, last_id) where last_id > 0;
    alter table events add primary key (id);
    create index events_xid on events using brin ((xid::text::bigint))
        with (pages_per_range = 32, autosummarize = on);
    create index events_subscriber_id on events (subscriber, id) where subscriber is not null;
    create index events_amends on events (amends, id) where amends is not null;
    execute format('alter table events attach partition %I for values from (minvalue) to (%s)',
                   first, upper);
    execute format('alter table %I drop constraint events_first_partition', first);
    foreach again in array triggers loop
        execute again;
    end loop;
    foreach again in array enabled loop
        execute again;
    end loop;
    foreach again in array coalesce(grants, '{}') loop
        execute again;
    end loop;
    foreach again in array coalesce(receivers, '{}') loop
        execute format('revoke all on %I from %s', first, again);
    end loop;
end
$partition$;

-- Creates partitions, so that this many exist beyond the one that writers fill. An event without a partition is
-- refused, so create them in advance, and monitor that this procedure runs.
create or replace procedure event_piper_add_partitions(ahead int)
language plpgsql as $add$
declare
    size constant bigint := (select s.size from events_partitions s);
    place constant bigint := coalesce(
        pg_sequence_last_value(pg_get_serial_sequence('events', 'id')::regclass), 0);
    own   constant text := (select relowner::regrole from pg_class where oid = 'events'::regclass);
    top   bigint;
    name  text;
begin
    perform set_config('lock_timeout', '5s', true);
    loop
        select max((regexp_match(pg_get_expr(relpartbound, oid), 'TO [(]''?([0-9]+)''?[)]'))[1]::bigint)
          into top
          from pg_class join pg_inherits on inhrelid = oid where inhparent = 'events'::regclass;
        exit when top > place + ahead * size;
        -- Made beside the table, and then attached: so nobody waits.
        name := 'events_before_' || top + size;
        execute format('create table %I (like events including all excluding identity)', name);
        execute format('alter table %I owner to %s', name, own);
        execute format('create index on %I (stream, version) where stream is not null', name);
        execute format('create index on %I (uid) where uid is not null', name);
        execute format('create trigger events_append_only before update or delete on %I '
                       'for each statement execute function event_piper_append_only()', name);
        execute format('create trigger events_append_only_truncate before truncate on %I '
                       'for each statement execute function event_piper_append_only()', name);
        execute format('alter table events attach partition %I for values from (%s) to (%s)',
                       name, top, top + size);
    end loop;
end
$add$;

-- Detaches a partition. Its events stay in a separate table, which can be archived or dropped. The detached ids
-- are recorded first, so that clients that need them get `$gap`.
create or replace procedure event_piper_detach_partition(partition regclass)
language plpgsql as $detach$
begin
    if not exists (select from pg_inherits
                   where inhparent = 'events'::regclass and inhrelid = partition) then
        raise exception '% is no partition of events', partition;
    end if;
    execute format(
        'insert into events_pruned as known (subscriber, upto) '
        'select coalesce(subscriber, ''''), max(id) from %s group by 1 order by 1 '
        'on conflict (subscriber) do update '
        'set upto = greatest(known.upto, excluded.upto), pruned_at = excluded.pruned_at', partition);
    commit;
    perform set_config('lock_timeout', '5s', true);
    execute format('alter table events detach partition %s', partition);
    commit;
    -- A stream that has no event left begins anew, and so may a uid.
    execute format('delete from events_uids where uid in (select uid from %s where uid is not null)',
                   partition);
    execute format(
        'delete from events_streams gone where stream in (select stream from %s) '
        'and not exists (select from events where events.stream = gone.stream)', partition);
end
$detach$;

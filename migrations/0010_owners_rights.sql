-- Functions that run with their owner's rights name every table in full, and take none from their caller.
--
-- Until now they took the schema of the table that they were called for. Any login of the database could
-- attach them to a table of its own, or call event_piper_amends with one, and so have SQL of its own
-- executed with the owner's rights.
--
-- From here on the schema is written into each function when it is made, each refuses to work for another
-- table than the log, and EXECUTE is revoked from PUBLIC. (A trigger fires without it.)
--
-- This file can be applied again. `event-piper migrate` does so after the schema was renamed.
do $migration$
declare
    outside constant text := pg_catalog.current_setting('search_path');
    -- The log, its schema, and its owner.
    log     oid;
    home    name;
    schema  oid;
    keeper  oid;
    made    record;
    several boolean;
begin
    select c.oid, n.nspname, n.oid, c.relowner
      into strict log, home, schema, keeper
      from pg_catalog.pg_class c
      join pg_catalog.pg_namespace n on n.oid operator(pg_catalog.=) c.relnamespace
     where c.oid operator(pg_catalog.=) pg_catalog.to_regclass('events');
    -- Nothing that is not PostgreSQL's own has a say in what follows.
    perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);

    -- An amendment is checked with the owner's rights, because a writer may have the right to INSERT
    -- only. The trigger of the log inserts it here, and the trigger of this table checks it. So nobody
    -- needs EXECUTE on anything, and writers of other events pay nothing.
    execute format(
        'create table if not exists %I.event_piper_amending ('
        'amends bigint, id bigint, subscriber text, stream text, payload jsonb)', home);
    execute format(
        'comment on table %I.event_piper_amending is '
        '''EventPiper: checks amendments as they are written; it never holds a row''', home);

    for made in
        select * from (values
('event_piper_admit', '', $admit$
-- What a row must be. It first asks whether all is well, of events without a stream and of those with one,
-- and looks for words only if not. Each function that a condition calls costs writers more to set up, once
-- a transaction, than to call.
--
-- A name is one line, not empty, without control characters (Unicode's Cc), and no longer than fits into an
-- index for certain.
--
-- It runs with the rights and the settings of whoever writes. Therefore it names the schema of everything
-- that it uses, and has no backslash in a string.
declare
    refused pg_catalog.text;
begin
    if new.stream is null and new.version is null and new.amends is null
       and new.type operator(pg_catalog.!~) '^$|^[$]|[[:cntrl:]]'
       and pg_catalog.octet_length(new.type) operator(pg_catalog.<=) 1024
       and new.subscriber operator(pg_catalog.!~) '^$|[[:cntrl:]]'
       and pg_catalog.octet_length(new.subscriber) operator(pg_catalog.<=) 1024
       and new.xid operator(pg_catalog.=) pg_catalog.pg_current_xact_id()
    then
        return new;
    elsif new.version operator(pg_catalog.>=) 1 and new.amends is null
       and new.type operator(pg_catalog.!~) '^$|^[$]|[[:cntrl:]]'
       and pg_catalog.octet_length(new.type) operator(pg_catalog.<=) 1024
       and (new.subscriber is null
            or new.subscriber operator(pg_catalog.!~) '^$|[[:cntrl:]]'
               and pg_catalog.octet_length(new.subscriber) operator(pg_catalog.<=) 1024)
       and new.stream operator(pg_catalog.!~) '^$|[[:cntrl:]]'
       and pg_catalog.octet_length(new.stream) operator(pg_catalog.<=) 1024
       and new.xid operator(pg_catalog.=) pg_catalog.pg_current_xact_id()
    then
        return new;
    end if;

    refused := case
        when new.type operator(pg_catalog.=) '' then 'type is empty'
        when new.subscriber operator(pg_catalog.=) '' then 'subscriber is empty'
        when new.stream operator(pg_catalog.=) '' then 'stream is empty'
        when new.type operator(pg_catalog.~) '^[$]'
            then 'type begins with $: such names are the gateway''s own'
        when new.type operator(pg_catalog.~) '[[:cntrl:]]' then 'type contains a control character'
        when new.subscriber operator(pg_catalog.~) '[[:cntrl:]]'
            then 'subscriber contains a control character'
        when new.stream operator(pg_catalog.~) '[[:cntrl:]]' then 'stream contains a control character'
        when pg_catalog.octet_length(new.type) operator(pg_catalog.>) 1024
            then 'type is longer than 1024 bytes'
        when pg_catalog.octet_length(new.subscriber) operator(pg_catalog.>) 1024
            then 'subscriber is longer than 1024 bytes'
        when pg_catalog.octet_length(new.stream) operator(pg_catalog.>) 1024
            then 'stream is longer than 1024 bytes'
        when (new.stream is null) operator(pg_catalog.<>) (new.version is null)
            then 'stream and version belong together'
        when new.stream is null and new.subscriber is null
            then 'neither subscriber nor stream is given'
        when new.version operator(pg_catalog.<) 1 then 'version counts from 1'
        -- Whoever loads rows from elsewhere, or corrects one, says so as for pruning (see append-only).
        -- roles.sql keeps writers from giving an xid at all.
        when new.xid operator(pg_catalog.<>) pg_catalog.pg_current_xact_id()
             and (pg_catalog.current_setting('event_piper.prune', true)
                  operator(pg_catalog.=) 'on') is not true
        then 'xid is given by the database, not by the writer'
    end;
    if refused is not null then
        raise exception using
            errcode = 'check_violation', constraint = 'events_well_formed',
            message = pg_catalog.format('refused this event: %s', refused);
    end if;
    if new.amends is not null then
        if (coalesce(pg_catalog.pg_partition_root(tg_relid)::pg_catalog.oid, tg_relid)
            operator(pg_catalog.=) pg_catalog.to_regclass({log})::pg_catalog.oid) is not true
        then
            raise exception using
                errcode = 'object_not_in_prerequisite_state',
                message = pg_catalog.format('event_piper_admit() works for %s only', {log}),
                hint = 'After a schema was renamed, run event-piper migrate.';
        end if;
        insert into {schema}.event_piper_amending (amends, id, subscriber, stream, payload)
        values (new.amends, new.id, new.subscriber, new.stream, new.payload);
    end if;
    return new;
end
$admit$),
('event_piper_check_amendment', 'security definer set search_path = pg_catalog, pg_temp', $amendment$
-- What an amendment must be. Being volatile, it sees what the same statement has written so far.
declare
    target  record;
    refused text;
begin
    if tg_relid is distinct from to_regclass({amending}) then
        raise exception using
            errcode = 'object_not_in_prerequisite_state',
            message = format('event_piper_check_amendment() works for %s only', {amending}),
            hint = 'After a schema was renamed, run event-piper migrate.';
    end if;
    -- Everybody may INSERT here, and what is answered tells of an event. So it is answered only in a
    -- session that may write events: its user may, or it has drawn an id. (A function of somebody who
    -- may write can do that for a user who may not.)
    if has_any_column_privilege(session_user, {log}, 'INSERT') is not true then
        begin
            perform currval(pg_get_serial_sequence({log}, 'id')::regclass);
        exception when object_not_in_prerequisite_state then
            raise exception using
                errcode = 'insufficient_privilege',
                message = format('permission denied for table %s', {log});
        end;
    end if;
    -- What is corrected or erased later was right when it was written.
    if current_setting('event_piper.prune', true) = 'on' then
        return null;
    end if;

    select e.subscriber, e.stream, e.amends into target from {schema}.events e where e.id = new.amends;
    refused := case
        when not found or new.amends >= new.id then
            format('there is no earlier event %s to amend', new.amends)
        when target.amends is not null then
            format('event %s is an amendment itself: amend %s', new.amends, target.amends)
        when (target.subscriber = new.subscriber) is not true
             and (target.stream = new.stream) is not true then
            format('event %s is of another subscriber and another stream', new.amends)
        when jsonb_typeof(new.payload) = 'array' and exists (
                 select from jsonb_array_elements(new.payload) step
                 where not coalesce(
                     step ->> 'op' in ('add', 'remove', 'replace', 'move', 'copy', 'test')
                     and step ->> 'path' ~ '^(/.*)?$'
                     and (step ->> 'op' not in ('add', 'replace', 'test') or step ? 'value')
                     and (step ->> 'op' not in ('move', 'copy') or step ->> 'from' ~ '^(/.*)?$'),
                     false)) then
            'the payload is an array, and no JSON Patch (RFC 6902)'
    end;
    -- So that reading an event as corrected is bounded. Writers that are at it at the same moment may
    -- exceed it by as many as they are.
    if refused is null and (select count(*) from (select from {schema}.events e where e.amends = new.amends
                                                  limit 1001) known) >= 1000
    then
        refused := format('there are 1000 amendments of event %s', new.amends);
    end if;
    if refused is not null then
        raise exception using
            errcode = 'check_violation', constraint = 'events_amends_an_event',
            message = format('refused this amendment: %s', refused);
    end if;
    return null;
end
$amendment$),
('event_piper_remember_deleted', 'security definer set search_path = pg_catalog, pg_temp', $deleted$
-- In one order everywhere, so that sessions that prune at the same time cannot deadlock.
begin
    if coalesce(pg_partition_root(tg_relid), tg_relid) is distinct from to_regclass({log}) then
        raise exception using
            errcode = 'object_not_in_prerequisite_state',
            message = format('event_piper_remember_deleted() works for %s only', {log}),
            hint = 'After a schema was renamed, run event-piper migrate.';
    end if;
    insert into {schema}.events_pruned as known (subscriber, upto)
    select coalesce(gone.subscriber, ''), max(gone.id) from gone group by 1 order by 1
        on conflict (subscriber) do update
       set upto = greatest(known.upto, excluded.upto), pruned_at = excluded.pruned_at;
    return null;
end
$deleted$),
('event_piper_remember_truncated', 'security definer set search_path = pg_catalog, pg_temp', $truncated$
begin
    if coalesce(pg_partition_root(tg_relid), tg_relid) is distinct from to_regclass({log}) then
        raise exception using
            errcode = 'object_not_in_prerequisite_state',
            message = format('event_piper_remember_truncated() works for %s only', {log}),
            hint = 'After a schema was renamed, run event-piper migrate.';
    end if;
    insert into {schema}.events_pruned as known (subscriber, upto)
    select null, max(e.id) from {schema}.events e having max(e.id) is not null
        on conflict ((subscriber is null)) where subscriber is null do update
       set upto = greatest(known.upto, excluded.upto), pruned_at = excluded.pruned_at;
    return null;
end
$truncated$),
('event_piper_remember_changed', 'security definer set search_path = pg_catalog, pg_temp', $changed$
-- In one order everywhere, so that sessions that change rows at the same time cannot deadlock here.
begin
    if coalesce(pg_partition_root(tg_relid), tg_relid) is distinct from to_regclass({log}) then
        raise exception using
            errcode = 'object_not_in_prerequisite_state',
            message = format('event_piper_remember_changed() works for %s only', {log}),
            hint = 'After a schema was renamed, run event-piper migrate.';
    end if;
    insert into {schema}.events_erased as known (subscriber, upto)
    select coalesce(changed.subscriber, ''), max(changed.id)
      from (select was.subscriber, was.id from was
            union all select became.subscriber, became.id from became) changed
     group by 1 order by 1
        on conflict (subscriber) do update
       set upto = greatest(known.upto, excluded.upto), erased_at = excluded.erased_at,
           xid = excluded.xid;
    return null;
end
$changed$),
('event_piper_once', 'security definer set search_path = pg_catalog, pg_temp', $once$
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
$once$)
        ) function (name, rights, body)
        -- A log has the last one when partition.sql was run on it.
        where function.name <> 'event_piper_once'
           or to_regclass(format('%I.events_uids', home)) is not null
    loop
        execute format(
            'create or replace function %I.%I() returns trigger language plpgsql %s as %L',
            home, made.name, made.rights,
            replace(replace(replace(made.body,
                '{schema}', quote_ident(home)),
                '{log}', quote_literal(format('%I.events', home))),
                '{amending}', quote_literal(format('%I.event_piper_amending', home))));
    end loop;

    execute format('drop function if exists '
                   '%I.event_piper_amends(bigint, bigint, text, text, jsonb, oid)', home);
    if not exists (select from pg_trigger
                   where tgrelid = to_regclass(format('%I.event_piper_amending', home))
                     and tgname = 'event_piper_amending_check')
    then
        execute format('create trigger event_piper_amending_check before insert on '
                       '%I.event_piper_amending for each row execute function '
                       '%1$I.event_piper_check_amendment()', home);
    end if;
    -- In a session with session_replication_role = replica as well.
    execute format('alter table %I.event_piper_amending '
                   'enable always trigger event_piper_amending_check', home);
    execute format('grant insert on %I.event_piper_amending to public', home);

    -- Whoever owns a function can put another body into it, and whoever owns a table can attach triggers to
    -- it. So they belong to the owner of the log, or to a role that may act as this owner.
    select count(distinct c.relowner) > 1 into several
      from pg_class c
     where c.oid = log or c.relnamespace = schema and c.relname in (
               'events_pruned', 'events_erased', 'events_uids', 'events_streams');
    for made in
        select format('function %s', p.oid::regprocedure) as name, p.proowner as owner, not several as moves
          from pg_proc p
         where p.pronamespace = schema and starts_with(p.proname::text, 'event_piper_') and p.prokind = 'f'
        union all
        select format('table %s', c.oid::regclass), c.relowner, c.relname = 'event_piper_amending'
          from pg_class c
         where c.relnamespace = schema and c.relkind in ('r', 'p')
           and (starts_with(c.relname::text, 'event_piper_')
                or c.relname in ('events_pruned', 'events_keep', 'events_erased', 'events_uids',
                                 'events_streams', 'events_partitions'))
    loop
        if made.owner <> keeper and not pg_has_role(made.owner, keeper, 'member') then
            raise exception using
                errcode = 'EP002',
                message = format('the %s belongs to %s, and the log to %s', made.name,
                                 made.owner::regrole, keeper::regrole),
                hint = format('Find out who made it. If it is right: alter %s owner to %s;',
                              made.name, keeper::regrole);
        elsif made.owner <> keeper and made.moves then
            begin
                execute format('alter %s owner to %s', made.name, keeper::regrole);
            exception when insufficient_privilege then
                raise notice 'the % stays with %', made.name, made.owner::regrole;
            end;
        end if;
    end loop;

    -- The owner of the log attaches them when it is partitioned.
    for made in
        select p.oid::regprocedure as name from pg_proc p
         where p.pronamespace = schema and starts_with(p.proname::text, 'event_piper_') and p.prosecdef
    loop
        execute format('revoke execute on function %s from public', made.name);
        execute format('grant execute on function %s to %s', made.name, keeper::regrole);
    end loop;
    perform set_config('search_path', outside, true);
end
$migration$;

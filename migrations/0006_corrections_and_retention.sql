-- What is done to the log after it was written: corrections, which are events themselves; pruning; and
-- erasure, which takes out what was said and leaves that something was said.

-- A correction names the earlier event that it amends, and its payload is the patch: a JSON array is a
-- JSON Patch (RFC 6902), anything else a merge patch (RFC 7396). Both events stay as they are;
-- whoever asks with `amended=true` is shown the payload as corrected.
alter table events add column amends bigint;
comment on column events.amends is
    'the earlier event whose payload this one corrects: by a JSON Patch when its own is an array, '
    'else by a merge patch';

-- How an event's corrections are found. Costs nothing to rows that correct nothing.
create index events_amends on events (amends, id) where amends is not null;

-- What a correction must be. It reads the event that it corrects with the rights of the table's owner,
-- since a writer may have the right to INSERT only; and being volatile, it sees what the same statement
-- has written so far.
create function event_piper_amends(
    amends bigint, id bigint, subscriber text, stream text, payload jsonb, log oid
) returns boolean language plpgsql security definer set search_path = pg_catalog, pg_temp
as $amends$
#variable_conflict use_variable
declare
    -- The log is beside the partition that the row is for.
    place constant name := (select relnamespace::regnamespace::text from pg_class where oid = log);
    target  record;
    refused text;
begin
    -- What is corrected or erased later was right when it was written.
    if current_setting('event_piper.prune', true) = 'on' then
        return true;
    end if;
    execute format('select subscriber, stream, amends from %s.events where id = $1', place)
       into target using amends;
    refused := case
        when target is null or amends >= id then
            format('there is no earlier event %s to amend', amends)
        when target.amends is not null then
            format('event %s is an amendment itself: amend %s', amends, target.amends)
        when (target.subscriber = subscriber) is not true
             and (target.stream = stream) is not true then
            format('event %s is of another subscriber and another stream', amends)
        when jsonb_typeof(payload) = 'array' and exists (
                 select from jsonb_array_elements(payload) step
                 where not coalesce(
                     step ->> 'op' in ('add', 'remove', 'replace', 'move', 'copy', 'test')
                     and step ->> 'path' ~ '^(/.*)?$'
                     and (step ->> 'op' not in ('add', 'replace', 'test') or step ? 'value')
                     and (step ->> 'op' not in ('move', 'copy') or step ->> 'from' ~ '^(/.*)?$'),
                     false)) then
            'the payload is an array, and no JSON Patch (RFC 6902)'
    end;
    if refused is null then
        -- So that reading an event as corrected is bounded. Writers that are at it at the same moment
        -- may exceed it by as many as they are.
        execute format('select ''there are %2$s amendments of event '' || $1 '
                       'where (select count(*) from (select from %1$s.events where amends = $1 '
                       'limit %2$s + 1) known) >= %2$s', place, 1000)
           into refused using amends;
    end if;
    if refused is not null then
        raise exception using
            errcode = 'check_violation', constraint = 'events_amends_an_event',
            message = format('refused this amendment: %s', refused);
    end if;
    return true;
end
$amends$;

-- The check of 0002, which asks for this, too. A trigger for it would cost each writer of an ordinary
-- event 5 us, for PostgreSQL reads its WHEN anew in each statement; this costs less than one.
alter table events drop constraint events_well_formed;
drop function event_piper_admits(text, text, text, bigint, xid8);
create function event_piper_admits(
    type text, subscriber text, stream text, version bigint, xid xid8,
    amends bigint, id bigint, payload jsonb, log oid
) returns boolean language plpgsql stable as $admits$
begin
    if type !~ '^$|^\$|[[:cntrl:]]' and pg_catalog.octet_length(type) <= 1024
       and (subscriber is null
            or subscriber !~ '^$|[[:cntrl:]]' and pg_catalog.octet_length(subscriber) <= 1024)
       and (stream is null and version is null and subscriber is not null
            or version >= 1 and stream !~ '^$|[[:cntrl:]]'
               and pg_catalog.octet_length(stream) <= 1024)
       and xid = pg_catalog.pg_current_xact_id() and amends is null
    then
        return true;
    end if;

    declare
        refused constant text := case
            when type = '' then 'type is empty'
            when subscriber = '' then 'subscriber is empty'
            when stream = '' then 'stream is empty'
            when type ~ '^\$' then 'type begins with $: such names are the gateway''s own'
            when type ~ '[[:cntrl:]]' then 'type contains a control character'
            when subscriber ~ '[[:cntrl:]]' then 'subscriber contains a control character'
            when stream ~ '[[:cntrl:]]' then 'stream contains a control character'
            when pg_catalog.octet_length(type) > 1024 then 'type is longer than 1024 bytes'
            when pg_catalog.octet_length(subscriber) > 1024 then 'subscriber is longer than 1024 bytes'
            when pg_catalog.octet_length(stream) > 1024 then 'stream is longer than 1024 bytes'
            when (stream is null) <> (version is null) then 'stream and version belong together'
            when stream is null and subscriber is null then 'neither subscriber nor stream is given'
            when version < 1 then 'version counts from 1'
            -- Who loads rows from elsewhere, or corrects one, says so as for pruning (see
            -- append-only). roles.sql keeps writers from giving an xid at all.
            when xid <> pg_catalog.pg_current_xact_id()
                 and pg_catalog.current_setting('event_piper.prune', true) is distinct from 'on'
            then 'xid is given by the database, not by the writer'
        end;
    begin
        if refused is not null then
            raise exception using
                errcode = 'check_violation', constraint = 'events_well_formed',
                message = pg_catalog.format('refused this event: %s', refused);
        end if;
    end;
    return amends is null or event_piper_amends(amends, id, subscriber, stream, payload, log);
end
$admits$;
alter table events add constraint events_well_formed
    check (event_piper_admits(type, subscriber, stream, version, xid, amends, id, payload, tableoid))
    not valid;

-- Streams that stay: `event-piper prune` leaves their events alone.
create table events_keep (
    -- A stream's name; * stands for any characters, none included.
    stream text primary key check (stream <> ''),
    reason text,
    since  timestamptz not null default now()
);
comment on table events_keep is 'EventPiper: the streams that are never pruned; * stands for anything';

-- Whose events were changed after they were written, which is to say erased. Gateways read this
-- once a second, and let go of what they keep of these in memory.
create table events_erased (
    -- Whose; '' for those that had no subscriber ...
    subscriber text unique,
    -- ... or the stream, where that was erased as a whole.
    stream     text unique,
    -- The greatest id of theirs that was changed.
    upto       bigint not null,
    erased_at  timestamptz not null default now(),
    xid        xid8 not null default pg_catalog.pg_current_xact_id(),
    check (num_nonnulls(subscriber, stream) = 1)
);
create index events_erased_xid on events_erased (xid);
comment on table events_erased is
    'EventPiper: whose events were erased, or changed in another way, up to which id, and when';

-- In one order everywhere, so that sessions that change rows at the same time cannot deadlock here.
create function event_piper_remember_changed() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $remember_changed$
begin
    execute format(
        'insert into %I.events_erased as known (subscriber, upto) '
        'select coalesce(subscriber, ''''), max(id) '
        'from (select subscriber, id from was union all select subscriber, id from became) changed '
        'group by 1 order by 1 '
        'on conflict (subscriber) do update '
        'set upto = greatest(known.upto, excluded.upto), erased_at = excluded.erased_at, '
        'xid = excluded.xid', tg_table_schema);
    return null;
end
$remember_changed$;

create trigger events_remember_changed after update on events
    referencing old table as was new table as became
    for each statement execute function event_piper_remember_changed();
alter table events enable always trigger events_remember_changed;

-- One more of the doorbell's locks (see 0003): 6 PRUNE, held by the one who prunes.
